"""What the basic facts of a data set mean: a finding for each that should be mended or known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from preftune.audit.findings import Finding, Share, count_of, share_of
from preftune.audit.scan import Scan

SMALL_DATA = 100  # records; below it an interval of a share is wider than 20 points
DUPLICATE_LIMIT, REJECTED_LIMIT = 0.01, 0.05  # shares of rows
LENGTH_BIAS_LIMIT = 0.15  # distance of a share from one half


@dataclass(frozen=True, eq=False)
class Facts:
    """What was found at which places of the scan's columns; ``leaked`` are ids of ``evaluated`` evaluation records."""

    scan: Scan
    longer_wins: Share | None
    desirable: Share | None
    repeated: NDArray[np.intp]
    opposed: NDArray[np.intp]
    contradictions: int
    identical: NDArray[np.intp]
    empty: NDArray[np.intp]
    leaked: tuple[str, ...]
    evaluated: int

    def ids(self, places: NDArray[np.intp]) -> tuple[str, ...]:
        """The ids of the records there."""
        return self.scan.columns.ids.at(places)

    def share(self, places: NDArray[np.intp], title: str) -> Share:
        """How many of all records these are."""
        return share_of(len(places), len(self.scan), title, f"Share of all {self.scan.kind}s.")


def basic_findings(facts: Facts) -> tuple[Finding, ...]:
    """All that the facts give cause for."""
    return tuple(finding for judge in _JUDGES if (finding := judge(facts)) is not None)


def _contradictions(facts: Facts) -> Finding | None:
    if not facts.contradictions:
        return None
    is_label = facts.scan.kind == "label"
    rows = facts.ids(facts.opposed)
    return Finding(
        id="contradictions",
        severity="error",
        title="Answers labelled both ways" if is_label else "Comparisons labelled both ways",
        what=(
            "The same answer to the same prompt is labelled both desirable and undesirable."
            if is_label
            else "The same prompt with the same two answers occurs with either answer as the winner."
        ),
        evidence=f"{count_of(facts.contradictions, 'answer' if is_label else 'comparison')} in {len(rows):,} rows.",
        rows=rows,
        remedy="Keep the label that most annotators gave, or leave these rows out.",
        share=facts.share(facts.opposed, "Labelled both ways"),
    )


def _leakage(facts: Facts) -> Finding | None:
    if not facts.leaked:
        return None
    n = len(facts.leaked)
    return Finding(
        id="leaked-prompts",
        severity="error",
        title="Evaluation prompts in the training data",
        what="Prompts of the evaluation set also occur in training, so its accuracy measures memory too.",
        evidence=f"{n:,} of {count_of(facts.evaluated, f'evaluation {facts.scan.kind}')}.",
        rows=facts.leaked,
        remedy="Split by prompt, or take these pairs out of the evaluation set.",
        share=share_of(n, facts.evaluated, "Leaked prompts", "Share of the evaluation set."),
    )


def _one_sided(facts: Facts) -> Finding | None:
    share = facts.desirable
    if share is None or share.value not in (0, 1):
        return None
    kind = "true" if share.value else "false"
    return Finding(
        id="one-sided-labels",
        severity="error",
        title=f"All labels are {kind}",
        what="With one kind of label nothing tells good answers from bad ones.",
        evidence=f"{count_of(share.n, 'label')}, all {kind}.",
        rows=(),
        remedy="Add labels of the other kind, or learn from good answers alone with `preftune sft`.",
        share=share,
    )


def _rejected(facts: Facts) -> Finding | None:
    scan = facts.scan
    left_out = sum(scan.reasons.values())
    if left_out <= REJECTED_LIMIT * scan.read:
        return None
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in scan.reasons.items())
    return Finding(
        id="many-rejected",
        severity="warning",
        title="Many rows cannot be used",
        what="More than one row in twenty was left out; what remains may not be what was collected.",
        evidence=f"{left_out:,} of {count_of(scan.read, 'row')}: {reasons}.",
        rows=tuple(row.where for row in scan.rejected),
        remedy=f"Mend the commonest reason first. {_first_mend(scan)}",
        share=share_of(left_out, scan.read, "Rows left out", "Share of the rows read."),
    )


def _first_mend(scan: Scan) -> str:
    commonest = next(iter(scan.reasons))
    first = next((row for row in scan.rejected if row.reason == commonest), None)
    return f"At {first.where}: {first.mend}" if first else ""


def _duplicates(facts: Facts) -> Finding | None:
    n, kind = len(facts.scan), facts.scan.kind
    if len(facts.repeated) <= DUPLICATE_LIMIT * n:
        return None
    return Finding(
        id="duplicates",
        severity="warning",
        title=f"Repeated {kind}s",
        what=f"{kind.capitalize()}s that repeat an earlier one weigh more than the others in training.",
        evidence=f"{len(facts.repeated):,} of {count_of(n, kind)} repeat an earlier one.",
        rows=facts.ids(facts.repeated),
        remedy="Keep the first of each.",
        share=facts.share(facts.repeated, "Repeated"),
    )


def _identical(facts: Facts) -> Finding | None:
    return _useless(facts, facts.identical, "identical-sides", ("identical-sides",), "Two sides that say the same")


def _empty(facts: Facts) -> Finding | None:
    reasons = ("empty-prompt", "empty-completion")
    return _useless(facts, facts.empty, "blank-texts", reasons, "A prompt or a side that says nothing")


def _useless(facts: Facts, places: NDArray[np.intp], name: str, reasons: tuple[str, ...], title: str) -> Finding | None:
    """Rows from which nothing can be learned: a warning where some are in use, else what was left out."""
    left_out = sum(facts.scan.reasons.get(reason, 0) for reason in reasons)
    if not len(places) and not left_out:
        return None
    where = tuple(row.where for row in facts.scan.rejected if row.reason in reasons)
    return Finding(
        id=name,
        severity="warning" if len(places) and facts.scan.kind != "comparison" else "info",
        title=title,
        what="Nothing can be learned from such rows, and something before them may have gone wrong.",
        evidence=f"{len(places):,} in use, {left_out:,} left out when read.",
        rows=(*facts.ids(places), *where),
        remedy="Leave them out, and look at what made them.",
        share=share_of(len(places) + left_out, facts.scan.read, title, "Share of the rows read."),
    )


def _length(facts: Facts) -> Finding | None:
    longer = facts.longer_wins
    if longer is None or longer.value is None or longer.low is None or longer.high is None:
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
        share=longer,
    )


def _size(facts: Facts) -> Finding | None:
    n, kind = len(facts.scan), facts.scan.kind
    if n >= SMALL_DATA:
        return None
    return Finding(
        id="small-data",
        severity="warning",
        title=f"Few {kind}s",
        what=f"With so few {kind}s a model learns them by heart, and no accuracy can be told from chance.",
        evidence=f"{count_of(n, kind)}; a few hundred are the least that is useful.",
        rows=(),
        remedy=f"Collect more {kind}s, or take the result as a trial only.",
    )


_JUDGES: tuple[Callable[[Facts], Finding | None], ...] = (
    _contradictions,
    _leakage,
    _one_sided,
    _rejected,
    _duplicates,
    _identical,
    _empty,
    _length,
    _size,
)
