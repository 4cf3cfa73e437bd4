"""The length-controlled win rate: length alone is worth nothing, and what cannot be fitted is refused."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit

from preftune.evaluate.length_control import length_controlled_win_rate
from preftune.evaluate.not_taken import CannotTake


def drawn(theta: float, phi: float, n: int = 600, shift: float = 60, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Verdicts by the model itself, and the lengths of both answers."""
    random = np.random.default_rng(seed)
    lengths = np.stack([random.normal(400 + shift, 120, n), random.normal(400, 120, n)], 1)
    gaps = lengths[:, 0] - lengths[:, 1]
    wins = random.random(n) < expit(theta + phi * np.tanh(gaps / gaps.std()))
    return wins.astype(float), lengths


def test_verdicts_by_length_alone_are_an_even_game_at_equal_lengths() -> None:
    points, lengths = drawn(0.0, 2.5, seed=1)
    assert points.mean() > 0.58  # the longer model wins
    found = length_controlled_win_rate(points, lengths, range(600))
    assert found.low < 0.5 < found.high
    assert found.value == pytest.approx(0.5, abs=0.06)


def test_what_is_no_length_stays() -> None:
    points, lengths = drawn(0.8, -1.0)
    found = length_controlled_win_rate(points, lengths, range(600))
    assert found.value == pytest.approx(expit(0.8), abs=0.05)
    assert found.low < expit(0.8) < found.high


def test_fit_is_the_maximum_of_the_likelihood() -> None:
    points, lengths = drawn(0.3, 1.0, n=80)
    points[:10] = 0.5  # ties
    found = length_controlled_win_rate(points, lengths, range(80))
    gaps = lengths[:, 0] - lengths[:, 1]
    feature = np.tanh(gaps / gaps.std())

    def likelihood(theta: float, phi: float) -> float:
        logits = theta + phi * feature
        return float((points * logits - np.logaddexp(0, logits)).sum())

    theta = np.log(found.value / (1 - found.value))
    best = max(likelihood(theta, phi) for phi in np.linspace(-4, 4, 801))
    assert all(max(likelihood(theta + step, phi) for phi in np.linspace(-4, 4, 801)) < best for step in (-0.05, 0.05))


@pytest.mark.parametrize(
    ("points", "lengths", "words"),
    [
        (np.ones(30), np.random.default_rng(0).normal(9, 1, (30, 2)), "the same"),
        (np.array([1.0, 0.0] * 15), np.full((30, 2), 7.0), "same everywhere"),
        (np.array([1.0, 0.0] * 15), np.stack([np.arange(30) + 50.0, np.arange(30) % 7], 1), "never the shorter"),
        (np.array([1.0, 0.0] * 5), np.random.default_rng(0).normal(9, 1, (10, 2)), "too few"),
        (
            np.array([1.0] * 15 + [0.0] * 15),
            np.stack([np.r_[np.full(15, 9.0), np.full(15, 1.0)], np.full(30, 5.0)], 1),
            "Length alone decides",
        ),
    ],
)
def test_what_cannot_be_fitted_is_refused(points: np.ndarray, lengths: np.ndarray, words: str) -> None:
    with pytest.raises(CannotTake, match=words):
        length_controlled_win_rate(points, lengths, range(len(points)))
