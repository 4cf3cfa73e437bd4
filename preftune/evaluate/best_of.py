"""What best of n of the start would give, and which n the trained model is worth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from jaxtyping import Float

from preftune.collect.best_of_n_figures import kl_of_best
from preftune.evaluate.bootstrap import bootstrap_mean, cluster_draws, interval_of
from preftune.evaluate.measures import Measure
from preftune.evaluate.not_taken import CannotTake

BEST_OF: Final = "worth_best_of"
Scores = Float[np.ndarray, "prompts draws"]


@dataclass(frozen=True)
class BestOfPoint:
    """The mean reward of the best of ``n`` answers, and how far that is from the start at most, in nats."""

    n: int
    kl: float
    reward: Measure


@dataclass(frozen=True)
class BestOfCurve:
    """The curve of the start, and how many of its draws the trained model is worth (None without a trained one)."""

    points: tuple[BestOfPoint, ...]
    worth: Measure | None
    sentence: str

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "points": [{"n": one.n, "kl": one.kl, "reward": one.reward.as_dict()} for one in self.points],
            "worth": None if self.worth is None else self.worth.as_dict(),
            "sentence": self.sentence,
        }


def best_of_curve(scores: Scores, trained: Sequence[float] | None = None, *, seed: int = 0) -> BestOfCurve:
    """The expected reward of the best of n for n up to the draws a prompt has, over prompts.

    Exact over all choices of n draws without replacement, so unbiased. ``trained`` is the trained model's mean
    reward on each prompt. CannotTake where no prompt has all its scores.
    """
    scores = np.asarray(scores, dtype=np.float64)
    known = np.isfinite(scores).all(1) if scores.size else np.zeros(0, dtype=bool)
    if not known.any():
        raise CannotTake("No prompt has a reward for all of its answers, so there is no best of n.")
    expected = expected_best(scores[known])
    sizes = sorted({2**power for power in range(scores.shape[1].bit_length())} & set(range(1, scores.shape[1] + 1)))
    sizes = sorted({*sizes, scores.shape[1]})
    points = tuple(
        BestOfPoint(n, kl_of_best(n), bootstrap_mean(expected[:, n - 1], range(len(expected)), "", *_titled(n), seed))
        for n in sizes
    )
    if trained is None:
        return BestOfCurve(points, None, "")
    worth = worth_best_of(expected, np.asarray(trained, dtype=np.float64)[known], seed=seed)
    return BestOfCurve(points, worth, _sentence(worth, scores.shape[1]))


def expected_best(scores: Scores) -> Scores:
    """Of each prompt the mean of the best of 1, 2 ... all of its scores, over all choices without replacement.

    The i-th of N scores in rising order is the best of n in C(i - 1, n - 1) of C(N, n) choices.
    """
    total = scores.shape[1]
    weights = np.zeros((total, total))
    for n in range(1, total + 1):
        choices = math.comb(total, n)
        for place in range(n, total + 1):
            weights[n - 1, place - 1] = math.comb(place - 1, n - 1) / choices
    return np.sort(scores, axis=1) @ weights.T


def worth_best_of(expected: Scores, trained: Float[np.ndarray, "prompts"], *, seed: int = 0) -> Measure:
    """The n whose best of n has the trained model's mean reward, between two n by the logarithm.

    A model below one draw is worth 1, one above all draws that many: the explanation says so. The interval is a
    bootstrap over prompts of both curves together.
    """
    known = np.isfinite(trained)
    expected, trained = expected[known], trained[known]
    if len(trained) == 0:
        raise CannotTake("No prompt has rewards of both models.")
    value = _crossing(expected.mean(0), float(trained.mean()))
    title = "Training is worth best of"
    if len(trained) < 2:
        return Measure(value, 1.0, float(expected.shape[1]), len(trained), "draws", title, _WORTH)
    found = [
        _crossing(curve, reward)
        for times in cluster_draws(len(trained), seed, 1000)
        for curve, reward in zip(times @ expected / len(trained), times @ trained / len(trained), strict=True)
    ]
    low, high = interval_of(np.array(found), len(trained))
    return Measure(value, low, high, len(trained), "draws", title, _WORTH)


_WORTH: Final = (
    "How many answers of the start one would have to draw, keeping the best by the same reward, for the trained "
    "model's mean reward. Measured between 1 and the number of answers drawn; an end there may lie beyond."
)


def _crossing(curve: np.ndarray, reward: float) -> float:
    """The n at which the rising curve over n = 1, 2 ... reaches the reward."""
    if reward <= curve[0]:
        return 1.0
    if reward >= curve[-1]:
        return float(len(curve))
    above = int(np.argmax(curve >= reward))  # the first; it is at least 1 here
    share = (reward - curve[above - 1]) / (curve[above] - curve[above - 1])
    return float(math.exp(math.log(above) + share * (math.log(above + 1) - math.log(above))))


def _titled(n: int) -> tuple[str, str]:
    return f"Reward of the best of {n}", "Over prompts; of all choices of so many answers the mean best one."


def _sentence(worth: Measure, most: int) -> str:
    beyond = " or more" if worth.high >= most else ""
    interval = f"(95% interval {worth.low:.1f} to {worth.high:.1f}{beyond}, n = {worth.n:,} prompts)"
    if worth.value >= most:
        return f"By this reward training is worth more than the best of {most} answers of the start {interval}."
    if worth.value <= 1:
        return f"By this reward training is worth no more than one answer of the start {interval}."
    return f"Training is worth the best of {worth.value:.1f} answers of the start {interval}."
