"""The page of an evaluation: the verdict first, nothing guessed, hostile text harmless."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from preftune.report.eval_page import view_evaluation, write_eval_page
from preftune.report.eval_verdict import short_names
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
    broken = "The gate is not passed: 1 of 1 promise is broken"
    won = "out is better than the start: it wins 63.0% of 200 comparisons."
    assert page.text.index(broken) < page.text.index(won) < page.text.index("Who answered")
    assert 'h1 class="is-error"' in page.source
    for told in (
        "Whether training is better than prompting cannot be told",
        "Retention: general text became less likely",
        "win_rate at least 0.6, by the low end",
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
    told = page_of(tmp_path, evaluation(win_rates=even, gate=[])).text
    assert "No measurable difference between out and the start: it wins 52.0% of 200 comparisons" in told
    few = match("runs/out/model", "base", "start", share(0.7, 0.3, 0.9) | {"n": 9})
    told = page_of(tmp_path, evaluation(win_rates=[few], gate=[])).text
    assert "Too few comparisons to tell out from the start: it wins 70.0% of 9 comparisons" in told


def test_a_kept_gate_is_the_first_sentence(tmp_path: Path) -> None:
    kept = evaluation(gate=[{"measure": "win_rate", "at_least": 0.5, "by": "low", "kept": True, "why": "63%"}])
    page = page_of(tmp_path, kept)
    assert "The gate is passed: 1 promise kept." in page.text
    assert 'h1 class="is-error"' not in page.source


def test_a_change_is_called_better_or_worse_where_its_direction_says_so(tmp_path: Path) -> None:
    told = page_of(tmp_path, evaluation()).text
    assert "It rose, which is better: the whole interval is above zero." in told  # the reward
    assert "It rose, which is worse: the whole interval is above zero." in told  # the loss on general text


def test_a_comparison_without_a_verdict_keeps_the_numbers_of_the_others(tmp_path: Path) -> None:
    why = "None of 3 has a verdict: refusal 3."
    nothing = match("runs/out/model", "base", "start", {}, not_taken={"win_rate": why}, measures={})
    other = match("runs/out/model", "base + few-shot", "few-shot", share(0.7, 0.6, 0.8))
    page = page_of(tmp_path, evaluation(win_rates=[nothing, other], gate=[]))
    assert page.faults == []
    assert why in page.text
    wins = view_evaluation(evaluation(win_rates=[nothing, other])).win_chart
    assert wins is not None
    assert ">2</text>" in wins.svg and ">1</text>" not in wins.svg


def test_what_a_model_could_not_use_stands_beside_it(tmp_path: Path) -> None:
    document = evaluation()
    document["models"][0] |= {"left_out": 1200, "unasked": 1}
    assert "left out: 1,200 pairs and 1 prompt" in page_of(tmp_path, document).text


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


def test_a_persons_choices_alone_are_the_verdict_once(tmp_path: Path) -> None:
    said = "Of 9 decided by a person, out won 100% (66% to 100%): better than base."
    alone = page_of(tmp_path, {"human": {"sentence": said, "measures": {"human_win_rate": share(1.0, 0.66, 1.0)}}})
    assert alone.text.count(said.rstrip(".")) == 3  # title, headline, its own section
    beside = page_of(tmp_path, evaluation(human={"sentence": said}))
    assert said in beside.text
