"""Figures with n and a 95% interval: the only form in which a result leaves this package."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Measure:
    """A measured figure; ``low`` and ``high`` bound its 95% interval, ``n`` is what it was counted over."""

    value: float
    low: float
    high: float
    n: int
    unit: str
    title: str
    explanation: str

    def as_dict(self) -> dict[str, Any]:
        """The measure as JSON takes it."""
        return asdict(self)


def share(hits: int, n: int, title: str, explanation: str) -> Measure:
    """``hits`` of ``n`` with Wilson's interval (Wilson 1927)."""
    from scipy.stats import binomtest

    if n == 0:
        return Measure(float("nan"), 0.0, 1.0, 0, "share", title, explanation)
    interval = binomtest(hits, n).proportion_ci(0.95, method="wilson")
    return Measure(hits / n, float(interval.low), float(interval.high), n, "share", title, explanation)


def mean(values: Sequence[float] | np.ndarray, unit: str, title: str, explanation: str) -> Measure:
    """The mean of independent ``values`` with Student's interval."""
    from scipy.stats import t

    array = np.asarray(values, dtype=np.float64)
    n = len(array)
    centre = float(array.mean()) if n else float("nan")
    if n < 2:
        return Measure(centre, float("-inf"), float("inf"), n, unit, title, explanation)
    half = float(t.ppf(0.975, n - 1) * array.std(ddof=1) / np.sqrt(n))
    return Measure(centre, centre - half, centre + half, n, unit, title, explanation)


def paired_change(
    before: Sequence[float] | np.ndarray, after: Sequence[float] | np.ndarray, unit: str, title: str
) -> Measure:
    """The mean of after minus before over the same items, with Student's interval of the differences."""
    difference = np.asarray(after, dtype=np.float64) - np.asarray(before, dtype=np.float64)
    return mean(difference, unit, title, "After minus before on the same items; the interval is of the differences.")
