"""Intervals by drawing whole clusters anew: what hangs together (the answers to a prompt) stays together."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import replace
from typing import Final

import numpy as np
from jaxtyping import Float, Int

from preftune.evaluate.measures import Measure, mean, paired_change, share_of
from preftune.intervals import cluster_numbers

DRAWS: Final = 2000
FEW_CLUSTERS: Final = 8  # below, Student's interval is the more honest one, by simulation
_NUMBERS_AT_ONCE: Final = 4_000_000  # clusters times draws held at a time

Values = Float[np.ndarray, "items"]
Numbers = Int[np.ndarray, "items"]


def bootstrap_mean(
    values: Sequence[float] | np.ndarray,
    clusters: Sequence[Hashable],
    unit: str,
    title: str,
    explanation: str,
    seed: int = 0,
) -> Measure:
    """The mean of ``values``, items of a cluster drawn together; NaN is left out.

    Of fewer than two clusters nothing is known of others: the interval is endless.
    """
    array = np.asarray(values, dtype=np.float64)
    known = np.isfinite(array)
    array, numbers = array[known], cluster_numbers([one for one, kept in zip(clusters, known, strict=True) if kept])
    if len(array) == 0:
        return Measure(float("nan"), float("-inf"), float("inf"), 0, unit, title, explanation)
    value, count = float(array.mean()), int(numbers.max()) + 1
    if count < 2:
        return Measure(value, float("-inf"), float("inf"), len(array), unit, title, explanation)
    low, high = mean_interval(array, numbers, seed)
    return Measure(value, low, high, len(array), unit, title, explanation)


def bootstrap_share(
    values: Sequence[float] | np.ndarray, clusters: Sequence[Hashable], title: str, explanation: str, seed: int = 0
) -> Measure:
    """The mean of ``values`` between 0 and 1; Wilson's interval where all are alike and draws show no spread."""
    found = bootstrap_mean(values, clusters, "share", title, explanation, seed)
    if found.n == 0 or found.low != found.high:
        return found
    array = np.asarray(values, dtype=np.float64)
    known = np.isfinite(array)
    keys = [one for one, kept in zip(clusters, known, strict=True) if kept]
    return share_of(array[known], keys, title, explanation)


def bootstrap_change(
    differences: Sequence[float] | np.ndarray, unit: str, title: str, explanation: str, seed: int = 0
) -> Measure:
    """The mean of the prompts' ``differences``; where shares changed nowhere the interval of ``paired_change``."""
    found = bootstrap_mean(differences, range(len(differences)), unit, title, explanation, seed)
    if unit != "share" or found.n == 0 or found.low != found.high:
        return found
    array = np.asarray(differences, dtype=np.float64)
    array = array[np.isfinite(array)]
    return replace(paired_change(np.zeros(len(array)), array, unit, title), explanation=explanation)


def mean_interval(values: Values, clusters: Numbers, seed: int = 0) -> tuple[float, float]:
    """The 95% interval of the mean of ``values``, whose clusters are drawn anew; of fewer than eight Student's.

    Draws of three clusters reach no further than the outermost of them: the interval would hold the mean in 75%.
    """
    sums, sizes = np.bincount(clusters, values), np.bincount(clusters)
    if len(sums) < FEW_CLUSTERS:
        found = mean(values, "", "", "", clusters.tolist())
        return found.low, found.high
    means = [times @ sums / (times @ sizes) for times in cluster_draws(len(sums), seed)]
    return interval_of(np.concatenate(means), len(sums))


def cluster_draws(clusters: int, seed: int, draws: int = DRAWS) -> Iterator[Float[np.ndarray, "draws clusters"]]:
    """How often each cluster is in each of ``draws`` samples of as many clusters, a block of samples at a time."""
    random = np.random.default_rng(seed)
    block = max(1, min(draws, _NUMBERS_AT_ONCE // clusters))
    for begin in range(0, draws, block):
        size = min(block, draws - begin)
        drawn = random.integers(clusters, size=(size, clusters)) + clusters * np.arange(size)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=size * clusters)  # ten times as fast as multinomial()
        yield counts.reshape(size, clusters).astype(np.float64)


def interval_of(estimates: Float[np.ndarray, "draws"], clusters: int) -> tuple[float, float]:
    """The 95% percentile interval of resampled estimates, expanded for few clusters.

    Resampling n clusters shows a spread that is too small by sqrt((n - 1) / n), and the normal's tails where t's
    are due; the percentiles are moved outward by both (Hesterberg 2015, "What Teachers Should Know About the
    Bootstrap", section 5.2). At 10 clusters they are the 0.9th and the 99.1th.
    """
    from scipy.stats import norm, t

    reach = float(t.ppf(0.975, clusters - 1)) * np.sqrt(clusters / (clusters - 1))
    tail = float(norm.cdf(-reach))
    low, high = np.quantile(estimates, (tail, 1 - tail))
    return float(low), float(high)
