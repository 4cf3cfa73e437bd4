"""The page of an evaluation: the verdict first, nothing guessed, hostile text harmless."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from preftune.report.eval_page import short_names, write_eval_page
from tests.report.conftest import measure
from tests.report.pages import ATTACK, Page


def share(value: float, low: float, high: float, title: str = "Win rate") -> dict[str, Any]:
    return measure(value, low, high, 200, unit="share", title=title, explanation="")


def match(model: str, against: str, key: str, rate: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "model": model,
        "against": against,
        "key": key,
        "measures": {"win_rate": rate, "ties": share(0.1, 0.05, 0.2, "Ties")},
        "sentence": "to tell 55% from 50% you need 700 prompts; these 200 tell 60% or more",
        "missing": {"refusal": 2},
        "not_taken": {"lc_win_rate": "Length alone decides."},
        **more,
    }


def evaluation(**other: Any) -> dict[str, Any]:
    reward = measure(1.2, 1.0, 1.4, 200, title="Reward", unit="")
    change = {"reward": measure(0.7, 0.5, 0.9, 200, title="Change of reward", unit="")}
    change["retention_loss"] = measure(0.05, 0.02, 0.08, 60, title="Change of the loss", unit="nats a token")
    point = {"reward": reward, "kl": measure(2.0, 1.5, 2.5, 200, unit="nats"), "run": "out"}
    return {
        "data": "held-out.jsonl",
        "pairs": 200,
        "prompts": 200,
        "models": [
            {
                "name": "runs/out/model",
                "role": "model",
                "measures": {"reward": reward},
                "changes": change,
                "lengths": [3, 9, 9],
            },
            {"name": "base", "role": "start", "measures": {"reward": reward}, "lengths": [4, 4, 8]},
            {"name": "base + few-shot", "role": "prompted", "measures": {}},
        ],
        "win_rates": [
            match("runs/out/model", "base", "start", share(0.63, 0.57, 0.69)),
            match("runs/out/model", "base + few-shot", "few-shot", share(0.52, 0.46, 0.58)),
        ],
        "frontier": {
            "points": [
                point
                | {"name": "out, the start", "step": 0, "is_best": False, "behind_best": measure(-0.7, -0.9, -0.5)},
                point | {"name": "out, step 40", "step": 40, "is_best": True, "behind_best": None},
            ],
            "best": "out, step 40",
            "sentence": "Best by reward: out, step 40.",
            "note": "Confirm it.",
        },
        "best_of_n": {
            "points": [{"n": n, "kl": 0.1, "reward": reward} for n in (1, 2, 4)],
            "sentence": "Worth best of 3.",
        },
        "gate": [{"measure": "win_rate", "at_least": 0.6, "by": "low", "found": 0.57, "kept": False, "why": "63%"}],
        "answers": [
            {"prompt": "Why?", "completions": {"runs/out/model": "Because.", "base": "Well.", "base + few-shot": None}}
        ],
        "not_taken": {"lc_win_rate": "Length alone decides."},
        **other,
    }


def page_of(tmp_path: Path, document: dict[str, Any]) -> Page:
    return Page(write_eval_page(document, tmp_path / "eval.html", made="today").read_text(encoding="utf-8"))


def test_verdict_comes_first_with_its_ground(tmp_path: Path) -> None:
    page = page_of(tmp_path, evaluation())
    assert page.faults == []
    assert page.text.index("out wins 63.0% against the start") < page.text.index("Who answered")
    for told in (
        "Whether training is better than prompting cannot be told",
        "Retention: general text became less likely",
        "1 of 1 promises are broken.",
        "win_rate at least 0.60",
        "to tell 55% from 50% you need 700 prompts".replace("to tell", "To tell"),
        "Without a verdict: refusal 2.",
        "Worth best of 3.",
        "Because.",
        "The answer is empty or was not made.",
        "95% interval 57.0% to 69.0%",
    ):
        assert told in page.text, told


def test_an_even_game_claims_nothing(tmp_path: Path) -> None:
    even = [match("runs/out/model", "base", "start", share(0.52, 0.45, 0.59))]
    assert "52.0% against the start: no measurable difference" in page_of(tmp_path, evaluation(win_rates=even)).text


def test_training_is_better_than_prompting_only_where_it_wins_outside_the_interval(tmp_path: Path) -> None:
    better = [match("runs/out/model", "base + few-shot", "few-shot", share(0.7, 0.6, 0.8))]
    assert "Training is better than prompting" in page_of(tmp_path, evaluation(win_rates=better)).text
    worse = [match("runs/out/model", "base + few-shot", "few-shot", share(0.3, 0.2, 0.4))]
    assert "Prompting alone does better" in page_of(tmp_path, evaluation(win_rates=worse)).text


def test_an_empty_evaluation_says_so(tmp_path: Path) -> None:
    page = page_of(tmp_path, {})
    assert page.faults == []
    assert "Nothing was measured, so nothing is claimed" in page.text


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    document = evaluation(
        data=ATTACK,
        models=[{"name": ATTACK, "role": ATTACK, "measures": {ATTACK: measure(1, 0, 2, title=ATTACK, unit=ATTACK)}}],
        win_rates=[match(ATTACK, ATTACK, "start", share(0.9, 0.8, 0.95), sentence=ATTACK, missing={ATTACK: 1})],
        answers=[{"prompt": ATTACK, "completions": {ATTACK: ATTACK}}],
        not_taken={ATTACK: ATTACK},
        gate=[{"measure": ATTACK, "at_most": 1, "by": ATTACK, "kept": True, "why": ATTACK}],
    )
    document["frontier"]["points"][0]["run"] = ATTACK
    page = page_of(tmp_path, document)
    assert page.faults == []
    assert "<script" not in page.source and "<img" not in page.source


def test_names_are_short_where_they_can_be() -> None:
    models = [
        {"name": "a/out/model", "role": "model"},
        {"name": "b/out/model", "role": "opponent"},
        {"name": "x/base", "role": "start"},
        {"name": "x/base + few-shot", "role": "prompted"},
    ]
    assert list(short_names(models).values()) == ["out", "b/out/model", "the start", "the start + few-shot"]
