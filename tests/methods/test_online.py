"""PPO, GRPO, RLOO and online DPO on the tiny world: they learn what is rewarded, and their runs are whole."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from preftune.errors import PreftuneError
from tests.methods.tiny_runs import curves, listener, losses, run, saved_weights, stopping_at
from tests.tiny_world import World, write_rows

ONLINE = ("ppo", "grpo", "rloo", "online-dpo")
# The share of a completion's tokens with an even id: about half at random, and easy to learn.
REWARD = """
def even(completion_ids, **columns):
    return [sum(i % 2 == 0 for i in ids) / len(ids) for ids in completion_ids]

def constant(completion_ids, **columns):
    return [1.0 for _ in completion_ids]

def failing(completions, completion_ids, **columns):
    if len(completions) > 1 or completion_ids[0][0] % 2:
        raise ValueError("no reward for odd beginnings")
    return [sum(i % 2 == 0 for i in completion_ids[0]) / len(completion_ids[0])]

def odd(completion_ids, **columns):
    return [sum(i % 2 for i in ids) / len(ids) for ids in completion_ids]
"""
SMALL: dict[str, Any] = {
    "learning_rate": 1e-2,
    "max_completion_length": 6,
    "per_device_train_batch_size": 16,
    "gradient_accumulation_steps": 2,
    "num_generations": 4,
    "max_steps": 25,
    "max_length": 64,
    "adam_epsilon": 1e-5,
    "eval_fraction": 0.4,
}
OWN: dict[str, dict[str, Any]] = {
    "ppo": {"num_generations": 1, "num_ppo_epochs": 2, "kl_coef": 0.002, "max_steps": 50},
    "rloo": {"beta": 0.01},
    "online-dpo": {"per_device_train_batch_size": 8, "beta": 0.1},
}
SILENT: dict[str, Any] = {"num_samples": 0, "eval_prompts": 0, "eval_strategy": "no"}


@pytest.fixture
def reward(tmp_path: Path) -> str:
    """The file with the rewards."""
    file = tmp_path / "rewards.py"
    file.write_text(REWARD)
    return str(file)


def train(world: World, folder: Path, method: str, reward: str, *listeners: Any, **settings: Any) -> Any:
    """A run with the reward ``even`` unless another is given."""
    chosen = {"reward_funcs": (f"{reward}:even",)} | SMALL | OWN.get(method, {}) | settings
    return run(world, folder, *listeners, method=method, **chosen)


@pytest.mark.parametrize("method", ONLINE)
def test_the_reward_rises_outside_its_interval(method: str, world: World, reward: str, tmp_path: Path) -> None:
    train(world, tmp_path / "run", method, reward)
    document = json.loads((tmp_path / "run/eval.json").read_text())
    assert document["method"] == method
    assert document["change"]["reward"]["low"] > 0.1
    assert document["after"]["kl"]["value"] > 0
    rows = curves(tmp_path / "run")
    first, last = ([row["reward"] for row in rows if "reward" in row][i] for i in (0, -1))
    assert last > first + 0.1
    assert {"completions/mean_length", "entropy"} <= set(rows[0])
    assert ("frac_reward_zero_std" in rows[0]) == (method != "ppo")  # which draws one completion a prompt


@pytest.mark.parametrize("method", ONLINE)
def test_an_adapter_moves_away_from_its_own_base(method: str, world: World, reward: str, tmp_path: Path) -> None:
    train(world, tmp_path / "run", method, reward, use_peft=True, lora_r=8, learning_rate=5e-2)
    document = json.loads((tmp_path / "run/eval.json").read_text())
    assert document["after"]["kl"]["low"] > 0
    assert (tmp_path / "run/model/adapter_config.json").is_file()
    if method != "grpo":  # which needs no reference
        assert document["reference"]["kind"] == "adapter switched off"


def test_an_adapter_learns_what_is_rewarded(world: World, reward: str, tmp_path: Path) -> None:
    """By the completions of training, 320 at either end: the few prompts that are held out say little."""
    adapter = {"use_peft": True, "lora_r": 8, "lora_alpha": 64, "lora_target_modules": "all-linear"}
    settings = SILENT | adapter | {"learning_rate": 1e-2, "max_steps": 100, "scale_rewards": "none"}
    train(world, tmp_path / "run", "grpo", reward, **settings)
    rewards = [row["reward"] for row in curves(tmp_path / "run") if "reward" in row]
    assert np.mean(rewards[-10:]) > np.mean(rewards[:10]) + 0.05


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("grpo", {"num_iterations": 3, "beta": 0.01, "reward_constraints": ("even<=0.3",)}),
        ("grpo", {"steps_per_generation": 4, "dynamic_sampling": True}),
        ("rloo", {"num_iterations": 2}),
        ("ppo", {"num_mini_batches": 2, "kl_target": 0.01, "kl_horizon": 100, "early_stop_kl": 1e-4}),
        ("online-dpo", {"reference_policy": "previous", "labels": "sampled"}),
    ],
)
def test_stopped_inside_a_window_and_resumed_is_the_same_as_never_stopped(
    method: str, settings: dict[str, Any], world: World, reward: str, tmp_path: Path
) -> None:
    settings = SILENT | {"max_steps": 9} | settings
    train(world, tmp_path / "whole", method, reward, **settings)
    cut = train(world, tmp_path / "cut", method, reward, stopping_at(5), **settings)
    assert cut.training.stopped == "SIGTERM"
    train(world, tmp_path / "cut", method, reward, resume=True, **settings)
    assert curves(tmp_path / "whole") == curves(tmp_path / "cut")
    ours, theirs = saved_weights(tmp_path / "whole"), saved_weights(tmp_path / "cut")
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("method", ["grpo", "rloo"])
def test_cutting_a_step_into_micro_batches_changes_nothing(
    method: str, world: World, reward: str, tmp_path: Path
) -> None:
    settings = SILENT | {"max_steps": 3, "learning_rate": 1e-4}
    whole = settings | {"per_device_train_batch_size": 32, "gradient_accumulation_steps": 1}
    cut = settings | {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 8}
    train(world, tmp_path / "whole", method, reward, **whole)
    train(world, tmp_path / "cut", method, reward, **cut)
    for name in ("loss", "grad_norm"):
        ours, theirs = ([row[name] for row in curves(tmp_path / run)] for run in ("whole", "cut"))
        assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("method", ["grpo", "ppo", "rloo"])
def test_the_ratio_is_one_before_the_first_step(method: str, world: World, reward: str, tmp_path: Path) -> None:
    more = {"num_ppo_epochs": 2} if method == "ppo" else {"num_iterations": 2}
    train(world, tmp_path / "run", method, reward, max_steps=1, temperature=0.7, **SILENT, **more)
    (row,) = [row for row in curves(tmp_path / "run") if "val/ratio" in row]
    assert row["val/ratio"] == pytest.approx(1.0, abs=1e-5)
    assert row["sampling/sampling_logp_difference/max"] < 1e-4


def test_a_group_whose_rewards_are_all_the_same_changes_nothing(world: World, reward: str, tmp_path: Path) -> None:
    settings = SILENT | {"max_steps": 3, "reward_funcs": (f"{reward}:constant",)}
    train(world, tmp_path / "run", "grpo", reward, **settings)
    rows = curves(tmp_path / "run")
    assert all(row["frac_reward_zero_std"] == 1.0 for row in rows)
    assert all("grad_norm" not in row for row in rows)


def test_dynamic_sampling_draws_until_rewards_differ(world: World, reward: str, tmp_path: Path) -> None:
    notes: list[str] = []
    settings = SILENT | {"max_steps": 2, "dynamic_sampling": True, "num_generations": 2, "max_resampling": 30}
    train(world, tmp_path / "run", "grpo", reward, listener(notes), **settings, max_completion_length=2)
    rows = curves(tmp_path / "run")
    assert all(row["dynamic_sampling/useful"] == 16 for row in rows)  # a window's groups
    assert any(row["dynamic_sampling/drawn"] > 16 and row["frac_reward_zero_std"] > 0 for row in rows)


def test_a_failing_reward_names_the_sample_and_is_no_zero(world: World, reward: str, tmp_path: Path) -> None:
    notes: list[str] = []
    settings = SILENT | {"max_steps": 1, "reward_funcs": (f"{reward}:failing",)}
    train(world, tmp_path / "run", "grpo", reward, listener(notes), **settings)
    assert any("no reward for odd beginnings" in note and "#" in note for note in notes)
    (row,) = [row for row in curves(tmp_path / "run") if "reward" in row]
    assert row["reward"] > 0.5  # whose first token is even
    assert 0 < row["rewards/failing/failed"] < 1
    assert row["nan_steps"] == 0
    assert 0 < row["grad_norm"] < math.inf


def test_rewards_normalised_each_by_itself_are_logged_as_they_are(world: World, reward: str, tmp_path: Path) -> None:
    rewards = (f"{reward}:even", f"{reward}:odd")
    settings = SILENT | {"max_steps": 1, "reward_funcs": rewards, "reward_weights": (1.0, 0.5)}
    train(world, tmp_path / "run", "grpo", reward, **settings, multi_objective_aggregation="normalize_then_sum")
    (row,) = [row for row in curves(tmp_path / "run") if "reward" in row]
    assert row["reward"] == pytest.approx(row["rewards/even/mean"] + 0.5 * row["rewards/odd/mean"])
    with pytest.raises(ValidationError, match="normalize_then_sum is GRPO's"):
        train(world, tmp_path / "other", "rloo", reward, multi_objective_aggregation="normalize_then_sum")


def test_a_reward_that_has_worked_may_fail_on_a_whole_window(world: World, tmp_path: Path) -> None:
    file = tmp_path / "later.py"
    file.write_text(
        "calls = []\ndef late(completion_ids, **columns):\n    calls.append(1)\n"
        "    if len(calls) > 1:\n        raise RuntimeError('away')\n"
        "    return [float(i[0] % 2) for i in completion_ids]\n"
    )
    settings = SILENT | SMALL | {"max_steps": 3, "reward_funcs": (f"{file}:late",)}
    notes: list[str] = []
    run(world, tmp_path / "run", listener(notes), method="grpo", **settings)
    assert any("away" in note for note in notes)
    assert sum("grad_norm" in row for row in curves(tmp_path / "run")) == 1


def test_prompts_longer_than_the_model_are_left_out_before_training(world: World, reward: str, tmp_path: Path) -> None:
    rows = [{"prompt": f"say {n} " * (200 if n == 3 else 1)} for n in range(8)]
    data = write_rows(tmp_path / "prompts.jsonl", rows)
    train(world, tmp_path / "run", "grpo", reward, data=str(data), max_steps=1, max_length=None, **SILENT)
    assert json.loads((tmp_path / "run/audit.json").read_text())["rejected"] == {"prompt-too-long": 1}


def test_a_constraint_raises_its_multiplier_until_it_is_kept(world: World, reward: str, tmp_path: Path) -> None:
    settings = {
        "reward_funcs": (f"{reward}:even", f"{reward}:odd"),
        "reward_weights": (1.0, 0.0),
        "reward_constraints": ("odd>=0.6",),
        "constraint_learning_rate": 1.0,
        "max_steps": 40,
    }
    train(world, tmp_path / "run", "grpo", reward, **settings)
    rows = [row for row in curves(tmp_path / "run") if "rewards/odd/mean" in row]
    assert rows[5]["constraints/odd/multiplier"] > 0
    assert np.mean([row["rewards/odd/mean"] for row in rows[-5:]]) > 0.5


def test_ppo_stops_a_window_that_has_gone_too_far(world: World, reward: str, tmp_path: Path) -> None:
    settings = SILENT | {"max_steps": 8, "num_ppo_epochs": 4, "early_stop_kl": 1e-6, "learning_rate": 1e-2}
    train(world, tmp_path / "run", "ppo", reward, **settings)
    rows = curves(tmp_path / "run")
    assert any(row.get("policy/early_stopped") for row in rows)
    assert sum("grad_norm" in row for row in rows) < 8


def test_ppo_adapts_the_price_of_the_kl(world: World, reward: str, tmp_path: Path) -> None:
    settings = SILENT | {"max_steps": 12, "kl_target": 1e-4, "kl_horizon": 50, "kl_coef": 0.01}
    train(world, tmp_path / "run", "ppo", reward, **settings)
    prices = [row["kl_coef"] for row in curves(tmp_path / "run") if "kl_coef" in row]
    assert prices[-1] > prices[0]


def test_a_reward_model_gives_the_same_rewards_under_the_value_models_adapter(
    world: World, reward: str, tmp_path: Path
) -> None:
    run(world, tmp_path / "reward", method="reward", learning_rate=3e-3, num_samples=0, num_completions=0)
    settings = SILENT | {"reward_funcs": (str(tmp_path / "reward/model"),), "max_steps": 6, "use_peft": True}
    rows = {}
    for name, shared in (("apart", {}), ("shared", {"share_reward_trunk": True})):
        train(world, tmp_path / name, "ppo", reward, **settings | shared)
        rows[name] = curves(tmp_path / name)
        assert (tmp_path / name / "value_model/adapter_config.json").is_file()
        assert all(math.isfinite(row["loss"]) for row in rows[name] if "loss" in row)
    # Apart it is loaded in the device's own precision, bfloat16, beneath the value model in the run's.
    assert rows["apart"][0]["reward"] == pytest.approx(rows["shared"][0]["reward"], rel=0.02)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_generations": 5}, "no multiple of 5"),
        ({"num_generations": 1}, "nothing to be compared with"),
        ({"steps_per_generation": 3}, "no multiple of gradient_accumulation_steps"),
    ],
)
def test_what_does_not_divide_is_said_before_anything_is_loaded(
    settings: dict[str, Any], message: str, world: World, tmp_path: Path
) -> None:
    with pytest.raises(ValidationError, match=message):
        run(world, tmp_path / "run", method="grpo", **SMALL | settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"reward_funcs": ("nonesuch",)}, "nonesuch"),
        ({"reward_funcs": ()}, "reward"),
        ({"max_completion_length": 64}, "leave no room"),
        ({"reward_constraints": ("length>>3",)}, "no constraint"),
        ({"reward_constraints": ("length>=3",)}, "none of the rewards"),
    ],
)
def test_bad_settings_end_with_a_sentence(
    settings: dict[str, Any], message: str, world: World, reward: str, tmp_path: Path
) -> None:
    with pytest.raises(PreftuneError, match=message):
        train(world, tmp_path / "run", "grpo", reward, **settings)


def test_losses_of_a_step_say_little_but_are_finite(world: World, reward: str, tmp_path: Path) -> None:
    train(world, tmp_path / "run", "grpo", reward, **SILENT, max_steps=4, loss_type="grpo")
    assert all(abs(loss) < 1e-3 for loss in losses(tmp_path / "run"))


def test_prompts_alone_are_enough(world: World, reward: str, tmp_path: Path) -> None:
    rows = [{"prompt": f"say {word}", "answer": word} for word in ("one", "two", "three", "four", "five", "six")]
    data = write_rows(tmp_path / "prompts.jsonl", rows)
    train(world, tmp_path / "run", "grpo", reward, data=str(data), max_steps=2, **SILENT)
    assert json.loads((tmp_path / "run/audit.json").read_text())["read"] == 6
