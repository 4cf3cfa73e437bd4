"""What kind of record a raw row is, and how one kind is read as another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Literal, Protocol, TypeAlias

from preftune.data.comparisons import UNDECIDED, VOTES, comparison_from_row, pair_of_comparison, sides_of
from preftune.data.demonstration_shapes import demonstration_from_row, refuse_unspoken
from preftune.data.label_shapes import label_from_row
from preftune.data.prompt_shapes import prompt_beside_answers, prompt_from_row
from preftune.data.records import Comparison, Demonstration, Label, Pair, PromptRecord
from preftune.data.row_parts import RowProblem, row_of
from preftune.data.shapes import pair_from_row, pairs_from_group
from preftune.errors import PreftuneError

Kind: TypeAlias = Literal["pair", "comparison", "label", "demonstration", "group", "prompt"]

UNDESIRABLE = "undesirable"  # the reason of labels that are no demonstration


def kind_of_row(row: object) -> Kind | None:
    """The kind whose columns the row has; None where it has those of none."""
    if not isinstance(row, dict | Mapping):  # dict first, for asking what is a Mapping takes longer
        return next((kind for record, kind in _KINDS.items() if isinstance(row, record)), None)
    if row.get("chosen") is not None or row.get("rejected") is not None:
        return "pair"
    given = {name for name in _TELLING if row.get(name) is not None}
    if "completions" in given and given & {"ranks", "ranked"}:
        return "group"
    if "completion" in given and "label" in row:
        return "label"
    if sides_of(row):
        return "comparison"
    if given & {"completion", "messages", "text"}:
        return "demonstration"
    return "prompt" if "prompt" in given else None


def pairs_of_row(row: object) -> tuple[Pair, ...]:
    """The pair of a row, the pairs of a group of ranked answers, or that of a comparison by the majority of votes."""
    kind = kind_of_row(row)
    if isinstance(row, Mapping) and kind == "group":
        return pairs_from_group(row)
    return (_pair(row, kind),)


def comparisons_of_row(row: object) -> tuple[Comparison, ...]:
    """The comparison of a row."""
    return (comparison_from_row(row),)


def labels_of_row(row: object) -> tuple[Label, ...]:
    """The label of a row, or two of a pair: the chosen answer is desirable, the rejected one is not."""
    kind = kind_of_row(row)
    if kind not in ("pair", "comparison"):
        return (label_from_row(row),)
    pair = _pair(row, kind)
    return _label_of_side(pair, "chosen"), _label_of_side(pair, "rejected")


def demonstrations_of_row(row: object) -> tuple[Demonstration, ...]:
    """The demonstration of a row; of a pair the chosen answer, of a label the answer where it is desirable."""
    kind = kind_of_row(row)
    if kind in ("pair", "comparison"):
        pair = _pair(row, kind)
        refuse_unspoken(pair.chosen, "chosen")
        return (_demonstration(pair, pair.chosen, _pair_meta(pair)),)
    if kind == "label":
        label = label_from_row(row)
        refuse_unspoken(label.completion, "completion")
        if not label.label:
            mend = "Nothing is learned from undesirable answers here; `preftune kto` learns from both kinds."
            raise RowProblem(UNDESIRABLE, "label", mend)
        return (_demonstration(label, label.completion, label.meta),)
    return (demonstration_from_row(row),)


def prompts_of_row(row: object) -> tuple[PromptRecord, ...]:
    """The prompt of a row, alone or beside answers; of a demonstration what stands before the first answer."""
    kind = kind_of_row(row)
    if kind is None or kind == "prompt":
        return (prompt_from_row(row),)
    row = _unnamed(row) if isinstance(row, Pair | Comparison | Label | Demonstration) else row_of(row, "prompt")
    if kind == "group" or (kind == "demonstration" and _has_prompt_and_text(row)):
        return (prompt_beside_answers(prompt_from_row(row).prompt, row),)
    if kind == "pair":
        return (prompt_beside_answers(pair_from_row(row).prompt, row),)
    if kind == "comparison":
        beside = {name: value for name, value in row.items() if name not in (sides_of(row) or ()) and name not in VOTES}
        return (prompt_beside_answers(comparison_from_row(row).prompt, beside),)
    if kind == "label":
        return (prompt_beside_answers(label_from_row(row).prompt, row),)
    shown = demonstration_from_row(row)
    if shown.is_plain_text:
        raise RowProblem("empty-prompt", "text", "Plain text has no prompt; give what is asked in a column prompt.")
    return (prompt_beside_answers(shown.prompt, row),)


def conversion_notes(
    wanted: Kind, rows: Counter[Kind | None], records: Counter[Kind | None], reasons: Mapping[str, int]
) -> tuple[str, ...]:
    """What was read as something else, a sentence each.

    ``rows`` are the rows used and ``records`` what they gave, by kind of row; ``reasons`` count the rows left out.
    """
    notes: list[str] = []
    undesirable = reasons.get(UNDESIRABLE, 0)
    if wanted in ("pair", "label", "demonstration") and rows["comparison"]:
        undecided = sum(reasons.get(reason, 0) for reason in UNDECIDED)
        noun = _count(records["comparison"], wanted)
        notes.append(
            f"Read {noun} from {_count(rows['comparison'], 'comparison')} by the majority of votes; "
            f"left {undecided:,} without a majority out."
        )
    if wanted == "pair" and rows["group"]:
        pairs = _count(records["group"], "pair")
        notes.append(f"Read {pairs} from {_count(rows['group'], 'group')} of ranked answers.")
    if wanted == "label" and rows["pair"]:
        labels = _count(records["pair"], "label")
        notes.append(f"Read {labels} from {_count(rows['pair'], 'pair')}: chosen is true, rejected false.")
    if wanted == "demonstration" and rows["pair"]:
        shown = _count(records["pair"], "demonstration")
        notes.append(f"Read {shown} from pairs: the chosen answers.")
    if wanted == "demonstration" and (rows["label"] or undesirable):
        shown = _count(records["label"], "demonstration")
        notes.append(f"Read {shown} from labels: the desirable answers; left {undesirable:,} undesirable out.")
    if wanted == "prompt":
        notes += _prompt_notes(rows, records)
    return tuple(notes)


def wrong_kind(wanted: Kind, kinds: Counter[Kind | None], where: str, first_mend: str = "") -> PreftuneError | None:
    """What to say where all rows are records of one other kind that cannot be read as ``wanted``; else None.

    ``first_mend`` is what helps the first of them, where only the names of its columns may be amiss.
    """
    if len(kinds) != 1:
        return None
    (found,) = kinds
    if found is None or (wanted, found) not in _MENDS:
        return None
    has = _HAS.get(found, "an answer to learn from")
    lacks = _LACKS[wanted]
    rows = "the one row has" if kinds[found] == 1 else f"each of {kinds[found]:,} rows has"
    noun = {"group": "groups of ranked answers"}.get(found, f"{found}s")
    mend = _MENDS[wanted, found]
    return PreftuneError(
        f"These are {noun}, not {wanted}s: {rows} {has}, and no {lacks}.",
        where=where,
        mend=f"{first_mend} {mend}".lstrip() if found == "prompt" else mend,
    )


class _Judged(Protocol):
    @property
    def label(self) -> bool: ...


def one_sided(labels: Iterable[_Judged], where: str | None = None) -> PreftuneError | None:
    """What to say where all labels are true, or all false, so that nothing tells good from bad; else None."""
    counts = Counter(each.label for each in labels)
    if len(counts) != 1:
        return None
    ((label, n),) = counts.items()
    if label:
        return PreftuneError(
            f"All labels are true ({n:,} of them): there is no undesirable answer.",
            where=where,
            mend="Add rows with label false, or learn from the good ones alone with `preftune sft`.",
        )
    return PreftuneError(
        f"All labels are false ({n:,} of them): there is no desirable answer.",
        where=where,
        mend="Add rows with label true: from bad answers alone a model learns only what to avoid.",
    )


def _pair(row: object, kind: Kind | None) -> Pair:
    return pair_of_comparison(comparison_from_row(row)) if kind == "comparison" else pair_from_row(row)


def _label_of_side(pair: Pair, side: Literal["chosen", "rejected"]) -> Label:
    return Label(
        prompt=pair.prompt,
        completion=getattr(pair, side),
        label=side == "chosen",
        id=f"{pair.id}/{side}",
        source=pair.source,
        confidence=pair.confidence,
        meta=_pair_meta(pair),
    )


def _demonstration(record: Pair | Label, completion: Any, meta: dict[str, Any]) -> Demonstration:
    return Demonstration(
        prompt=record.prompt,
        completion=completion,
        id=record.id,
        source=record.source,
        confidence=record.confidence,
        meta=meta,
    )


def _unnamed(record: Pair | Comparison | Label | Demonstration) -> dict[str, Any]:
    """The record as a row, without an id that is only the hash of its contents."""
    row = record.as_row()
    return row if "id" in record.model_fields_set else {name: row[name] for name in row if name != "id"}


def _has_prompt_and_text(row: Mapping[Any, Any]) -> bool:
    return row.get("prompt") is not None and row.get("completion") is None and row.get("messages") is None


def _prompt_notes(rows: Counter[Kind | None], records: Counter[Kind | None]) -> list[str]:
    """Where prompts came from, and how many rows asked again what another had asked."""
    notes = [
        f"Read {_count(records[kind], 'prompt')} from {_count(rows[kind], kind)}: the same prompt is read once."
        for kind in _WITH_ANSWERS
        if rows[kind]
    ]
    repeated = rows["prompt"] - records["prompt"]
    if repeated:
        rows_repeat = "row repeats" if repeated == 1 else "rows repeat"
        notes.append(f"{repeated:,} {rows_repeat} a prompt with the same columns, which is read once.")
    return notes


def _pair_meta(pair: Pair) -> dict[str, Any]:
    """The pair's meta, with what is said of pairs only."""
    row = pair.as_row()
    return {name: row[name] for name in ("annotators", "margin") if name in row} | pair.meta


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


_TELLING = ("completion", "completions", "ranks", "ranked", "messages", "text", "prompt")
_KINDS: dict[type, Kind] = {
    Pair: "pair",
    Comparison: "comparison",
    Label: "label",
    Demonstration: "demonstration",
    PromptRecord: "prompt",
}
_HAS = {
    "pair": "chosen and rejected",
    "label": "a completion and a label",
    "group": "ranked completions",
    "prompt": "a prompt",
}
_LACKS = {
    "pair": "chosen and rejected",
    "comparison": "response_1 and response_2",
    "label": "label",
    "demonstration": "single completion",
}
_WITH_ANSWERS: tuple[Kind, ...] = ("pair", "comparison", "label", "demonstration", "group")
_IN_ONE_ROW = "for pairs put a better and a worse answer to the same prompt in one row, as chosen and rejected."
_RANKED = "Train on them with `preftune reward`, which reads every two answers as a pair"
_PROMPTS_ALONE = "On prompts alone train with `preftune grpo`, which samples the answers itself and has them rewarded."
_COMPARED = "For comparisons put two answers to a prompt in one row, as response_1 and response_2, with annotators."
_MENDS: dict[tuple[Kind, Kind], str] = {
    ("pair", "label"): f"Train on them with `preftune kto`; {_IN_ONE_ROW}",
    ("pair", "demonstration"): f"Train on them with `preftune sft`; {_IN_ONE_ROW}",
    ("label", "demonstration"): "Train on them with `preftune sft`, or add a column label: true for a good answer.",
    ("label", "group"): f"{_RANKED}, or give each answer a row with a label.",
    ("demonstration", "group"): f"{_RANKED}, or give the best answers as completion.",
    ("pair", "prompt"): _PROMPTS_ALONE,
    ("label", "prompt"): _PROMPTS_ALONE,
    ("demonstration", "prompt"): _PROMPTS_ALONE,
    **{("comparison", kind): _COMPARED for kind in ("pair", "label", "demonstration", "group", "prompt")},
}
