"""What the run changed: each measure before and after, and whether it moved outside its 95% interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from markupsafe import Markup

from preftune.report.charts import interval_chart
from preftune.report.measures import (
    Measure,
    read_measures,
    show_difference,
    show_difference_interval,
    show_interval,
    show_value,
)

Direction = Literal["rose", "fell", "unclear", "unchanged", "unknown"]


@dataclass(frozen=True)
class Verdict:
    """Where a measure went; "unclear": outside the interval of before, but the two intervals overlap."""

    direction: Direction
    sentence: str


@dataclass(frozen=True)
class Row:
    """One line of the table of measures."""

    title: str
    explanation: str
    before: Measure | None
    after: Measure | None
    change: str
    change_interval: str
    verdict: Verdict
    picture: Markup


@dataclass(frozen=True)
class Outcome:
    """The headline in plain words, the sentences under it, and all measures."""

    headline: str
    sentences: list[str]
    rows: list[Row]


def view_outcome(evaluation: Mapping[str, Any], prefix: str = "") -> Outcome:
    """The outcome from ``before``, ``after`` and (where it is there) ``change`` of eval.json.

    ``prefix`` sets the pictures apart from those of other outcomes on the same page.
    """
    before, after, change = (read_measures(evaluation.get(key)) for key in ("before", "after", "change"))
    names = list(dict.fromkeys([*before, *after]))
    rows = [_row(before.get(name), after.get(name), change.get(name), prefix) for name in names]
    if not rows:
        return Outcome(
            "Nothing was measured before and after this run",
            ["Without a measurement on held-out data this page claims no effect, good or bad."],
            [],
        )
    first = _foremost(names, rows)
    others = [row for row in rows if row is not first]
    sentences = [*_sentences(first), *_summary(others)]
    return Outcome(_headline(first), sentences, [first, *others])


def judge(before: Measure | None, after: Measure | None, change: Measure | None) -> Verdict:
    """By the paired difference where its interval is known, else by whether ``after`` left the interval."""
    if before is None or after is None:
        side = "before" if before is None else "after"
        return Verdict("unknown", f"Not measured {side} the run, so no change can be claimed.")
    if change is not None and change.low is not None and change.high is not None and change.n is not None:
        if change.low <= 0 <= change.high:
            return Verdict("unchanged", "The interval of the difference includes zero: no measurable change.")
        if change.low > 0:
            return Verdict("rose", "The whole interval of the difference lies above zero.")
        return Verdict("fell", "The whole interval of the difference lies below zero.")
    if before.low is None or before.high is None or after.low is None or after.high is None:
        return Verdict("unknown", "No verdict: an interval is missing.")
    if before.low <= after.value <= before.high:
        return Verdict("unchanged", "Inside the interval of before: no measurable change.")
    if after.low <= before.high and before.low <= after.high:
        return Verdict("unclear", "Outside the interval of before, but the two intervals overlap.")
    direction: Direction = "rose" if after.value > before.value else "fell"
    return Verdict(direction, "Outside the interval of before; the two intervals do not overlap.")


def _row(before: Measure | None, after: Measure | None, change: Measure | None, prefix: str) -> Row:
    measure = after or before
    assert measure is not None  # a row exists because one of the two was read
    is_comparable = before is not None and after is not None and change is not None
    shown = change if is_comparable else None
    return Row(
        title=measure.title,
        explanation=measure.explanation,
        before=before,
        after=after,
        change=show_difference(shown) if shown else "",
        change_interval=show_difference_interval(shown) if shown else "",
        verdict=_checked(before, after, judge(before, after, shown)),
        picture=interval_chart(prefix + measure.name, before, after),
    )


def _checked(before: Measure | None, after: Measure | None, verdict: Verdict) -> Verdict:
    """No verdict on figures that may not be printed themselves."""
    if all(measure is None or measure.is_printable for measure in (before, after)):
        return verdict
    return Verdict("unknown", "No verdict: n or an interval is missing.")


def _foremost(names: Sequence[str], rows: Sequence[Row]) -> Row:
    """The row the headline is about: an accuracy if there is one, else the first with both sides."""
    pairs = list(zip(names, rows, strict=True))
    both = [(name, row) for name, row in pairs if row.before and row.after] or pairs
    accuracies = [row for name, row in both if "accurac" in name.lower()]
    return accuracies[0] if accuracies else both[0][1]


def _headline(row: Row) -> str:
    before, after = show_value(row.before), show_value(row.after)
    if row.before is None or row.after is None:
        side, value = ("before", before) if row.after is None else ("after", after)
        return f"{row.title}: {value} {side} the run, with nothing to compare it to"
    if not (row.before.is_printable and row.after.is_printable):
        return f"{row.title} cannot be judged: n or an interval is missing"
    match row.verdict.direction:
        case "rose" | "fell" as verb:
            return f"{row.title} {verb} from {before} to {after}"
        case "unclear":
            return f"{row.title} went from {before} to {after}, but the intervals overlap"
        case "unchanged":
            return f"{row.title} did not change measurably: {before} before, {after} after"
    return f"{row.title}: {before} before, {after} after, without a verdict"


def _sentences(row: Row) -> list[str]:
    sides = (("Before", row.before), ("After", row.after))
    told = [f"{side}: {show_value(measure)} ({show_interval(measure)})." for side, measure in sides if measure]
    if row.change not in ("", "—"):
        told.append(f"Difference on the same examples: {row.change} ({row.change_interval}).")
    return [" ".join(told), row.verdict.sentence]


def _summary(rows: Sequence[Row]) -> list[str]:
    """One sentence on the measures that the headline is not about."""
    moved = [f"{row.title} ({row.verdict.direction})" for row in rows if row.verdict.direction in ("rose", "fell")]
    still = [row.title for row in rows if row.verdict.direction in ("unchanged", "unclear")]
    sentences = []
    if moved:
        sentences.append(f"Also moved outside its interval: {', '.join(moved)}.")
    if still:
        sentences.append(f"No clear change: {', '.join(still)}.")
    return [" ".join(sentences)] if sentences else []
