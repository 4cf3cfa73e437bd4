"""The blind check: sides by chance, the key apart, and what choices say."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from scipy.stats import binomtest

from preftune.data.records import PromptRecord
from preftune.errors import PreftuneError
from preftune.evaluate.human_check import FORMAT, make_check, read_result, result_of_choices, write_key

MODELS = ("tuned", "base")


def answers(texts: list[str]) -> Any:
    return SimpleNamespace(texts=tuple((text,) if text else () for text in texts))


def check(n: int = 60, seed: int = 0) -> Any:
    prompts = [PromptRecord(prompt=f"question {k}") for k in range(n)]
    ours, theirs = ([f"{whose} {k}" for k in range(n)] for whose in ("good", "bad"))
    return make_check(prompts, answers(ours), answers(theirs), MODELS, seed=seed)


def test_items_are_shuffled_limited_and_sides_drawn() -> None:
    made = check()
    assert len(made.items) == 50
    assert [item.prompt for item in made.items] != [f"question {k}" for k in range(50)]
    assert 10 < list(made.sides.values()).count("left") < 40
    for item in made.items:
        assert (item.left if made.sides[item.id] == "left" else item.right).startswith("good")
    assert check().sides == made.sides and check(seed=1).sides != made.sides


def test_answers_that_say_the_same_are_left_out() -> None:
    prompts = [PromptRecord(prompt=name) for name in "abc"]
    made = make_check(prompts, answers(["x", "y ", ""]), answers(["z", "y", "w"]), MODELS)
    assert [item.prompt for item in made.items] == ["a"]
    with pytest.raises(PreftuneError, match="nothing to choose"):
        make_check(prompts, answers(["x"] * 3), answers(["x"] * 3), MODELS)


def test_win_rate_has_the_exact_interval_and_ties_are_told() -> None:
    sides = {f"q{k}": "left" if k % 2 else "right" for k in range(40)}
    other = {"left": "right", "right": "left"}
    choices = {
        name: side if k < 24 else other[side] if k < 34 else "tie" for k, (name, side) in enumerate(sides.items())
    }
    found = result_of_choices(sides, choices, MODELS)
    rate = found.measures["human_win_rate"]
    interval = binomtest(24, 34).proportion_ci(method="exact")
    assert (rate.value, rate.low, rate.high, rate.n) == pytest.approx((24 / 34, interval.low, interval.high, 34))
    assert found.measures["human_points"].value == pytest.approx(27 / 40)
    assert found.measures["human_ties"].value == pytest.approx(6 / 40)
    assert found.left_bias_p > 0.3
    assert "better than base" in found.sentence


def test_a_habit_of_one_side_is_found() -> None:
    sides = {f"q{k}": "left" if k % 2 else "right" for k in range(40)}
    found = result_of_choices(sides, dict.fromkeys(sides, "left"), MODELS)
    assert found.measures["human_win_rate"].value == 0.5
    assert found.left_bias_p < 1e-9 and "habit" in found.sentence


def test_result_finds_its_key_beside_it_or_on_this_machine(tmp_path: Path) -> None:
    made = check(4)
    write_key(made, tmp_path / "page.html")
    content = {"format": FORMAT, "check": made.id, "choices": dict(made.sides)}
    for folder in (tmp_path, tmp_path / "downloads"):
        folder.mkdir(exist_ok=True)
        (folder / "choices.json").write_text(json.dumps(content))
        assert read_result(folder / "choices.json").measures["human_win_rate"].value == 1.0


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "not JSON"),
        ("[]", "no result"),
        (json.dumps({"format": FORMAT, "check": "other", "choices": {}}), "key"),
    ],
)
def test_files_that_are_no_result_are_refused(tmp_path: Path, content: str, words: str) -> None:
    file = tmp_path / "choices.json"
    file.write_text(content)
    with pytest.raises(PreftuneError, match=words):
        read_result(file)


def test_choices_of_other_items_are_refused() -> None:
    with pytest.raises(PreftuneError, match="another page"):
        result_of_choices({"q1": "left"}, {"q9": "left"}, MODELS)


def test_a_broken_key_of_another_check_beside_the_result_is_passed_over(tmp_path: Path) -> None:
    made = check()
    key = write_key(made, tmp_path / "z.html")
    (tmp_path / "a.key.json").write_text("{")
    (tmp_path / "b.key.json").write_text(json.dumps({"check": made.id, "sides": {}, "models": 2}))
    result = tmp_path / "choices.json"
    result.write_text(json.dumps({"format": FORMAT, "check": made.id, "choices": dict(made.sides)}))
    assert read_result(result).measures["human_win_rate"].value == 1.0
    assert key.is_file()
