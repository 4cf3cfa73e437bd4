"""The whole evaluation on a tiny world: a run against its start, prompting, checkpoints, best of n, and a gate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from preftune.cli.main import main
from preftune.cli.output import to_json
from preftune.errors import PreftuneError
from preftune.evaluate.answers import kl_of
from preftune.evaluate.checkpoint_models import open_checkpoints
from preftune.evaluate.entrants import line_up
from preftune.evaluate.everything import Evaluation, evaluate
from preftune.evaluate.model import open_model
from preftune.evaluate.plan import EvaluationPlan
from preftune.evaluate.prompting import Prompting
from preftune.evaluate.rewarding import open_rewarding
from preftune.models.layout import Group
from preftune.models.settings import ModelConfig
from preftune.report.eval_page import write_eval_page
from tests.methods.tiny_runs import FULL, LORA, run
from tests.report.pages import Page
from tests.tiny_world import World, pair_rows

QUICK: dict[str, Any] = {"max_length": 256, "max_new_tokens": 5, "num_completions": 5, "dtype": "float32"}
STEADY: dict[str, Any] = {"lr_scheduler_type": "constant", "warmup_steps": 0}
HALF: dict[str, Any] = {"max_steps": 5, **STEADY}
SETTINGS = {"full": FULL, "lora": LORA}
GATE = "win_rate: {at_least: 0.0}\nretention_loss: {at_most: 0.001}\nlm_eval/arc/acc: {at_least: 0}\n"


def vowels(completions: list[str], **columns: Any) -> list[float]:
    """A reward that differs from answer to answer."""
    return [sum(text.count(letter) for letter in "aeiou") / (1 + len(text)) for text in completions]


@pytest.fixture(scope="module")
def runs(world: World, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("runs")
    kept = {"save_strategy": "steps", "save_steps": 5, "save_total_limit": 5, "max_steps": 10, **STEADY}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFTUNE_CACHE", str(root / "cache"))
        for way, settings in SETTINGS.items():
            run(world, root / way, **settings, **kept)
    return {name: root / name for name in ("full", "lora")}


@pytest.fixture(scope="module")
def found(runs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    """Everything at once, on what the run held out."""
    gate = tmp_path_factory.mktemp("gate") / "gate.yaml"
    gate.write_text(GATE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFTUNE_CACHE", str(gate.parent / "cache"))
        return evaluate(
            str(runs["full"]),
            reward=[vowels],
            num_answers=2,
            prompting=True,
            prompting_shots=1,
            retention=True,
            best_of_n=4,
            frontier=True,
            human_check=True,
            gate=gate,
            **QUICK,
        )


def test_everyone_answers_in_one_table(found: Evaluation, world: World, runs: dict[str, Path]) -> None:
    names = [one.name for one in found.models]
    start = str(world.model)
    assert names == [str(runs["full"] / "model"), start, f"{start} + system-prompt", f"{start} + few-shot"]
    assert [one.role for one in found.models] == ["model", "start", "prompted", "prompted"]
    for one in found.models:
        assert {"reward", "ranking_accuracy", "mean_length", "distinct_2"} <= one.measures.keys()
        assert one.measures["reward"].n == 10  # two answers to each of five prompts
    assert found.pairs > 0 and found.source.endswith(".jsonl")


def test_a_whole_model_has_kl_and_implicit_reward_from_its_start(found: Evaluation) -> None:
    measures = found.measures
    assert measures["preference_accuracy"].value == 1.0
    assert measures["kl"].n == 10 and measures["kl"].value > 0
    assert {"change/reward", "change/retention_loss", "change/unique_openings"} <= measures.keys()
    change = found.models[0].measures["reward"].value - found.models[1].measures["reward"].value
    assert measures["change/reward"].value == pytest.approx(change)


def test_win_rates_are_against_start_and_prompting(found: Evaluation) -> None:
    first = found.models[0].name
    assert [key for subject, _, key, _ in found.matches if subject == first] == ["start", "system-prompt", "few-shot"]
    assert found.measures["win_rate"] == found.measures["win_rate/start"]
    assert found.measures["win_rate"].n == 10
    assert "few comparisons" not in found.not_taken.get("win_rate", "")
    assert "too few" in found.not_taken["lc_win_rate"]  # ten comparisons


def test_checkpoints_are_the_models_that_they_were(found: Evaluation) -> None:
    assert found.frontier is not None
    points = {one.step: one for one in found.frontier.points}
    assert list(points) == [0, 5, None]
    assert points[0].kl.value == 0.0 != points[5].kl.value
    assert points[None].kl == found.measures["kl"]
    last, start = found.models[0].measures, found.models[1].measures
    assert (points[0].reward, points[None].reward) == (start["reward"], last["reward"])
    assert found.measures["frontier/best_reward"] == found.frontier.best.reward


def test_best_of_n_is_of_the_start(found: Evaluation) -> None:
    assert found.best_of is not None and found.best_of.worth is not None
    assert [one.n for one in found.best_of.points] == [1, 2, 4]
    rewards = [one.reward.value for one in found.best_of.points]
    assert rewards == sorted(rewards)
    assert found.measures["worth_best_of"] == found.best_of.worth


def test_gate_keeps_breaks_and_never_passes_what_was_not_taken(found: Evaluation) -> None:
    assert [(one.promise.measure, one.is_kept) for one in found.gate] == [
        ("win_rate", True),
        ("retention_loss", False),
        ("lm_eval/arc/acc", False),
    ]
    assert "--lm-eval" in found.broken[-1].why


def test_document_and_page_hold_everything(found: Evaluation, tmp_path: Path) -> None:
    document = json.loads(to_json(found.as_dict()))
    assert {"data", "pairs", "models", "differences", "win_rates", "frontier", "gate"} <= document.keys()
    page = Page(write_eval_page(document, tmp_path / "eval.html").read_text(encoding="utf-8"))
    assert page.faults == []
    for told in ("the start + few-shot", "Win rates", "Best of n", "Reward and KL", "2 of 3 promises are broken"):
        assert told in page.text
    assert found.check is not None and len(found.check.items) <= 5


def test_an_adapter_is_compared_with_itself_switched_off(runs: dict[str, Path], world: World) -> None:
    found = evaluate(
        [str(runs["lora"])], str(world.standard), reward="target_length(target=4)", frontier=True, limit=20, **QUICK
    )
    model, start = found.models
    assert start.name == f"{model.name} without its adapter"
    assert (model.role, start.role) == ("model", "start")
    assert "kl" in model.measures and "kl" not in start.measures
    alone = evaluate(str(world.model), str(world.standard), limit=20, **QUICK).models[0]
    assert start.measures["ranking_accuracy"] == alone.measures["ranking_accuracy"]
    assert start.measures["mean_length"] == alone.measures["mean_length"]
    assert found.frontier is not None
    first, half, last = found.frontier.points
    assert (first.step, half.step, last.step) == (0, 5, None)
    assert half.kl.value != 0.0 and last.kl == model.measures["kl"]


def test_without_a_start_it_is_said_and_models_can_be_named_against(world: World) -> None:
    notes: list[str] = []
    alone = evaluate(str(world.model), str(world.standard), reward="repetition", limit=8, note=notes.append, **QUICK)
    assert "nobody to win against" in alone.not_taken["win_rate"]
    assert any("--start" in note for note in notes)
    even = evaluate(
        str(world.model), str(world.standard), against=[str(world.model) + "/"], reward="repetition", limit=8, **QUICK
    )
    assert even.measures["win_rate"].value == 0.5  # the same draws


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"best_of_n": 4}, "needs a reward"),
        ({"frontier": True}, "needs a reward"),
        ({"best_of_n": 1, "reward": ["length(max=8)"]}, "give 2 or more"),
        ({"prompting_system": "be kind"}, "without prompting"),
        ({"num_completion": 4}, "num_completion"),
        ({"gate": "/none/gate.yaml"}, "cannot be read"),
    ],
)
def test_what_does_not_fit_together_is_refused_before_anything_is_loaded(settings: Any, words: str) -> None:
    with pytest.raises(PreftuneError, match=words):
        evaluate("no/such/model", "no-data.jsonl", **settings)


def test_nothing_to_measure_on_and_no_model_are_said(world: World) -> None:
    with pytest.raises(PreftuneError, match="nothing to measure on"):
        evaluate(str(world.model))
    with pytest.raises(PreftuneError, match="No model is named"):
        evaluate()


@pytest.mark.parametrize("way", ["full", "lora"])
def test_a_checkpoint_set_into_the_model_is_the_model_of_that_step(
    way: str, runs: dict[str, Path], world: World, tmp_path: Path
) -> None:
    opened = open_checkpoints(str(runs[way]), "run", {"dtype": "float32"}, lambda note: None)
    groups = [Group([1, 7, 9, 11], ([5, 6, 8],))]

    def log_prob(engine: Any) -> float:
        return float(engine(groups).sums())

    at_start = log_prob(opened.model.engine)
    opened.set_to(5)
    at_five = log_prob(opened.model.engine)
    opened.set_to(0)
    assert log_prob(opened.model.engine) == at_start != at_five
    run(world, tmp_path / "half", **SETTINGS[way], **HALF)  # the run again, ended there
    ended = open_model(ModelConfig(model=str(tmp_path / "half" / "model"), dtype="float32"), lambda note: None)
    assert at_five == pytest.approx(log_prob(ended.engine), rel=1e-6)


def test_command_writes_the_blind_check_and_reads_its_result(
    world: World, runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page, gate = tmp_path / "check.html", tmp_path / "gate.yaml"
    tokens = ["eval", str(runs["lora"]), "--data", str(world.standard), "--human-check", str(page), "--json"]
    quick = ["--max-new-tokens", "5", "--num-completions", "4", "--dtype", "float32", "--limit", "9"]
    assert main([*tokens, *quick]) == 0
    written = json.loads(capsys.readouterr().out)
    key = json.loads(Path(written["human_key"]).read_text())
    content = page.read_text(encoding="utf-8")
    assert str(runs["lora"]) not in content and "adapter" not in content  # blind
    result = tmp_path / "choices.json"
    result.write_text(json.dumps({"format": key["format"], "check": key["check"], "choices": key["sides"]}))
    gate.write_text("human_win_rate: {at_least: 0.9, by: value}\nhuman_ties: {at_most: 0.0, by: value}\n")
    assert main(["eval", "--human-result", str(result), "--gate", str(gate)]) == 0
    assert "Of" in capsys.readouterr().out
    gate.write_text("human_win_rate: {at_least: 0.9}\n")
    assert main(["eval", "--human-result", str(result), "--gate", str(gate)]) == 1
    assert "promise broken: human_win_rate" in capsys.readouterr().err


def test_an_opponent_that_is_not_there_is_told_before_anything_is_loaded(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loaded(*given: Any) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("preftune.evaluate.everything.open_model", loaded)
    with pytest.raises(PreftuneError, match="no such model"):
        evaluate(str(world.model), str(world.standard), against="/no/such/model", reward="repetition", **QUICK)


def test_what_a_model_cannot_use_is_told_and_counted(world: World) -> None:
    notes: list[str] = []
    rows = pair_rows(6, seed=1)
    rows[0]["prompt"] = "very " * 400
    found = evaluate(str(world.model), rows, note=notes.append, **QUICK).models[0]
    assert found.unasked == 1 and len(found.lengths) == 4  # of the five prompts asked for
    assert found.left_out + found.measures["ranking_accuracy"].n == 6
    assert any("1 of 5 prompts not asked" in note for note in notes)


def test_judges_that_fail_lose_no_other_measure(runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*given: Any, **settings: Any) -> None:
        raise PreftuneError("The judge's key is refused.")

    monkeypatch.setattr("preftune.evaluate.everything.take_verdicts", fails)
    notes: list[str] = []
    found = evaluate(
        str(runs["lora"]), reward="repetition", prompting=True, prompting_shots=1, note=notes.append, **QUICK
    )
    assert "key is refused" in found.not_taken["win_rate"]
    assert "change/reward" in found.measures
    assert any("1 prompts are shown as examples" in note and "are left to measure on" in note for note in notes)


def test_a_checkpoint_that_cannot_be_read_loses_the_frontier_alone(
    runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*given: Any) -> None:
        raise PreftuneError("The checkpoint is of another model.")

    monkeypatch.setattr("preftune.evaluate.checkpoint_rewards.open_checkpoints", broken)
    found = evaluate(str(runs["lora"]), reward="repetition", frontier=True, **QUICK)
    assert found.frontier is None and "another model" in found.not_taken["frontier"]
    assert "win_rate" in found.measures


def test_a_reward_model_is_named_by_its_run_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "reward" / "model").mkdir(parents=True)
    (tmp_path / "reward" / "config.yaml").write_text("method: reward\n")
    opened: list[Any] = []
    monkeypatch.setattr("preftune.evaluate.rewarding.open_rewards", lambda names, **settings: opened.extend(names))
    open_rewarding(EvaluationPlan(reward=(str(tmp_path / "reward"), "length(max=9)", vowels)), print)
    assert opened == [str(tmp_path / "reward" / "model"), "length(max=9)", vowels]


def test_opponents_of_one_name_keep_their_own_measures() -> None:
    names = ["a/dpo/model", "b/dpo/model", "c/start", "few-shot"]
    keys = [one.key for one in line_up(["mine"], against=names, prompting=[Prompting("few-shot", "Be kind.")]).matches]
    assert keys[:4] == ["a_dpo_model", "b_dpo_model", "c_start", "few-shot"]


def test_the_answers_to_a_prompt_hang_together() -> None:
    ratios, of = np.repeat([1.0, 2.0, 6.0], 4), np.repeat(np.arange(3), 4).tolist()
    together, apart = kl_of(ratios, of), kl_of(ratios)
    assert (together.value, together.n) == (apart.value, apart.n) == (3.0, 12)
    assert together.high - together.low > 3 * (apart.high - apart.low)
    assert kl_of(np.array([1.0, np.nan, 3.0])).n == 2


def test_prompting_is_measured_on_pairs_where_nothing_is_answered(world: World) -> None:
    quiet = QUICK | {"num_completions": 0}
    plain, prompted = evaluate(
        str(world.model),
        pair_rows(8, seed=1),
        prompting=True,
        prompting_system="be very kind",
        prompting_shots=0,
        **quiet,
    ).models
    assert prompted.role == "prompted"
    assert prompted.measures["log_prob_per_token"].value != plain.measures["log_prob_per_token"].value
