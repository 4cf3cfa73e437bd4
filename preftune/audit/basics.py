"""The audit that needs no text: rows left out, empty sides, lengths, duplicates, contradictions, leaked prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preftune.audit.basic_findings import Facts, basic_findings
from preftune.audit.columns import FIRST, NEITHER, PARTS, Audited, AuditedKind, Columns, columns_of, mixed
from preftune.audit.documents import finding_document
from preftune.audit.findings import Finding, Share, share_of
from preftune.audit.scan import Scan, scan_of_reading
from preftune.data.read import Reading


@dataclass(frozen=True)
class Spread:
    """How a length in characters is spread; the figures are None where there are no records."""

    n: int
    min: float | None
    p5: float | None
    median: float | None
    p95: float | None
    max: float | None


@dataclass(frozen=True)
class BasicAudit:
    """The figures of one data set; counts are records unless the name says otherwise.

    ``read`` and ``rejected`` count rows. ``duplicates`` repeat an earlier record; ``contradictions`` are comparisons,
    or of labels answers, labelled both ways; ``identical`` have two sides that say the same and ``empty`` a side or
    prompt that says nothing, used or left out; ``leaked_prompts`` are evaluation records whose prompt is in this
    data, None without evaluation data. ``longer_wins`` is None of labels, ``desirable`` of all else.
    """

    kind: AuditedKind
    read: int
    used: int
    rejected: dict[str, int]
    lengths: dict[str, Spread]
    longer_wins: Share | None
    desirable: Share | None
    duplicates: int
    contradictions: int
    identical: int
    empty: int
    distinct_prompts: int
    conversational: int
    leaked_prompts: int | None
    findings: tuple[Finding, ...]

    def as_dict(self) -> dict[str, Any]:
        """The audit as JSON can hold it."""
        values = asdict(self) | {"findings": [finding_document(finding) for finding in self.findings]}
        return {name: value for name, value in values.items() if value is not None}


def audit_basics(data: Reading[Any] | Scan, evaluation: Sequence[Audited] | Scan | None = None) -> BasicAudit:
    """What is wrong with the data at first sight; with ``evaluation``, also which of its prompts leak."""
    scan = data if isinstance(data, Scan) else scan_of_reading(data)
    held_out = (
        evaluation.columns if isinstance(evaluation, Scan) else None if evaluation is None else columns_of(evaluation)
    )
    columns = scan.columns
    labelled, compared = labelled_hashes(columns, scan.kind), compared_hashes(columns, scan.kind)
    opposed, contradictions = opposed_places(labelled, compared, columns.verdict != NEITHER)
    leaked = None if held_out is None else np.flatnonzero(np.isin(held_out.asked, columns.asked))
    facts = Facts(
        scan=scan,
        longer_wins=None if scan.kind == "label" else _longer_wins(columns),
        desirable=_desirable(columns) if scan.kind == "label" else None,
        repeated=repeated_places(labelled),
        opposed=opposed,
        contradictions=contradictions,
        identical=identical_places(columns, scan.kind),
        empty=np.flatnonzero((columns.words[:, : len(PARTS[scan.kind])] == 0).any(axis=1)),
        leaked=() if held_out is None or leaked is None else held_out.ids.at(leaked),
        evaluated=0 if held_out is None else len(held_out),
    )
    return BasicAudit(
        kind=scan.kind,
        read=scan.read,
        used=len(columns),
        rejected=dict(scan.reasons),
        lengths={name: _spread(columns.characters[:, place]) for place, name in enumerate(PARTS[scan.kind])},
        longer_wins=facts.longer_wins,
        desirable=facts.desirable,
        duplicates=len(facts.repeated),
        contradictions=contradictions,
        identical=len(facts.identical) + _left_out(scan.reasons, "identical-sides"),
        empty=len(facts.empty) + _left_out(scan.reasons, "empty-prompt", "empty-completion"),
        distinct_prompts=len(np.unique(columns.asked)),
        conversational=int(columns.is_chat.sum()),
        leaked_prompts=None if leaked is None else len(leaked),
        findings=basic_findings(facts),
    )


def labelled_hashes(columns: Columns, kind: AuditedKind) -> NDArray[np.uint64]:
    """A hash a record of prompt, sides and verdict; which of two answers stands first does not count."""
    prompt, first, second = columns.parts.T
    verdict = columns.verdict.astype(np.uint64)
    if kind == "label":
        return mixed(prompt, first, verdict)
    is_decided, first_won = verdict != NEITHER, verdict == FIRST
    winner = np.where(is_decided, np.where(first_won, first, second), np.minimum(first, second))
    loser = np.where(is_decided, np.where(first_won, second, first), np.maximum(first, second))
    return mixed(prompt, winner, loser, is_decided.astype(np.uint64))


def compared_hashes(columns: Columns, kind: AuditedKind) -> NDArray[np.uint64]:
    """A hash a record of what was judged, whatever the verdict."""
    prompt, first, second = columns.parts.T
    return (
        mixed(prompt, first) if kind == "label" else mixed(prompt, np.minimum(first, second), np.maximum(first, second))
    )


def repeated_places(labelled: NDArray[np.uint64]) -> NDArray[np.intp]:
    """The places of records that say what an earlier one said."""
    _, first = np.unique(labelled, return_index=True)
    is_repeated = np.ones(len(labelled), dtype=bool)
    is_repeated[first] = False
    return np.flatnonzero(is_repeated)


def opposed_places(
    labelled: NDArray[np.uint64], compared: NDArray[np.uint64], is_decided: NDArray[np.bool_]
) -> tuple[NDArray[np.intp], int]:
    """The places of records that were labelled both ways, and how many comparisons they are."""
    _, one_each = np.unique(labelled[is_decided], return_index=True)
    values, labels = np.unique(compared[is_decided][one_each], return_counts=True)
    both_ways = values[labels > 1]
    return np.flatnonzero(np.isin(compared, both_ways) & is_decided), len(both_ways)


def identical_places(columns: Columns, kind: AuditedKind) -> NDArray[np.intp]:
    if kind == "label":
        return np.empty(0, dtype=np.intp)
    return np.flatnonzero(columns.parts[:, 1] == columns.parts[:, 2])


def _longer_wins(columns: Columns) -> Share:
    gaps = columns.characters[:, 1].astype(np.int64) - columns.characters[:, 2]
    signs = np.sign(np.where(columns.verdict == FIRST, gaps, -gaps))[columns.verdict != NEITHER]
    wins, equal = int((signs > 0).sum()), int((signs == 0).sum())
    title = "The longer answer wins"
    explanation = (
        f"Share of pairs whose chosen answer has more characters than the rejected one; "
        f"{equal:,} of equal length are left out. Near 50% length says nothing, near 100% everything."
    )
    return share_of(wins, len(signs) - equal, title, explanation)


def _desirable(columns: Columns) -> Share:
    explanation = "Share of labels that are true. With fewer than one in ten of either kind, weigh the rarer one more."
    return share_of(int((columns.verdict == FIRST).sum()), len(columns), "Desirable answers", explanation)


def _spread(lengths: NDArray[np.uint32]) -> Spread:
    if not len(lengths):
        return Spread(0, None, None, None, None, None)
    p5, median, p95 = (float(value) for value in np.percentile(lengths, (5, 50, 95)))
    return Spread(len(lengths), int(lengths.min()), p5, median, p95, int(lengths.max()))


def _left_out(reasons: Mapping[str, int], *names: str) -> int:
    return sum(reasons.get(name, 0) for name in names)
