"""PPO's experiences, worked out by hand: rewards a token, advantages and returns."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from preftune.methods.experience import Experience
from preftune.methods.ppo import with_advantages
from preftune.methods.ppo_settings import PPOConfig

COEF = 0.1
OLD, REFERENCE = ([-1.0, -2.0], [-0.5]), ([-1.1, -1.8], [-0.8])  # KL a token: 0.1, -0.2; 0.3
VALUES, SCORES = ([0.5, 0.6], [0.2]), [1.0, -0.5]


def learned(**settings: Any) -> tuple[list[Experience], dict[str, tuple[float, float]]]:
    config = PPOConfig(model="m", output_dir="o", lam=0.5, **settings)
    accelerator = SimpleNamespace(num_processes=1, process_index=0)
    online: Any = SimpleNamespace(context=SimpleNamespace(config=config, accelerator=accelerator))
    experiences = [
        Experience(str(i), i, np.array([1]), np.arange(len(old)), True, per_token_of(old, reference))
        for i, (old, reference) in enumerate(zip(OLD, REFERENCE, strict=True))
    ]
    values = [np.array(one) for one in VALUES]
    return with_advantages(online, experiences, values, np.array(SCORES), COEF)


def per_token_of(old: list[float], reference: list[float]) -> dict[str, np.ndarray]:
    return {"old": np.array(old), "reference": np.array(reference), "known": np.ones(len(old))}


def test_advantages_and_returns_are_those_of_the_hand_computation() -> None:
    """Rewards -0.01, 0.02 + 1; -0.03 - 0.5. Errors 0.09, 0.42; -0.73. Advantages 0.09 + 0.5 x 0.42, 0.42; -0.73."""
    (first, second), figures = learned(whiten_advantages=False)
    assert first.per_token["advantages"] == pytest.approx([0.30, 0.42])
    assert first.per_token["returns"] == pytest.approx([0.80, 1.02])
    assert second.per_token["advantages"] == pytest.approx([-0.73])
    assert second.per_token["returns"] == pytest.approx([-0.53])
    assert figures["objective/kl"] == pytest.approx((0.2, 2))
    assert figures["objective/non_score_reward"] == pytest.approx((-0.02, 2))
    assert figures["objective/rlhf_reward"] == pytest.approx((0.48, 2))


def test_k2_prices_half_the_square() -> None:
    """KL a token 0.005, 0.02; 0.045: rewards -0.0005, 0.998; -0.5045."""
    (first, second), _ = learned(kl_estimator="k2", whiten_advantages=False)
    assert first.per_token["advantages"] == pytest.approx([0.0995 + 0.5 * 0.398, 0.398])
    assert second.per_token["returns"] == pytest.approx([-0.5045])


def test_whitened_advantages_have_mean_0_and_deviation_1_over_the_window() -> None:
    (raw, _), (found, _) = learned(whiten_advantages=False), learned(whiten_advantages=True)
    before, after = (np.concatenate([one.per_token["advantages"] for one in part]) for part in (raw, found))
    assert after == pytest.approx((before - before.mean()) / before.std(ddof=1), abs=1e-6)
