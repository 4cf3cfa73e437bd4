"""From margins of held-out models to the rate of flipped labels and each row's probability of being one.

A margin is positive where a model that never saw the row agrees with its label. With the rate e of flips, and
q = sigmoid(slopes . margins) the probability that the right label is the given one, the label is as seen with
probability (1 - e) q + e (1 - q): a logistic curve that ends at 1 - e instead of 1, as a psychometric curve with
lapses does (Wichmann and Hill 2001, The psychometric function I). The rate shows where the model is surest: there
it still disagrees in a share e of the rows. So a weak model, which is never sure, tells nothing of e, and the
interval says so.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, log_expit

from preftune.audit.pair_features import Floats
from preftune.intervals import NORMAL_95

RATES = np.linspace(0.0, 0.49, 50)  # a rate of one half would make the labels coin flips, and nothing could be known
STEEPEST = 30.0  # slope times the margins' deviation; perfectly separated rows have no finite slope
FITTED_ROWS = 50_000  # more rows move the estimate by less than its interval shows


@dataclass(frozen=True)
class FlipModel:
    """Slopes (rates, witnesses) for each of ``RATES``, and how likely the rate is, given the margins."""

    slopes: Floats
    weights: Floats

    @property
    def rate(self) -> float:
        """The mean of the rate."""
        return float(self.weights @ RATES)

    def rate_interval(self) -> tuple[float, float]:
        """Where the rate lies with probability 95%, all rates below one half alike beforehand."""
        sums = np.concatenate([[0.0], np.cumsum(self.weights)])
        edges = np.concatenate([[0.0], (RATES[1:] + RATES[:-1]) / 2, [0.5]])
        low, high = np.interp([0.025, 0.975], sums, edges)
        return float(low), float(high)


def fit_flips(margins: Floats, design_effect: float = 1.0, seed: int = 0) -> FlipModel:
    """The rate and slopes by profile likelihood; ``margins`` is (rows, witnesses).

    ``design_effect`` is how many rows count as one where those of a prompt hang together; it widens the interval.
    """
    margins = _drawn(margins, seed)
    scale = np.maximum(np.sqrt((margins**2).mean(0)), 1e-12)
    slopes = np.empty((len(RATES), margins.shape[1]))
    likelihoods = np.empty(len(RATES))
    start = np.ones(margins.shape[1])
    for index, rate in enumerate(RATES):
        start, likelihoods[index] = _best_slopes(margins / scale, float(rate), start)
        slopes[index] = start / scale
    weights = np.exp((likelihoods - likelihoods.max()) / max(1.0, design_effect))
    return FlipModel(slopes, weights / weights.sum())


def flip_probabilities(model: FlipModel, margins: Floats) -> Floats:
    """(rows,): the probability that the label is flipped, averaged over what the rate may be."""
    found = np.zeros(len(margins))
    for rate, slopes, weight in zip(RATES, model.slopes, model.weights, strict=True):
        if weight > 1e-6:
            found += weight * _flipped(float(rate), margins @ slopes)
    return found


def expected_flips(model: FlipModel, margins: Floats) -> tuple[float, float, float]:
    """The share of these rows that is flipped, with its 95% interval: the rate's uncertainty and the rows' own."""
    chances = np.array(
        [_flipped(float(rate), margins @ slopes) for rate, slopes in zip(RATES, model.slopes, strict=True)]
    )
    means = chances.mean(1)
    mean = float(model.weights @ means)
    within = model.weights @ (chances * (1 - chances)).sum(1) / len(margins) ** 2
    half = NORMAL_95 * float(np.sqrt(within + model.weights @ (means - mean) ** 2))
    return mean, max(0.0, mean - half), min(1.0, mean + half)


def _flipped(rate: float, fits: Floats) -> Floats:
    """Bayes' rule: the label is flipped, and the right one is the other."""
    wrong = expit(-fits)
    return rate * wrong / np.maximum(rate * wrong + (1 - rate) * (1 - wrong), 1e-300)


def _drawn(margins: Floats, seed: int) -> Floats:
    if len(margins) <= FITTED_ROWS:
        return margins
    return margins[np.random.default_rng(seed).choice(len(margins), FITTED_ROWS, replace=False)]


def _best_slopes(margins: Floats, rate: float, start: Floats) -> tuple[Floats, float]:
    """Slopes from 0 to ``STEEPEST`` that make the labels likeliest, and that log-likelihood."""

    def cost(slopes: Floats) -> tuple[float, Floats]:
        fits = margins @ slopes
        right = expit(fits)
        seen = rate + (1 - 2 * rate) * right
        logs = log_expit(fits) if rate == 0 else np.log(seen)
        pulls = (1 - 2 * rate) * right * (1 - right) / np.maximum(seen, 1e-300)
        pulls = expit(-fits) if rate == 0 else pulls
        return -float(logs.sum()), -(pulls @ margins)

    found = minimize(cost, start, jac=True, method="L-BFGS-B", bounds=[(0.0, STEEPEST)] * margins.shape[1])
    return found.x, -float(found.fun)
