"""The 95% interval of a share, for every part of the package that tells one, and how few rows many may count for."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

NORMAL_95: Final = 1.959963984540054  # the normal quantile of a two-sided 95% interval


def wilson(share: ArrayLike, n: ArrayLike) -> tuple[Any, Any]:
    """Both ends for ``share`` (0 to 1) among ``n`` independent draws, each a number or an array; NaN where n is 0.

    ``n`` need not be whole: rows that hang together count as n / design effect (Kish 1965). Wilson 1927,
    Probable inference, the law of succession, and statistical inference.
    """
    value, size = np.asarray(share, dtype=np.float64), np.asarray(n, dtype=np.float64)
    z2 = NORMAL_95**2
    with np.errstate(invalid="ignore", divide="ignore"):
        centre = (value + z2 / (2 * size)) / (1 + z2 / size)
        half = NORMAL_95 / (1 + z2 / size) * np.sqrt(value * (1 - value) / size + z2 / (4 * size**2))
    return np.maximum(centre - half, 0.0), np.minimum(centre + half, 1.0)


def cluster_numbers(clusters: Sequence[Hashable]) -> NDArray[np.int64]:
    """Each item's cluster as a number, in the order of first appearance."""
    known: dict[Hashable, int] = {}
    return np.array([known.setdefault(one, len(known)) for one in clusters], dtype=np.int64)


def design_effect(values: ArrayLike, clusters: ArrayLike) -> float:
    """How many rows count as one (Kish 1965): the clustered variance of the mean over the independent one, at least 1.

    Where all values are equal nothing can be seen of it: then every cluster counts as one row.
    """
    array = np.asarray(values, dtype=np.float64)
    _, index = np.unique(np.asarray(clusters), return_inverse=True)
    count, n = int(index.max(initial=-1)) + 1, len(array)
    independent = array.var()
    if count < 2 or independent == 0:
        return n / max(count, 1)
    sums = np.bincount(index, weights=array - array.mean())
    clustered = count / (count - 1) * float((sums**2).sum()) / n
    return max(1.0, clustered / float(independent))
