"""A diagnosis in words."""

from __future__ import annotations

import pytest

from preftune.diagnose.telling import by_reason, verdict_of


@pytest.mark.parametrize(
    ("findings", "looked", "unclear", "told"),
    [
        ([], 0, 9, "Nothing can be told: the log is too short, or lacks what detectors read."),
        ([], 2, 2, "Nothing was found by 2 checks, but 2 cannot tell: this is no clean bill of health."),
        ([], 1, 0, "Nothing wrong was found by 1 check."),
        ([], 9, 2, "Nothing wrong was found by 9 checks; 2 cannot tell."),
        ([("error", "A"), ("hint", "B"), ("hint", "C")], 9, 2, "1 error and 2 hints found; the first: A."),
    ],
)
def test_verdict_is_one_sentence(findings: list[tuple[str, str]], looked: int, unclear: int, told: str) -> None:
    assert verdict_of(findings, looked, unclear) == told


def test_curves_that_are_too_short_or_absent_are_told_together() -> None:
    entries = [
        {"name": "a", "why": "loss has 9 finite points, and 30 are needed."},
        {"name": "b", "why": "objective/kl has 9 finite points, and 30 are needed."},
        {"name": "c", "why": "entropy has 1 finite point, and 30 are needed."},
        {"name": "d", "why": "The log has no gold/score or judge/win_rate."},
        {"name": "e", "why": "The log has no kl."},
        {"id": "D01", "why": None},
        7,
    ]
    assert by_reason(entries) == {
        "The curves have 9 finite points, and 30 are needed": ["a", "b"],
        "The curves have 1 finite point, and 30 are needed": ["c"],
        "The log has none of these": ["d (gold/score)", "e (kl)"],
        "No reason is given": ["D01"],
    }
    assert by_reason("damaged") == {}
