"""Foreign names as ours, in the spelling of each tool and tracker."""

from __future__ import annotations

import pytest

from preftune.diagnose.method import told_method
from preftune.diagnose.names import OURS, canonical, is_known, nearest, told_unknown


@pytest.mark.parametrize(
    ("logged", "ours"),
    [
        ("train/rewards/chosen", "rewards/chosen"),
        ("eval/rewards/margins", "eval_rewards/margins"),
        ("eval_loss", "eval_loss"),
        ("eval/eval_loss", "eval_loss"),
        ("train/objective/kl", "objective/kl"),
        ("rewards_train/chosen", "rewards/chosen"),
        ("logps_eval/rejected", "eval_logps/rejected"),
        ("loss/train", "loss"),
        ("rewards_train/KL_estimate", "kl"),
        ("actor/entropy", "entropy"),
        ("actor/pg_clipfrac", "policy/clipfrac_avg"),
        ("critic/score/mean", "reward"),
        ("response_length/clip_ratio", "completions/clipped_ratio"),
        ("val-core/openai/gsm8k/reward/mean@1", "eval_reward"),
        ("train/actor_lr", "learning_rate"),
        ("train/acc_mean", "rewards/accuracies"),
        ("ppo/policy/approxkl", "policy/approxkl_avg"),
        ("something/else", "something/else"),
        ("eval/something", "eval_something"),
    ],
)
def test_foreign_names_are_ours(logged: str, ours: str) -> None:
    assert canonical(logged).name == ours


def test_every_name_of_ours_is_its_own() -> None:
    assert {name for name in OURS if canonical(name) != (name, 1.0)} == set()


def test_units_are_made_ours() -> None:
    assert canonical("perf/max_memory_allocated_gb") == ("memory/cuda_peak_mib", 1024.0)
    assert canonical("actor/lr(1e-4)") == ("learning_rate", 1e-4)


def test_unknown_names_are_told_with_what_they_are_like() -> None:
    assert nearest("rewards/margin") == "rewards/margins"
    assert nearest("zzzz") is None
    assert told_unknown(["loss", "perf/anything", "grad_nrm"]) == "grad_nrm (like grad_norm?)"
    many = told_unknown([f"zzz{i}" for i in range(9)])
    assert many == "zzz0, zzz1, zzz2, zzz3, zzz4, zzz5 and 3 more"


def test_families_of_a_tool_are_no_unknown_names() -> None:
    for name in ("rewards/format/mean", "timing_s/gen", "eval_runtime", "train_samples_per_second", "system/gpu"):
        assert is_known(name), name


@pytest.mark.parametrize(
    ("names", "config", "method"),
    [
        ({"rewards/chosen", "rewards/margins", "logps/chosen"}, {}, "dpo"),
        ({"rewards/chosen", "rewards/margins", "logps/chosen"}, {"loss_type": ["ipo"]}, "ipo"),
        ({"rewards/chosen", "kl"}, {}, "kto"),
        ({"rewards/chosen", "log_odds_ratio", "nll_loss"}, {}, "orpo"),
        ({"rewards/chosen", "logps/chosen", "nll_loss"}, {}, None),
        ({"frac_reward_zero_std", "reward"}, {}, "grpo"),
        ({"reward", "completions/mean_length"}, {"adv_estimator": "rloo"}, "rloo"),
        ({"loss/value_avg", "reward"}, {}, "ppo"),
        ({"accuracy", "margin"}, {}, "reward"),
        ({"loss", "mean_token_accuracy"}, {}, "sft"),
        ({"loss"}, {}, None),
        ({"loss"}, {"method": "simpo"}, "simpo"),
    ],
)
def test_method_is_told_by_settings_or_measures(names: set[str], config: dict[str, object], method: str | None) -> None:
    assert told_method(names, config) == method
