"""Shares over pairs of which those of one prompt hang together: intervals as wide as the prompts make them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from preftune.audit.findings import Share
from preftune.data.records import Pair
from preftune.data.split import prompt_key
from preftune.intervals import design_effect, wilson


def prompt_numbers(pairs: Sequence[Pair]) -> NDArray[np.int64]:
    """(pairs,): the number of each pair's prompt, counted in the order they come."""
    seen: dict[str, int] = {}
    return np.array([seen.setdefault(prompt_key(pair), len(seen)) for pair in pairs], dtype=np.int64)


def clustered_share(hits: ArrayLike, clusters: ArrayLike, title: str, explanation: str, unit: str = "share") -> Share:
    """The mean of ``hits`` (0 to 1) with Wilson's interval for rows / design effect independent rows."""
    values = np.asarray(hits, dtype=np.float64)
    n = len(values)
    if not n:
        return Share(None, None, None, 0, title, explanation, unit)
    low, high = wilson(values.mean(), n / design_effect(values, clusters))
    return Share(float(values.mean()), float(low), float(high), n, title, explanation, unit)


def folds_by_cluster(clusters: ArrayLike, folds: int, seed: int) -> NDArray[np.int64]:
    """(rows,): the fold of each row; those of a cluster share one, and folds are as even as that allows."""
    names, index, sizes = np.unique(np.asarray(clusters), return_inverse=True, return_counts=True)
    shuffled = np.random.default_rng(seed).permutation(len(names))
    largest_first = shuffled[np.argsort(-sizes[shuffled], kind="stable")]
    fold_of, filled = np.empty(len(names), dtype=np.int64), np.zeros(folds, dtype=np.int64)
    for cluster in largest_first:
        fold_of[cluster] = emptiest = int(filled.argmin())
        filled[emptiest] += sizes[cluster]
    return fold_of[index]


def bootstrap_interval(values: ArrayLike, clusters: ArrayLike, seed: int, draws: int = 1_000) -> tuple[float, float]:
    """The 95% interval of a mean when whole clusters are drawn again, with replacement."""
    array = np.asarray(values, dtype=np.float64)
    _, index = np.unique(np.asarray(clusters), return_inverse=True)
    sums, sizes = np.bincount(index, weights=array), np.bincount(index)
    draw = np.random.default_rng(seed)
    means = [float(sums[chosen].sum() / sizes[chosen].sum()) for chosen in _draws(draw, len(sums), draws)]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def _draws(draw: np.random.Generator, clusters: int, draws: int) -> Any:
    return (draw.integers(clusters, size=clusters) for _ in range(draws))
