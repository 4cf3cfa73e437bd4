"""The audit that needs only the pairs: rows left out, lengths, duplicates, contradictions, leakage."""

from __future__ import annotations

import hashlib
import statistics
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias, TypeVar

from preftune.audit.findings import Finding, Share, count_of, share_of
from preftune.data.read import Reading
from preftune.data.records import Pair, character_count, normal_text
from preftune.data.split import leaked_prompts, prompt_key

ContentKey: TypeAlias = tuple[bytes, bytes, bytes]
Item = TypeVar("Item")

SMALL_DATA = 100  # pairs; below it an interval of a share is wider than 20 points
DUPLICATE_LIMIT, REJECTED_LIMIT, LENGTH_BIAS_LIMIT = (
    0.01,
    0.05,
    0.15,
)  # shares of rows; distance from one half


@dataclass(frozen=True)
class Spread:
    """How a length in characters is spread; the figures are None where there are no pairs."""

    n: int
    min: float | None
    p5: float | None
    median: float | None
    p95: float | None
    max: float | None


@dataclass(frozen=True)
class BasicAudit:
    """The figures of one data set; counts are pairs unless the name says otherwise.

    ``duplicates`` repeat an earlier pair; ``contradictions`` are comparisons labelled both ways;
    ``identical`` have two sides that say the same, used or left out; ``leaked_prompts`` are evaluation pairs
    whose prompt is in this data, None without evaluation data.
    """

    read: int
    used: int
    rejected: dict[str, int]
    lengths: dict[str, Spread]
    longer_wins: Share
    duplicates: int
    contradictions: int
    identical: int
    distinct_prompts: int
    conversational: int
    leaked_prompts: int | None
    findings: tuple[Finding, ...]

    def as_dict(self) -> dict[str, Any]:
        """The audit as JSON can hold it."""
        values = asdict(self)
        values["findings"] = [finding | {"rows": list(finding["rows"])} for finding in values["findings"]]
        return {name: value for name, value in values.items() if value is not None}


def audit_basics(reading: Reading, evaluation: Sequence[Pair] | None = None) -> BasicAudit:
    """What is wrong with the data at first sight; with ``evaluation``, also which of its prompts leak."""
    pairs = reading.records
    keys = [_content_key(pair) for pair in pairs]
    repeated = _repeated(pairs, keys)
    opposed = _opposed(pairs, keys)
    longer = _longer_wins(pairs)
    leaked = None if evaluation is None else leaked_prompts(pairs, evaluation)
    same_sides = sum(chosen == rejected for _, chosen, rejected in keys)
    findings = (
        _contradiction_finding(opposed),
        _leakage_finding(leaked or (), len(evaluation or ())),
        _rejected_finding(reading),
        _duplicate_finding(repeated, len(pairs)),
        _length_finding(longer),
        _size_finding(len(pairs)),
    )
    return BasicAudit(
        read=reading.read,
        used=len(pairs),
        rejected=reading.reasons(),
        lengths={name: _spread(pairs, name) for name in ("prompt", "chosen", "rejected")},
        longer_wins=longer,
        duplicates=len(repeated),
        contradictions=len(opposed),
        identical=same_sides + reading.reasons().get("identical-sides", 0),
        distinct_prompts=len({prompt_key(pair) for pair in pairs}),
        conversational=sum(pair.is_conversational for pair in pairs),
        leaked_prompts=None if leaked is None else len(leaked),
        findings=tuple(finding for finding in findings if finding is not None),
    )


def _content_key(pair: Pair) -> ContentKey:
    """Hashes of prompt, chosen and rejected after Unicode and white space are made equal."""
    texts = (normal_text(side) for side in (pair.prompt, pair.chosen, pair.rejected))
    prompt, chosen, rejected = (hashlib.blake2b(text.encode(), digest_size=16).digest() for text in texts)
    return prompt, chosen, rejected


def _repeated(pairs: Iterable[Pair], keys: Iterable[ContentKey]) -> list[Pair]:
    """The pairs that say what an earlier one said."""
    return [pair for group in _grouped(pairs, keys) for pair in group[1:]]


def _opposed(pairs: Sequence[Pair], keys: Sequence[ContentKey]) -> list[list[Pair]]:
    """The comparisons that were labelled both ways: same prompt, same two answers, each the winner once."""
    comparisons = [(prompt, frozenset(sides)) for prompt, *sides in keys]
    labels = _grouped(keys, comparisons)
    rows = _grouped(pairs, comparisons)
    return [group for group, label in zip(rows, labels, strict=True) if len(set(label)) > 1]


def _grouped(items: Iterable[Item], keys: Iterable[Hashable]) -> list[list[Item]]:
    groups: dict[Hashable, list[Item]] = {}
    for item, key in zip(items, keys, strict=True):
        groups.setdefault(key, []).append(item)
    return list(groups.values())


def _longer_wins(pairs: Iterable[Pair]) -> Share:
    gaps = [character_count(pair.chosen) - charactercount_of(pair.rejected) for pair in pairs]
    signs = Counter((gap > 0) - (gap < 0) for gap in gaps)
    wins, n = signs[1], signs[1] + signs[-1]
    title = "The longer answer wins"
    explanation = (
        f"Share of pairs whose chosen answer has more characters than the rejected one; "
        f"{signs[0]:,} of equal length are left out. Near 50% length says nothing, near 100% everything."
    )
    return share_of(wins, n, title, explanation)


def _spread(pairs: Sequence[Pair], name: str) -> Spread:
    lengths = sorted(character_count(getattr(pair, name)) for pair in pairs)
    if not lengths:
        return Spread(0, None, None, None, None, None)
    # Linear between neighbours, as numpy's percentile; a single length is all its own percentiles.
    cuts = statistics.quantiles(lengths if len(lengths) > 1 else lengths * 2, n=20, method="inclusive")
    return Spread(len(lengths), lengths[0], cuts[0], statistics.median(lengths), cuts[-1], lengths[-1])


def _contradiction_finding(opposed: Sequence[Sequence[Pair]]) -> Finding | None:
    if not opposed:
        return None
    rows = _ids(pair for group in opposed for pair in group)
    return Finding(
        id="contradictions",
        severity="error",
        title="Comparisons labelled both ways",
        what="The same prompt with the same two answers occurs with either answer as the winner.",
        evidence=f"{count_of(len(opposed), 'comparison')} in {len(rows):,} rows.",
        rows=rows,
        remedy="Keep the label that most annotators gave, or leave these rows out.",
    )


def _leakage_finding(leaked: Sequence[Pair], evaluated: int) -> Finding | None:
    if not leaked:
        return None
    return Finding(
        id="leaked-prompts",
        severity="error",
        title="Evaluation prompts in the training data",
        what="Prompts of the evaluation set also occur in training, so its accuracy measures memory too.",
        evidence=f"{len(leaked):,} of {count_of(evaluated, 'evaluation pair')}.",
        rows=_ids(leaked),
        remedy="Split by prompt, or take these pairs out of the evaluation set.",
    )


def _rejected_finding(reading: Reading) -> Finding | None:
    left_out = len(reading.rejected)
    if left_out <= REJECTED_LIMIT * reading.read:
        return None
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in reading.reasons().items())
    return Finding(
        id="many-rejected",
        severity="warning",
        title="Many rows cannot be used",
        what="More than one row in twenty was left out; what remains may not be what was collected.",
        evidence=f"{left_out:,} of {count_of(reading.read, 'row')}: {reasons}.",
        rows=tuple(row.where for row in reading.rejected),
        remedy=f"Mend the commonest reason first. {_first_mend(reading)}",
    )


def _first_mend(reading: Reading) -> str:
    commonest = next(iter(reading.reasons()))
    first = next(row for row in reading.rejected if row.reason == commonest)
    return f"At {first.where}: {first.mend}"


def _duplicate_finding(repeated: Sequence[Pair], pairs: int) -> Finding | None:
    if len(repeated) <= DUPLICATE_LIMIT * pairs:
        return None
    return Finding(
        id="duplicates",
        severity="warning",
        title="Repeated pairs",
        what="Pairs that repeat an earlier one weigh more than the others in training.",
        evidence=f"{len(repeated):,} of {count_of(pairs, 'pair')} repeat an earlier one.",
        rows=_ids(repeated),
        remedy="Keep the first of each.",
    )


def _length_finding(longer: Share) -> Finding | None:
    if longer.value is None or longer.low is None or longer.high is None:
        return None
    is_clear = not longer.low <= 0.5 <= longer.high
    if not is_clear or abs(longer.value - 0.5) <= LENGTH_BIAS_LIMIT:
        return None
    side = "longer" if longer.value > 0.5 else "shorter"
    return Finding(
        id="length-shortcut",
        severity="warning",
        title=f"The {side} answer usually wins",
        what=f"A model can lower its loss by writing {side} answers without writing better ones.",
        evidence=(
            f"The longer answer wins {longer.value:.1%} of {count_of(longer.n, 'pair')} "
            f"(95% interval {longer.low:.1%} to {longer.high:.1%})."
        ),
        rows=(),
        remedy="Train with a length-normalised loss, balance the lengths, and watch the completions' length.",
    )


def _size_finding(pairs: int) -> Finding | None:
    if pairs >= SMALL_DATA:
        return None
    return Finding(
        id="small-data",
        severity="warning",
        title="Few pairs",
        what="With so few pairs a model learns them by heart, and no accuracy can be told from chance.",
        evidence=f"{count_of(pairs, 'pair')}; a few hundred are the least that is useful.",
        rows=(),
        remedy="Collect more pairs, or take the result as a trial only.",
    )


def _ids(pairs: Iterable[Pair]) -> tuple[str, ...]:
    return tuple(pair.id for pair in pairs)
