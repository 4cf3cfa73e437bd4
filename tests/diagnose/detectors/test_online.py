from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from preftune.diagnose.findings import CannotTell, Finding, Nothing, Outcome
from preftune.diagnose.series import Sample
from tests.diagnose.detectors.synthetic import N, ask, healthy, line, noisy, rising


def grpo(name: str, **changes: Any) -> Outcome:
    return ask(name, healthy("grpo", **changes))


def ppo(name: str, **changes: Any) -> Outcome:
    return ask(name, healthy("ppo", **changes))


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("D03", {"completions__mean_length": noisy(line(100, 200), 4)}),
        ("D04", {"completions__clipped_ratio": np.clip(noisy(line(0.0, 0.4), 0.02), 0, 1)}),
        ("D05", {"rep__distinct3": noisy(line(0.9, 0.2), 0.02)}),
        (
            "D06",
            {"entropy": np.abs(noisy(rising(1.2, 0.02), 0.005)), "reward": noisy(np.minimum(line(0, 6), 1.5), 0.05)},
        ),
        (  # the reward gains next to nothing any more, however surely
            "D06",
            {"entropy": np.abs(noisy(rising(1.2, 0.02), 0.005)), "reward": np.minimum(line(0, 6), 1.5) + line(0, 0.01)},
        ),
        (  # and comes back only to where it was
            "D06",
            {
                "entropy": np.abs(noisy(rising(1.2, 0.02), 0.005)),
                "reward": noisy(
                    np.concatenate([line(0, 2, 35), np.full(15, 2), np.full(20, -1), line(1, 2, 10), np.full(40, 2)]),
                    0.02,
                ),
            },
        ),
        ("D07", {"entropy": noisy(line(1.2, 6.0), 0.05), "reward": noisy(line(1, -1), 0.05)}),
        ("D08", {"objective__kl": np.concatenate([line(0, 5, 100), line(5, 90, 20)])}),
        ("D09", {"kl": noisy(0.05, 0.001)}),
        ("D09", {"kl": noisy(-0.04, 0.001), "config": {"kl_estimator": "k3"}}),
        ("D10", {"policy__approxkl_avg": np.abs(noisy(0.2, 0.02))}),
        ("D10", {"val__ratio": noisy(0.5, 0.02)}),
        ("D15", {"frac_reward_zero_std": np.clip(noisy(0.7, 0.05), 0, 1)}),
        ("D16", {"grad_snr": noisy(0.0, 0.05), "reward": noisy(0.2, 0.1), "config": {"num_generations": 2}}),
        ("D17", {"adv__mean": noisy(0.1, 0.01)}),
        ("D17", {"adv__std": noisy(0.5, 0.01), "config": {"scale_rewards": "group"}}),
        ("D18", {"reward": np.zeros(N), "reward_std": np.zeros(N)}),
        ("D18", {"rewards__a__std": np.zeros(N), "rewards__b__std": noisy(0.5)}),
        ("D18", {"rewards__a__std": noisy(0.1, 0.001), "rewards__b__std": noisy(5.0)}),
        ("D34", {"sampling__sampling_logp_difference__mean": noisy(0.3, 0.02)}),
        ("D34", {"sampling__importance_sampling_ratio__mean": noisy(0.7, 0.02)}),
        ("D35", {"clip_ratio__high_mean": noisy(0.5, 0.02), "config": {"num_iterations": 16}}),
        ("D27", {"reward": noisy(np.concatenate([line(0, 1, 60), line(1, -3, 60)]), 0.05)}),
        (  # ruined by the first step; what it wins back later does not make it good
            "D27",
            {"reward": noisy(np.concatenate([[0.0], np.full(19, -1.0), line(-1, 0.1, 30), np.full(70, 0.1)]), 0.05)},
        ),
        ("D28", {"objective__kl": np.full(N, 1e-7), "reward": noisy(0.2, 0.1)}),
    ],
)
def test_what_is_broken_is_found(name: str, changes: dict[str, Any]) -> None:
    found = grpo(name, **changes)
    assert isinstance(found, Finding)
    assert found.id == name
    assert found.remedy.endswith((".", "?"))
    assert all(np.isfinite(one.value) for one in found.evidence)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("D06", {"entropy": np.abs(noisy(rising(1.2, 0.02), 0.005)), "reward": noisy(line(0, 2), 0.05)}),  # still rises
        (
            "D06",
            {"entropy": np.abs(noisy(rising(1.2, 0.02), 0.005)), "reward": np.clip(noisy(rising(0, 1.1), 0), 0, 1)},
        ),
        ("D09", {"kl": np.concatenate([[0.0], noisy(-0.005, 0.004, n=N - 1)]), "config": {"kl_estimator": "k1"}}),
        ("D15", {"frac_reward_zero_std": np.clip(noisy(0.4, 0.1), 0, 1)}),
        ("D16", {"grad_snr": noisy(0.0, 0.05), "config": {"num_generations": 2}}),  # the reward rises
        ("D16", {"grad_snr": noisy(0.0, 0.05), "reward": noisy(0.2, 0.1)}),  # eight completions
        ("D27", {"loss": noisy(0.0, 0.05)}),
        ("D27", {"reward": noisy(np.concatenate([line(0, 1, 60), np.full(4, -1.0), line(1, 1.5, 56)]), 0.05)}),  # brief
        ("D28", {"reward": noisy(0.2, 0.1)}),  # the policy moves, though the reward does not
        ("D35", {"clip_ratio__high_mean": noisy(0.5, 0.02), "config": {"num_iterations": 1}}),
    ],
)
def test_what_only_looks_broken_is_left_in_peace(name: str, changes: dict[str, Any]) -> None:
    assert grpo(name, **changes) == Nothing()


def test_solved_prompts_are_a_hint_only() -> None:
    reward = np.clip(rising(0.2, 1.05), 0, 1)
    found = grpo("D15", reward=reward, frac_reward_zero_std=noisy(0.95, 0.01))
    assert isinstance(found, Finding)
    assert found.severity == "hint"


def test_answers_all_cut_from_the_start_are_an_error() -> None:
    found = grpo("D04", completions__clipped_ratio=np.ones(N))
    assert isinstance(found, Finding)
    assert (found.severity, "EOS" in found.why) == ("error", True)


def test_length_at_the_end_of_the_room_is_an_error() -> None:
    found = grpo("D03", completions__mean_length=noisy(rising(80, 256), 1))
    assert isinstance(found, Finding)
    assert found.severity == "error"


def test_samples_that_repeat_themselves_are_found() -> None:
    early = tuple(Sample(1, str(i), f"the {word} went home by the old road", 9) for i, word in enumerate("abcdefghij"))
    late = tuple(Sample(N, str(i), f"{word} " + "very good indeed " * 9, 28) for i, word in enumerate("abcdefghij"))
    assert isinstance(grpo("D05", samples=early + late, rep__distinct3=None), Finding)
    assert isinstance(grpo("D05", samples=early, rep__distinct3=None), CannotTell)


def test_a_critic_worse_than_the_mean_is_found() -> None:
    assert isinstance(ppo("D11", explained_variance=noisy(-0.4, 0.05)), Finding)
    assert ppo("D11", explained_variance=noisy(line(-1, 0.3), 0.05)) == Nothing()


def test_kl_above_its_target_is_found() -> None:
    assert isinstance(ppo("D08", objective__kl=noisy(line(0, 30), 0.5), config={"kl_target": 6.0}), Finding)
    assert ppo("D08", objective__kl=noisy(rising(0, 8), 0.5), config={"kl_target": 6.0}) == Nothing()


def test_another_reference_shows_in_the_first_window_of_several_steps() -> None:
    log = healthy("ppo", objective__kl=noisy(8.0, 0.2), kl=None, config={"num_ppo_epochs": 4})
    assert isinstance(ask("D09", log), Finding)


def test_polarised_prompts_are_told_from_chance() -> None:
    reward, spread = noisy(0.5, 0.01), noisy(0.5, 0.01)
    found = grpo("D15", reward=reward, reward_std=spread, frac_reward_zero_std=noisy(0.8, 0.02))
    assert isinstance(found, Finding)
    assert "polarised" in found.why


@pytest.mark.parametrize("name", ["D03", "D04", "D06", "D08", "D10", "D11", "D15", "D16", "D34"])
def test_twelve_points_are_too_few(name: str) -> None:
    log = healthy("ppo" if name == "D11" else "grpo")
    from preftune.diagnose.statistics import up_to

    least = 8 if name == "D34" else 12
    assert isinstance(ask(name, up_to(log, least)), CannotTell)
