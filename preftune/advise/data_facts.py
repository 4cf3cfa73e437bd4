"""What the data are: kind, size, lengths, agreement, noise, and whether answers can be checked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any, Final, Literal, TypeAlias

import numpy as np

from preftune.audit.findings import Finding, Share, share_of
from preftune.data.kinds import Kind, kind_of_row
from preftune.data.read import read_demonstrations, read_prompts, rows_of
from preftune.data.records import Comparison, Demonstration, Label, Pair, PromptRecord, readable_text
from preftune.data.split import prompt_key
from preftune.errors import PreftuneError
from preftune.rewards.answers_in_text import read_expected
from preftune.rewards.functions import ANSWER_COLUMNS

LOOKED_AT: Final = 2_000  # records whose texts are read; of more, so many at random
CHARACTERS_A_TOKEN: Final = 4.0  # where no tokenizer counts them; English in the vocabularies of current models
_KIND_BY: Final = 1_000  # rows by which the kind is told
_FEWEST_VOTED: Final = 30

DataKind: TypeAlias = Literal["pair", "label", "demonstration", "prompt"]
# The tokens of an item: those of its prompt, then of each completion.
Lengths: TypeAlias = tuple[int, ...]


@dataclass(frozen=True)
class DataFacts:
    """What the data are; shares are None where nothing tells, never guessed.

    ``records`` are what a method would train on, ``prompts`` how many different ones they have. ``lengths`` are those
    of a sample, in tokens; ``counted`` is False where they are estimated from characters. ``noise`` is the share of
    flipped labels that held-out evidence points to, ``evidence`` how often that evidence agrees with the labels.
    ``held_out`` are the rows of the evaluation data, None where there are none. ``undecided`` is the share of
    comparisons without a winner. ``findings`` are the audit's.
    """

    source: str
    kind: DataKind
    read: int
    rejected: Mapping[str, int]
    records: int
    prompts: int
    conversational: float
    lengths: tuple[Lengths, ...]
    counted: bool
    noise: Share | None
    evidence: Share | None
    agreement: Share | None
    longer_wins: Share | None
    desirable: Share | None
    checkable: Share | None
    duplicates: float
    contradictions: float
    leaked_prompts: int | None
    held_out: int | None
    undecided: float
    has_confidence: bool
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """As JSON takes it, the sampled lengths as percentiles."""
        return {**asdict(self), "lengths": self.length_percentiles()}

    def length_percentiles(self) -> dict[str, dict[str, float]]:
        """Median, 95% and 99% points of the tokens of prompts, of completions, and of the two together."""
        if not self.lengths:
            return {}
        prompts = [one[0] for one in self.lengths]
        completions = [length for one in self.lengths for length in one[1:]]
        together = [one[0] + length for one in self.lengths for length in one[1:]] or prompts
        named = {"prompt": prompts, "completion": completions, "together": together}
        return {
            name: {str(q): float(np.percentile(values, q)) for q in (50, 95, 99)}
            for name, values in named.items()
            if values
        }


def read_data(
    source: object,
    *,
    eval_data: object = None,
    tokenizer: Any = None,
    split: str = "train",
    eval_split: str = "test",
    limit: int | None = None,
    seed: int = 0,
) -> DataFacts:
    """The facts of pairs, comparisons, labels, demonstrations or prompts; PreftuneError where nothing can be read."""
    kind = _kind(source, split)
    if kind in ("demonstration", "prompt"):
        return _of_unjudged(source, kind, tokenizer, split, limit, seed)
    return _of_judged(source, eval_data, tokenizer, split, eval_split, limit, seed)


def checkable(record: PromptRecord) -> bool:
    """True for a prompt beside which stands an answer that a rule can check: a number, a choice, yes or no."""
    given = next((record.columns[name] for name in ANSWER_COLUMNS if record.columns.get(name) not in (None, "")), None)
    answers = given if isinstance(given, list) else [given]
    return any(_is_checkable(one) for one in answers if one is not None)


def _is_checkable(answer: Any) -> bool:
    if isinstance(answer, bool | int | float):
        return True
    read = read_expected(str(answer))
    return read.quantity is not None or read.choice is not None or read.verdict is not None


def _kind(source: object, split: str) -> Kind:
    """The kind of most of the first rows; PreftuneError where there are none."""
    rows = list(islice(rows_of(source, split), _KIND_BY))
    kinds: Counter[Kind | None] = Counter(kind_of_row(row.value) for row in rows if not row.problem)
    known: list[tuple[int, Kind]] = [(count, kind) for kind, count in kinds.items() if kind is not None]
    if not known:
        what = "The data has no rows." if not rows else "No row is a pair, a label, a demonstration or a prompt."
        mend = "docs/data.md lists the columns that are understood, such as prompt, chosen and rejected."
        raise PreftuneError(what, where=str(source)[:200], mend=mend)
    most = max(known)[1]
    return "pair" if most == "group" else most


# --- pairs, comparisons and labels ----------------------------------------------------------------------


def _of_judged(
    source: object, eval_data: object, tokenizer: Any, split: str, eval_split: str, limit: int | None, seed: int
) -> DataFacts:
    from preftune.audit.agreement import audit_agreement
    from preftune.audit.basics import audit_basics
    from preftune.audit.material import Material, sampled_places
    from preftune.audit.scan import scan

    found = scan(source, split=split, limit=limit)
    evaluation = None if eval_data is None else scan(eval_data, kind=found.kind, split=eval_split)
    material = Material(found, sampled_places(found, LOOKED_AT, seed), seed, evaluation)
    basics = audit_basics(found, evaluation)
    is_label = found.kind == "label"
    findings, notes = list(basics.findings), list(found.notes)
    noise = evidence = agreement = None
    if not is_label:
        try:
            mislabelled = material.mislabelled
            noise, evidence = mislabelled.rate, mislabelled.accuracy
            findings += mislabelled.findings
        except PreftuneError as error:
            notes.append(f"Wrong labels were not looked for: {error}")
        if len(material.votes) and int((material.votes.counts().sum(axis=1) >= 2).sum()) >= _FEWEST_VOTED:
            voted = audit_agreement(material.votes, seed=seed)
            agreement = voted.agreement
            findings += voted.findings
    records = _sample_records(material.records if is_label else material.pairs)
    if not records:
        raise PreftuneError("No comparison has a winner.", where=found.name, mend="Collect votes: preftune annotate.")
    lengths, counted = item_lengths(records, tokenizer, notes)
    decided = len(found) if is_label else int((found.columns.verdict != 0).sum())
    return DataFacts(
        source=found.name,
        kind="label" if is_label else "pair",
        read=found.read,
        rejected=dict(found.reasons),
        records=decided,
        prompts=basics.distinct_prompts,
        conversational=basics.conversational / max(1, len(found)),
        lengths=lengths,
        counted=counted,
        noise=noise,
        evidence=evidence if evidence is not None and evidence.value is not None else None,
        agreement=agreement if agreement is not None and agreement.value is not None else None,
        longer_wins=basics.longer_wins,
        desirable=basics.desirable,
        checkable=None,
        duplicates=basics.duplicates / max(1, len(found)),
        contradictions=basics.contradictions / max(1, len(found)),
        leaked_prompts=basics.leaked_prompts,
        held_out=None if evaluation is None else len(evaluation),
        undecided=1 - decided / max(1, len(found)),
        has_confidence=any(getattr(record, "confidence", None) is not None for record in records),
        findings=tuple(findings),
        notes=tuple(notes),
    )


def _sample_records(records: Iterable[Any]) -> list[Pair | Label]:
    return [record for record in records if isinstance(record, Pair | Label)]


# --- demonstrations and prompts ---------------------------------------------------------------------------


def _of_unjudged(source: object, kind: Kind, tokenizer: Any, split: str, limit: int | None, seed: int) -> DataFacts:
    prompts = read_prompts(source, split=split, limit=limit)
    draw = np.random.default_rng(seed)
    asked = [prompts.records[i] for i in _some(len(prompts.records), draw)]
    right = sum(checkable(record) for record in asked)
    what = "Prompts beside which stands a number, a choice or a yes or no in a column that `accuracy` reads."
    share = share_of(right, len(asked), "Answers that a rule can check", what)
    notes = list(prompts.notes)
    shown: list[Demonstration | PromptRecord]
    if kind == "demonstration":
        reading = read_demonstrations(source, split=split, limit=limit)
        shown = [reading.records[i] for i in _some(len(reading.records), draw)]
        read, rejected, records = reading.read, reading.reasons(), len(reading.records)
        different = len({prompt_key(one) for one in reading.records})
        notes = [*reading.notes]
    else:
        shown = list(asked)
        read, rejected, records = prompts.read, prompts.reasons(), len(prompts.records)
        different = len({prompt_key(one) for one in prompts.records})
    lengths, counted = item_lengths(shown, tokenizer, notes)
    return DataFacts(
        source=prompts.source,
        kind="demonstration" if kind == "demonstration" else "prompt",
        read=read,
        rejected=rejected,
        records=records,
        prompts=different,
        conversational=sum(not isinstance(one.prompt, str) for one in shown) / max(1, len(shown)),
        lengths=lengths,
        counted=counted,
        noise=None,
        evidence=None,
        agreement=None,
        longer_wins=None,
        desirable=None,
        checkable=share if right else None,
        duplicates=0.0,
        contradictions=0.0,
        leaked_prompts=None,
        held_out=None,
        undecided=0.0,
        has_confidence=False,
        findings=(),
        notes=tuple(notes),
    )


def _some(n: int, draw: np.random.Generator) -> list[int]:
    return list(range(n)) if n <= LOOKED_AT else sorted(draw.choice(n, LOOKED_AT, replace=False).tolist())


# --- lengths ------------------------------------------------------------------------------------------------


def item_lengths(records: Sequence[Any], tokenizer: Any, notes: list[str]) -> tuple[tuple[Lengths, ...], bool]:
    """The tokens of each record's parts, and whether they were counted; else characters over four, with a note."""
    if tokenizer is not None and records:
        try:
            return _counted(records, tokenizer), True
        except PreftuneError as error:
            notes.append(f"Tokens are estimated from characters: {error}")
    elif records:
        notes.append("Tokens are estimated from characters, four to one; with --model its tokenizer counts them.")
    return tuple(tuple(_estimated(part) for part in _parts(record)) for record in records), False


def _counted(records: Sequence[Any], tokenizer: Any) -> tuple[Lengths, ...]:
    from preftune.data.tokens import tokenize_demonstrations, tokenize_labels, tokenize_pairs, tokenize_prompts

    tokenize: Mapping[type, Callable[..., Any]] = {
        Pair: tokenize_pairs,
        Label: tokenize_labels,
        Demonstration: tokenize_demonstrations,
        PromptRecord: tokenize_prompts,
    }
    tokens = tokenize[type(records[0])](records, tokenizer)
    return tuple((len(one.prompt), *(len(each) for each in getattr(one, "completions", ()))) for one in tokens.records)


def _parts(record: Any) -> list[Any]:
    if isinstance(record, Pair):
        return [record.prompt, record.chosen, record.rejected]
    if isinstance(record, Comparison):
        return [record.prompt, record.response_1, record.response_2]
    return [record.prompt, record.completion] if hasattr(record, "completion") else [record.prompt]


def _estimated(part: Any) -> int:
    return max(1, round(len(readable_text(part or "")) / CHARACTERS_A_TOKEN))
