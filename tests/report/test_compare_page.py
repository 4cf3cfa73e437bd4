"""The page of models side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from preftune.errors import PreftuneError
from preftune.report.compare_page import write_comparison
from preftune.report.measures import show_value
from tests.report.conftest import evaluation, measure
from tests.report.pages import ATTACK, Page


def comparison(**other: Any) -> dict[str, Any]:
    measures = evaluation()
    answer = {
        "prompt": "Why is the sky blue?",
        "completions": ["It is.", "Light scatters."],
        "chosen": "Rayleigh.",
    }
    return {
        "models": [{"name": "base", "path": "gpt-x"}, {"name": "tuned", "path": "runs/demo/model"}],
        "measures": [measures["before"], measures["after"]],
        "answers": [answer],
        "n": 400,
        "made": "2026-01-02T03:04:05Z",
        **other,
    }


def compare(tmp_path: Path, **other: Any) -> Page:
    path = write_comparison(comparison(**other), tmp_path / "new" / "compare.html")
    return Page(path.read_text(encoding="utf-8"))


def test_comparison_shows_measures_answers_and_order(tmp_path: Path) -> None:
    page = compare(tmp_path)
    assert page.faults == []
    assert "http" not in page.source.replace("http-equiv", "")
    for told in (
        "Preference accuracy: 51.7% for base, 68.5% for tuned",
        "tuned is highest; its interval overlaps no other.",
        "No clear order: the interval of tuned overlaps that of base.",
        "95% interval 63.8% to 72.9%, n = 400",
        "Light scatters.",
        "Rayleigh.",
        "400 examples",
    ):
        assert told in page.text


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    page = compare(
        tmp_path,
        models=[{"name": ATTACK, "path": ATTACK}, {"name": "b", "path": None}],
        measures=[{ATTACK: measure(1, 0, 2, title=ATTACK, unit=ATTACK, explanation=ATTACK)}],
        answers=[{"prompt": ATTACK, "completions": [ATTACK], "chosen": ATTACK}],
        made=ATTACK,
    )
    assert page.faults == []
    assert "<script" not in page.source and "<img" not in page.source


def test_parts_that_are_absent_are_told_not_guessed(tmp_path: Path) -> None:
    page = compare(tmp_path, measures=[], answers=[], n=None, made=None)
    assert page.faults == []
    assert "Nothing was measured, so nothing is claimed." in page.text
    assert "No answers were made." in page.text


def test_bare_share_is_not_printed(tmp_path: Path) -> None:
    bare = {"win_rate": {"value": 0.8642}}
    page = compare(tmp_path, measures=[bare, bare])
    assert "86.4" not in page.source
    assert "No verdict: n or an interval is missing." in page.text


def test_three_models_and_many_answers(tmp_path: Path) -> None:
    models = [{"name": name, "path": name} for name in "abc"]
    answers = [{"prompt": f"p{number}", "completions": ["x", "y", "z"], "chosen": None} for number in range(90)]
    measures = [{"score": measure(value, value - 1, value + 1)} for value in (1, 5, 5.5)]
    page = compare(tmp_path, models=models, answers=answers, measures=measures)
    assert page.faults == []
    assert "No clear order: the interval of c overlaps that of b." in page.text
    assert "Shown: 60 of 90." in page.text


def test_no_models_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PreftuneError, match="no models to compare"):
        write_comparison(comparison(models=[]), tmp_path / "compare.html")


def test_missing_figure_is_a_dash() -> None:
    assert show_value(None) == "—"


def test_the_order_is_told_by_the_items_own_differences(tmp_path: Path) -> None:
    """Two intervals that overlap say less than the interval of the difference."""
    rates = [{"ranking_accuracy": measure(value, value - 0.1, value + 0.1, unit="share")} for value in (0.5, 0.6)]
    rose = {"ranking_accuracy": measure(0.1, 0.05, 0.15, unit="share")}
    told = compare(tmp_path, measures=rates, differences=rose).text
    assert "tuned is higher than base: +10.0 points (95% interval +5.0 to +15.0" in told
    even = {"ranking_accuracy": measure(0.1, -0.05, 0.25, unit="share")}
    assert (
        "No measurable difference: tuned minus base +10.0 points"
        in compare(tmp_path, measures=rates, differences=even).text
    )


def test_who_wins_comes_first_and_what_was_left_out_is_told(tmp_path: Path) -> None:
    win = {
        "measures": {"win_rate": measure(0.7, 0.6, 0.8, 90, unit="share", explanation="By the reward r.")},
        "sentence": "to tell 55% from 50% you need 783 prompts",
    }
    models = [{"name": "base", "left_out": 2, "unasked": 1}, {"name": "tuned", "left_out": 0, "unasked": 0}]
    page = compare(tmp_path, win_rate=win, models=models)
    assert page.faults == []
    first = "tuned is better than base: it wins 70.0% of 90 comparisons"
    assert page.text.index(first) < page.text.index("By the reward r. To tell 55%")
    assert "left out: 2 pairs and 1 prompt" in page.text
    assert (
        "No win rate: The two models are one."
        in compare(tmp_path, not_taken={"win_rate": "The two models are one."}).text
    )
