"""What methods log for the doctor: advantages, lengths and rewards, the surest pairs, and rewards kept apart."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from preftune.evaluate.measures import paired_change
from preftune.methods.online_settings import OnlineConfig
from preftune.methods.pairs import confident_accuracy
from preftune.methods.rollout_figures import advantage_figures, length_correlation
from preftune.methods.windows import between_groups
from tests.methods.test_online import REWARD, train
from tests.tiny_world import World, read_rows


def test_advantages_of_a_group_add_up_to_nothing_or_it_shows() -> None:
    groups = np.array([0, 0, 1, 1])
    sums = advantage_figures(np.array([1.0, -1.0, 0.5, -0.5]), groups)
    assert sums["adv/mean"] == (0.0, 4.0) and sums["adv/group_mean_max"] == (0.0, 1.0)
    assert sums["adv/std"][0] == pytest.approx((2.5 / 4) ** 0.5)
    mixed = advantage_figures(np.array([1.0, 0.5, -1.0, -0.5]), groups)
    assert mixed["adv/group_mean_max"][0] == 0.75  # as where groups are mixed up: the mean over all is still 0
    assert advantage_figures(np.array([]), np.array([])) == {}


def test_reward_and_length_are_compared_within_prompts() -> None:
    """Long prompts' long answers earn more; of one prompt the longer earns less."""
    groups = np.repeat([0, 1, 2], 4)
    lengths = groups * 100.0 + np.tile([1.0, 2.0, 3.0, 4.0], 3)
    rewards = groups * 10.0 - np.tile([1.0, 2.0, 3.0, 4.0], 3)
    assert length_correlation(rewards, lengths, groups) == pytest.approx(-1)
    assert length_correlation(rewards, lengths, np.arange(12)) > 0.5  # one completion each: over all


@pytest.mark.parametrize(
    ("rewards", "lengths"), [([1, 1, 1], [1, 2, 3]), ([1, 2, 3], [5, 5, 5]), ([np.nan, np.nan, 1], [1, 2, 3]), ([], [])]
)
def test_no_spread_is_no_correlation(rewards: list[float], lengths: list[float]) -> None:
    found = length_correlation(np.array(rewards, float), np.array(lengths, float), np.zeros(len(rewards), int))
    assert found == 0.0


def test_equal_lengths_share_their_rank() -> None:
    """Spearman's with ties: ranks 1.5, 1.5, 3 against 1, 2, 3."""
    found = length_correlation(np.array([1.0, 2.0, 3.0]), np.array([7.0, 7.0, 9.0]), np.zeros(3, int))
    assert found == pytest.approx(np.corrcoef([1, 2, 3], [1.5, 1.5, 3])[0, 1])


def test_surest_quarter_is_that_of_the_widest_margins() -> None:
    margins = np.array([-5.0, 4.0, 0.1, -0.1, 0.2, 0.3, -0.2, 0.1])
    assert confident_accuracy(margins) == 0.5
    assert confident_accuracy(np.array([0.3])) == 1.0


@pytest.mark.parametrize(
    ("groups", "half"),
    [
        ([[0, 0], [1, 1], [2, 2], [3, 3]], 2),
        ([[0, 0], [0, 1], [1, 2], [3, 3]], 3),
        ([[0, 0], [0, 0]], 0),
        ([[0, 1], [2, 3], [4, 5]], 1),
        ([[0]], 0),
        ([], 0),
    ],
)
def test_halves_of_a_step_part_no_prompts_completions(groups: list[list[int]], half: int) -> None:
    batches: Any = [[SimpleNamespace(group=group) for group in batch] for batch in groups]
    assert between_groups(batches) == half


def test_gold_rewards_are_measured_and_never_learned_from(world: World, tmp_path: Path) -> None:
    """``odd`` is what the reward is not: it falls as the other rises, and the run is the same without it."""
    file = tmp_path / "rewards.py"
    file.write_text(REWARD)
    settings: dict[str, Any] = {"eval_steps": 2, "max_steps": 4, "beta": 0.01, "gradient_accumulation_steps": 4}
    gold = {"gold_reward_funcs": f"{file}:odd"}
    train(world, tmp_path / "gold", "grpo", str(file), **settings, **gold)
    train(world, tmp_path / "plain", "grpo", str(file), **settings)
    with_gold, without = (read_rows(tmp_path / name / "metrics.jsonl") for name in ("gold", "plain"))
    evaluations = [row for row in with_gold if "gold/score" in row]
    assert [row["step"] for row in evaluations] == [2, 4]
    for row in evaluations:
        assert row["gold/score"] == pytest.approx(1 - row["eval_reward"])
        assert row["gold/n"] > 10 and 0 < row["gold/score_se"] < 0.2
    assert [row["loss"] for row in with_gold if "loss" in row] == [row["loss"] for row in without if "loss" in row]
    steps = [row for row in with_gold if "loss" in row]
    names = {"adv/mean", "adv/std", "adv/group_mean_max", "objective/kl", "grad_snr", "reward_len_corr"}
    assert all(row.keys() >= names for row in steps)
    assert all(row["adv/group_mean_max"] < 1e-6 for row in steps)
    document = json.loads((tmp_path / "gold" / "eval.json").read_text())
    assert document["after"]["gold"]["n"] == evaluations[-1]["gold/n"]
    assert len(document["spreads"]["gold"]["after"]) == evaluations[-1]["gold/n"]


def test_several_answers_to_a_held_out_prompt_are_one_draw_of_it(world: World, tmp_path: Path) -> None:
    file = tmp_path / "rewards.py"
    file.write_text(REWARD)
    settings: dict[str, Any] = {"max_steps": 2, "beta": 0.01, "gradient_accumulation_steps": 4}
    for n in (1, 3):
        train(world, tmp_path / str(n), "grpo", str(file), num_generations_eval=n, **settings)
    one, three = (json.loads((tmp_path / str(n) / "eval.json").read_text()) for n in (1, 3))
    prompts = np.repeat(np.arange(one["after"]["reward"]["n"]), 3)
    rewards = [np.array(three["spreads"]["reward"][moment]) for moment in ("before", "after")]
    expected = paired_change(*rewards, "", "", prompts.tolist())
    found = three["change"]["reward"]
    assert (found["value"], found["low"], found["high"]) == pytest.approx((expected.value, expected.low, expected.high))
    for measure in (three["after"][name] for name in ("reward", "mean_length", "finished", "kl")):
        assert measure["n"] == len(prompts)


def test_gold_rewards_are_read_as_rewards_are() -> None:
    assert OnlineConfig(model="m", data="d", output_dir="o", gold_reward_funcs="a,b(1,2)").gold_reward_funcs == (
        "a",
        "b(1,2)",
    )
