"""The length-controlled win rate: what the win rate would be if both answers were of one length.

The model is that of AlpacaEval 2 (Dubois et al. 2024, arXiv:2404.04475, section 3) for two models only:

    logit P(first wins) = theta + phi * tanh((len_1 - len_2) / std(len_1 - len_2))

and the controlled win rate is sigmoid(theta), the prediction at equal lengths. The paper's third term, how hard each
instruction is, comes from the verdicts on many other models and cannot be told from two. Lengths are characters, as
in the paper; verdicts may be halves. There is no regularisation: where nothing but that would give a figure, none is
given.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Final

import numpy as np
from jaxtyping import Float

from preftune.evaluate.bootstrap import cluster_draws, interval_of
from preftune.evaluate.measures import Measure
from preftune.evaluate.not_taken import CannotTake
from preftune.evaluate.win_rate import Points
from preftune.intervals import cluster_numbers

FEWEST: Final = 20  # comparisons for two coefficients
_ENDLESS: Final = 15.0  # a coefficient beyond has run away: verdicts and length are separated
_MOST_LOST: Final = 0.05  # of the resamples may have no fit
_DRAWS: Final = 1000
_STEPS: Final = 50
EXPLANATION: Final = (
    "What the win rate would be if both answers had the same length: a logistic regression of the verdict on the "
    "difference of lengths (Dubois et al. 2024, without the term for the instruction's difficulty, which two models "
    "cannot tell)."
)
_Rows = Float[np.ndarray, "draws comparisons"]


def length_controlled_win_rate(
    points: Points,
    lengths: Float[np.ndarray, "comparisons 2"],
    prompts: Sequence[Hashable],
    title: str = "Length-controlled win rate",
    *,
    seed: int = 0,
) -> Measure:
    """The win rate at equal lengths, its interval a bootstrap of the whole fit over prompts.

    ``lengths`` are those of the first and the second answer. CannotTake where it cannot be fitted: too few
    comparisons, one outcome only, lengths that do not differ or never change sign, verdicts that length decides alone.
    """
    known = np.isfinite(points)
    values, gaps = points[known], np.asarray(lengths, np.float64)[known]
    keys = cluster_numbers([one for one, kept in zip(prompts, known, strict=True) if kept])
    feature = _feature(values, gaps[:, 0] - gaps[:, 1], keys)
    (found,), (fitted,) = _fit(feature, values, np.ones((1, len(values))))
    if not fitted:
        raise CannotTake("Length alone decides every verdict, so that no win rate at equal lengths can be told.")
    resampled, lost, count = [], 0, int(keys.max()) + 1
    for times in cluster_draws(count, seed, _DRAWS):
        intercepts, good = _fit(feature, values, times[:, keys])
        resampled.append(intercepts[good])
        lost += int((~good).sum())
    if lost > _MOST_LOST * _DRAWS:
        raise CannotTake(f"In {lost / _DRAWS:.0%} of the resamples length alone decides; more comparisons are needed.")
    low, high = interval_of(np.concatenate(resampled), count)
    value, low, high = _share(np.array([found, low, high])).tolist()
    return Measure(value, low, high, len(values), "share", title, EXPLANATION)


def _feature(values: Points, gaps: np.ndarray, clusters: np.ndarray) -> Float[np.ndarray, "comparisons"]:
    """tanh of the standardised differences of lengths; CannotTake where they carry no fit."""
    if len(values) < FEWEST or clusters.max(initial=-1) < 1:
        raise CannotTake(f"{len(values)} comparisons are too few to control for length; {FEWEST} are needed.")
    if values.min() == values.max():
        raise CannotTake("All verdicts are the same, so nothing can be said of what length does to them.")
    spread = float(gaps.std())
    if spread == 0.0:
        raise CannotTake("The lengths differ by the same everywhere, so their part cannot be told from the model's.")
    if gaps.min() >= 0 or gaps.max() <= 0:
        side = "first" if gaps.min() >= 0 else "second"
        raise CannotTake(
            f"The {side} answer is never the shorter one: a win rate at equal lengths would be extrapolated."
        )
    return np.tanh(gaps / spread)


def _fit(feature: np.ndarray, values: Points, weights: _Rows) -> tuple[np.ndarray, np.ndarray]:
    """Of each row of weights the intercept of the most likely fit, by Newton's steps, and whether there is one."""
    intercept, slope = np.zeros(len(weights)), np.zeros(len(weights))
    moved = np.full(len(weights), np.inf)
    for _ in range(_STEPS):
        wins = _share(intercept[:, None] + slope[:, None] * feature)
        rest, curve = weights * (values - wins), weights * wins * (1 - wins)
        first, second = rest.sum(1), rest @ feature
        a, b, c = curve.sum(1), curve @ feature, curve @ feature**2
        determinant = np.maximum(a * c - b * b, 1e-300)
        steps = np.stack([(c * first - b * second) / determinant, (a * second - b * first) / determinant])
        steps = np.clip(np.nan_to_num(steps), -3.0, 3.0)
        intercept, slope = np.clip(intercept + steps[0], -50, 50), np.clip(slope + steps[1], -50, 50)
        moved = np.abs(steps).max(0)
        if (moved < 1e-9).all():
            break
    fitted = (moved < 1e-6) & (np.abs(intercept) < _ENDLESS) & (np.abs(slope) < _ENDLESS)
    return intercept, fitted


def _share(logits: np.ndarray) -> np.ndarray:
    from scipy.special import expit

    return expit(logits)
