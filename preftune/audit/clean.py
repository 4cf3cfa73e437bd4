"""Data repaired: rows left out with their reason, labels turned or softened, lengths balanced."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from preftune.audit.basics import BasicAudit, audit_basics
from preftune.audit.label_confidence import label_confidences
from preftune.audit.material import BLOCK, Material
from preftune.audit.preference_model import Fit
from preftune.audit.row_reasons import DEFAULT, check_reasons, places_of
from preftune.audit.scan import records_at, scan
from preftune.data.read import RejectedRow
from preftune.data.records import Pair, Record, character_count
from preftune.durable import explained_errors
from preftune.errors import PreftuneError

UNCERTAIN: Final = "uncertain-label"
UNBALANCED: Final = "length-balance"
UNDECIDED: Final = "no-winner"


@dataclass(frozen=True)
class Repairs:
    """What is done; ``drop`` are reasons (``row_reasons``), the others probabilities that a label is right.

    Labels surer to be wrong than ``turn_below`` are turned; then those below ``min_confidence`` are left out.
    ``soft_labels`` writes the confidence into the rows, for ``use_confidence`` in training. ``balance_lengths``
    leaves out rows at random until the longer side wins half of the pairs, at large and small gaps alike.
    """

    drop: tuple[str, ...] = DEFAULT
    min_confidence: float | None = None
    turn_below: float | None = None
    soft_labels: bool = False
    balance_lengths: bool = False

    def __post_init__(self) -> None:
        check_reasons(self.drop)
        for name in ("min_confidence", "turn_below"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise PreftuneError(f"{name} is {value}.", mend="Give a probability, from 0 to 1.")
        if self.turn_below is not None and self.turn_below > 0.5:
            mend = "Give 0.5 or less: 0.1 turns labels that are wrong with probability 0.9."
            raise PreftuneError(f"turn_below is {self.turn_below}: labels likelier right than wrong.", mend=mend)

    @property
    def weighs_labels(self) -> bool:
        """True where it matters how sure labels are."""
        return self.min_confidence is not None or self.turn_below is not None or self.soft_labels


@dataclass(frozen=True)
class Cleaned:
    """What came of it: ``read`` = ``kept`` and all of ``left_out``, which are counted by reason.

    Of what is kept ``turned`` had their labels turned, ``softened`` have a confidence, and of ``unknown`` it is not
    known how sure they are.
    """

    output: str
    left_out_file: str
    read: int
    kept: int
    left_out: Mapping[str, int]
    turned: int
    softened: int
    unknown: int
    before: BasicAudit
    after: BasicAudit
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """The outcome as JSON can hold it."""
        values = {name: value for name, value in vars(self).items() if name not in ("before", "after")}
        return {**values, "before": self.before.as_dict(), "after": self.after.as_dict()}


def clean(
    data: object,
    output: Path,
    repairs: Repairs | None = None,
    *,
    eval_data: object = None,
    split: str = "train",
    eval_split: str = "test",
    limit: int | None = None,
    fit: Fit | None = None,
    seed: int = 0,
    advance: Callable[[int], object] | None = None,
) -> Cleaned:
    """Writes the rows that are kept to ``output`` and the others beside it, each with its reason; audits both.

    ``output`` has TRL's columns and ours: comparisons become the pairs that their votes decide. ``fit`` replaces the
    fast preference model where labels are judged. Raises PreftuneError where nothing can be read, or would be kept.
    """
    repairs = repairs or Repairs()
    unreadable: list[RejectedRow] = []
    found = scan(data, split=split, limit=limit, on_rejected=unreadable.append, advance=advance)
    evaluation = None if eval_data is None else scan(eval_data, kind=found.kind, split=eval_split)
    everywhere = np.arange(len(found), dtype=np.int64)
    material = Material(found, everywhere, seed, evaluation=evaluation, fit=fit)
    before = audit_basics(found, evaluation)
    plan = _planned(material, repairs)
    aside = left_out_file(output)
    counts = _write(material, plan, repairs, unreadable, output, aside)
    if not counts.kept:
        output.unlink(missing_ok=True)
        commonest = counts.left_out.most_common(1)[0][0]
        mend = f"See {aside}; most were left out for {commonest}."
        raise PreftuneError("Not one row would be kept.", where=found.name, mend=mend)
    after = audit_basics(scan(str(output)), evaluation)
    return Cleaned(
        output=str(output),
        left_out_file=str(aside),
        read=counts.kept + counts.left_out.total(),
        kept=counts.kept,
        left_out=dict(counts.left_out.most_common()),
        turned=counts.turned,
        softened=counts.softened,
        unknown=counts.unknown if repairs.weighs_labels else 0,
        before=before,
        after=after,
        notes=found.notes,
    )


def left_out_file(output: Path) -> Path:
    """Where the rows are written that are left out."""
    return output.with_name(f"{output.name.removesuffix('.jsonl')}.left-out.jsonl")


# --- what is to be done with each record --------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Plan:
    """By place: why a record is left out, whether its label is turned, and how sure the label then is."""

    reasons: Mapping[int, tuple[str, str]]
    is_turned: NDArray[np.bool_]
    confidence: NDArray[np.float64]


def _planned(material: Material, repairs: Repairs) -> _Plan:
    reasons: dict[int, tuple[str, str]] = {}
    for name in repairs.drop:
        for place, why in places_of(name, material).items():
            reasons.setdefault(place, (name, why))
    n = len(material.scan)
    confidence, is_turned = np.full(n, np.nan), np.zeros(n, dtype=bool)
    if repairs.weighs_labels:
        confidence = label_confidences(material, with_evidence=material.scan.kind != "label")
        if repairs.turn_below is not None:
            is_turned = confidence < repairs.turn_below
            confidence = np.where(is_turned, 1 - confidence, confidence)
        if repairs.min_confidence is not None:
            for place in np.flatnonzero(confidence < repairs.min_confidence).tolist():
                reasons.setdefault(place, (UNCERTAIN, f"its label is right with probability {confidence[place]:.2f}"))
    if repairs.balance_lengths:
        for place, why in _balanced(material, reasons, is_turned).items():
            reasons.setdefault(place, (UNBALANCED, why))
    return _Plan(reasons, is_turned, confidence)


def _balanced(material: Material, reasons: Mapping[int, object], is_turned: NDArray[np.bool_]) -> dict[int, str]:
    """The pairs to leave out so that the longer side wins as often as not in each quarter of the gaps."""
    if material.scan.kind == "label":
        raise PreftuneError("Labels have one answer each: there are no lengths to balance.", where="balance_lengths")
    entries = [(place, pair) for place, pair in zip(*material.decided, strict=True) if place not in reasons]
    gaps = np.array([character_count(pair.chosen) - character_count(pair.rejected) for _, pair in entries])
    places = np.array([place for place, _ in entries], dtype=np.int64)
    gaps = np.where(is_turned[places], -gaps, gaps) if len(places) else gaps
    draw = np.random.default_rng(material.seed)
    edges = np.quantile(np.abs(gaps[gaps != 0]), [0.25, 0.5, 0.75]) if (gaps != 0).any() else np.zeros(3)
    quarter = np.searchsorted(edges, np.abs(gaps))
    found: dict[int, str] = {}
    for number in range(4):
        sides = [np.flatnonzero((quarter == number) & (sign * gaps > 0)) for sign in (1, -1)]
        more, fewer = sorted(sides, key=len, reverse=True)
        surplus = draw.permutation(more)[: len(more) - len(fewer)]
        word = "longer" if more is sides[0] else "shorter"
        found |= {int(places[one]): f"the {word} side wins more often at such gaps" for one in surplus}
    return found


# --- writing --------------------------------------------------------------------------------------------


@dataclass
class _Counts:
    left_out: Counter[str]
    kept: int = 0
    turned: int = 0
    softened: int = 0
    unknown: int = 0


def _write(
    material: Material, plan: _Plan, repairs: Repairs, unreadable: list[RejectedRow], output: Path, aside: Path
) -> _Counts:
    """Both files, whole or not at all."""
    counts = _Counts(Counter(row.reason for row in unreadable))
    parts = output.with_name(f".{output.name}.part"), aside.with_name(f".{aside.name}.part")
    with explained_errors(output):
        output.parent.mkdir(parents=True, exist_ok=True)
        try:
            with parts[0].open("w", encoding="utf-8") as kept, parts[1].open("w", encoding="utf-8") as left_out:
                for row in unreadable:
                    left_out.write(_line(asdict(row)))
                for place, record in _in_turn(material):
                    row = _settled(place, record, material, plan, repairs, counts)
                    (left_out if "reason" in row else kept).write(_line(row))
            for part, final in zip(parts, (output, aside), strict=True):
                part.replace(final)
        finally:
            for part in parts:
                part.unlink(missing_ok=True)
    return counts


def _in_turn(material: Material) -> Iterator[tuple[int, Any]]:
    n = len(material.scan)
    for begin in range(0, n, BLOCK):
        places = np.arange(begin, min(begin + BLOCK, n))
        yield from zip(places.tolist(), records_at(material.scan, places), strict=True)


def _settled(
    place: int, record: Record, material: Material, plan: _Plan, repairs: Repairs, counts: _Counts
) -> dict[str, Any]:
    """The row as it is kept, or with the reason why it is not."""
    if place in plan.reasons:
        reason, why = plan.reasons[place]
        counts.left_out[reason] += 1
        return {"reason": reason, "why": why, **record.as_row()}
    is_label = material.scan.kind == "label"
    kept = record if is_label else material.pair_of(record)  # type: ignore[arg-type]
    if kept is None:
        counts.left_out[UNDECIDED] += 1
        return {"reason": UNDECIDED, "why": "its votes name no winner", **record.as_row()}
    counts.kept += 1
    confidence = float(plan.confidence[place])
    counts.unknown += bool(np.isnan(confidence))
    if plan.is_turned[place] and isinstance(kept, Pair):
        counts.turned += 1
        kept = _turned(kept)
    if repairs.soft_labels and not np.isnan(confidence):
        counts.softened += 1
        kept = kept.model_copy(update={"confidence": round(confidence, 4)})
    return kept.as_row()


def _turned(pair: Pair) -> Pair:
    """The pair the other way round; its id, votes and margin are about the old label, and stay in ``meta``."""
    old = {"id": pair.id, "annotators": [vote.as_row() for vote in pair.annotators] or None, "margin": pair.margin}
    meta = {**pair.meta, "turned": {name: value for name, value in old.items() if value is not None}}
    return Pair(prompt=pair.prompt, chosen=pair.rejected, rejected=pair.chosen, source=pair.source, meta=meta)


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False, default=str) + "\n"
