"""Verdicts on change: by the paired difference where there is one, else by the interval of before."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preftune.report.measures import read_measure
from preftune.report.outcome import judge, view_outcome
from tests.report.conftest import measure

SHARE: dict[str, Any] = {"unit": "share", "title": "Accuracy"}


@pytest.mark.parametrize(
    ("before", "after", "change", "direction"),
    [
        ((0.50, 0.45, 0.55), (0.60, 0.56, 0.64), None, "rose"),
        ((0.50, 0.45, 0.55), (0.40, 0.36, 0.44), None, "fell"),
        ((0.50, 0.45, 0.55), (0.56, 0.51, 0.61), None, "unclear"),
        ((0.50, 0.45, 0.55), (0.54, 0.49, 0.59), None, "unchanged"),
        ((0.50, 0.45, 0.55), (0.54, 0.49, 0.59), (0.04, 0.01, 0.07), "rose"),
        ((0.50, 0.45, 0.55), (0.60, 0.56, 0.64), (0.10, -0.01, 0.21), "unchanged"),
        ((0.50, 0.45, 0.55), (0.46, 0.41, 0.51), (-0.04, -0.07, -0.01), "fell"),
    ],
)
def test_verdict(before: Any, after: Any, change: Any, direction: str) -> None:
    sides = [None if figures is None else read_measure("accuracy", measure(*figures)) for figures in (before, after)]
    difference = None if change is None else read_measure("accuracy", measure(*change))
    assert judge(sides[0], sides[1], difference).direction == direction


def test_change_without_interval_is_not_believed() -> None:
    before = {"accuracy": measure(0.5, 0.45, 0.55, **SHARE)}
    outcome = view_outcome({"before": before, "after": before, "change": {"accuracy": {"value": 0.3, **SHARE}}})
    assert outcome.headline == "Accuracy did not change measurably: 50.0% before, 50.0% after"
    assert "30" not in " ".join(outcome.sentences)


@pytest.mark.parametrize("side", ["before", "after"])
def test_one_side_alone_claims_no_change(side: str) -> None:
    outcome = view_outcome({side: {"accuracy": measure(0.7, 0.6, 0.8, **SHARE)}})
    assert outcome.headline == f"Accuracy: 70.0% {side} the run, with nothing to compare it to"
    assert "no change can be claimed" in outcome.sentences[-1]


def test_nothing_measured_says_so() -> None:
    assert view_outcome({}).headline == "Nothing was measured before and after this run"
    assert view_outcome({"before": [1], "after": {"accuracy": {"value": "high"}}}).rows == []


def test_headline_prefers_accuracy_over_the_first_measure() -> None:
    sides = {"kl": measure(1.0, 0.9, 1.1, unit="nats"), "eval_accuracy": measure(0.5, 0.4, 0.6, **SHARE)}
    outcome = view_outcome({"before": sides, "after": sides})
    assert outcome.headline.startswith("Accuracy")
    assert [row.title for row in outcome.rows] == ["Accuracy", "Kl"]


interval = st.lists(st.floats(0, 1), min_size=3, max_size=3).map(sorted)


@given(before=interval, after=interval)
def test_swapping_sides_never_keeps_a_direction(before: list[float], after: list[float]) -> None:
    first, second = (
        read_measure("accuracy", measure(low_mid[1], low_mid[0], low_mid[2])) for low_mid in (before, after)
    )
    there, back = judge(first, second, None).direction, judge(second, first, None).direction
    if there in ("rose", "fell"):
        assert back == {"rose": "fell", "fell": "rose"}[there]
