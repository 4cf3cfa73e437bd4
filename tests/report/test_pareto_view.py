"""Models by two goals: who is on the front, and what may be said of those who are not."""

from __future__ import annotations

from preftune.report.measures import Measure
from preftune.report.pareto_view import Candidate, view_pareto
from tests.report.pages import ATTACK, Page


def candidate(name: str, x: float, y: float, half: float | None = 0.1) -> Candidate:
    def one(value: float) -> Measure:
        low, high = (None, None) if half is None else (value - half, value + half)
        return Measure("reward", "Reward", "", "", value, low, high, 64 if half is not None else None)

    return Candidate(name, one(x), one(y))


def test_verdicts_claim_no_more_than_the_intervals_hold() -> None:
    view = view_pareto([candidate("a", 1, 1), candidate("b", 0.95, 0.95), candidate("c", 0, 0)])
    assert view is not None
    assert [row.verdict.partition(":")[0].partition(",")[0] for row in view.rows] == [
        "On the front",
        "Below the front",
        "Beaten at both by another",
    ]
    assert view.sentence == "a is at least as good as every other at both."


def test_without_intervals_nobody_is_called_beaten() -> None:
    view = view_pareto([candidate("a", 1, 1, None), candidate("b", 0, 0, None)])
    assert view is not None
    assert view.rows[1].verdict.startswith("Below the front")


def test_fewer_than_two_models_have_no_front() -> None:
    assert view_pareto([candidate("a", 1, 1)]) is None
    assert view_pareto([]) is None


def test_no_name_enters_the_drawing_and_two_charts_share_no_id() -> None:
    candidates = [candidate(ATTACK, 1, 0), candidate("b", 0, 1)]
    views = [view_pareto(candidates, name) for name in ("one", "two")]
    svg = "".join(view.drawing.svg for view in views if view)
    assert "alert" not in svg and "#0a0a" not in svg
    assert Page(svg).faults == []
