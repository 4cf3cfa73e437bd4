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

    def __str__(self) -> str:
        """Like "75.0% (95% interval 66.3% to 82.1%, n = 152)"."""
        if self.unit == "share":
            value, low, high = (f"{100 * each:.1f}%" for each in (self.value, self.low, self.high))
            return f"{value} (95% interval {low} to {high}, n = {self.n:,})"
        value, low, high = (f"{each:.3g}" for each in (self.value, self.low, self.high))
        unit = f" {self.unit}" if self.unit else ""
        return f"{value}{unit} (95% interval {low} to {high}, n = {self.n:,})"


def share(hits: float, n: int, title: str, explanation: str, *, effective_n: float | None = None) -> Measure:
    """``hits`` of ``n`` with Wilson's interval (Wilson 1927), as wide as ``effective_n`` independent items make it."""
    from scipy.stats import norm

    if n == 0:
        return Measure(float("nan"), 0.0, 1.0, 0, "share", title, explanation)
    value, size, z = hits / n, n if effective_n is None else effective_n, float(norm.ppf(0.975))
    centre = (value + z**2 / (2 * size)) / (1 + z**2 / size)
    half = z / (1 + z**2 / size) * np.sqrt(value * (1 - value) / size + z**2 / (4 * size**2))
    low, high = max(0.0, centre - half), min(1.0, centre + half)
    return Measure(value, float(low), float(high), n, "share", title, explanation)


def share_of(flags: Sequence[bool] | np.ndarray, prompts: Sequence[Any], title: str, explanation: str) -> Measure:
    """The share of true ``flags``; pairs of one prompt count as one draw as far as they agree with each other.

    Wilson's interval for n / design effect items, the design effect being the cluster-robust variance of the
    share over its variance under independence (Kish 1965), at least 1.
    """
    values = np.asarray(flags, dtype=np.float64)
    n, hits = len(values), float(np.sum(values))
    independent = values.var() / n if n else 0.0
    if independent == 0.0:
        return share(hits, n, title, explanation, effective_n=len(set(prompts)) or None)
    effect = max(1.0, _variance_of_mean(values, prompts) / independent)
    return share(hits, n, title, explanation, effective_n=n / effect)


def mean(
    values: Sequence[float] | np.ndarray,
    unit: str,
    title: str,
    explanation: str,
    prompts: Sequence[Any] | None = None,
) -> Measure:
    """The mean of ``values`` with Student's interval; those of one of the ``prompts`` may hang together."""
    from scipy.stats import t

    array = np.asarray(values, dtype=np.float64)
    n = len(array)
    centre = float(array.mean()) if n else float("nan")
    draws = range(n) if prompts is None else prompts
    independent = len(set(draws))
    if independent < 2:
        return Measure(centre, float("-inf"), float("inf"), n, unit, title, explanation)
    half = float(t.ppf(0.975, independent - 1)) * standard_error(array, draws)
    return Measure(centre, centre - half, centre + half, n, unit, title, explanation)


def paired_change(
    before: Sequence[float] | np.ndarray,
    after: Sequence[float] | np.ndarray,
    unit: str,
    title: str,
    prompts: Sequence[Any] | None = None,
) -> Measure:
    """The mean of after minus before over the same items, with Student's interval of the differences."""
    difference = np.asarray(after, dtype=np.float64) - np.asarray(before, dtype=np.float64)
    what = "After minus before on the same items; the interval is of the differences."
    return mean(difference, unit, title, what, prompts)


def standard_error(values: np.ndarray, clusters: Sequence[Any]) -> float:
    """Of the mean of ``values``, those of a cluster being free to hang together; NaN of fewer than two clusters."""
    return float(np.sqrt(_variance_of_mean(values, clusters))) if len(set(clusters)) > 1 else float("nan")


def _variance_of_mean(values: np.ndarray, clusters: Sequence[Any]) -> float:
    """The variance of the mean where items of a cluster may be correlated: the sandwich estimate.

    With clusters of one item it is the usual variance over n, ddof 1.
    """
    sums: dict[Any, float] = {}
    for cluster, residual in zip(clusters, values - values.mean(), strict=True):
        sums[cluster] = sums.get(cluster, 0.0) + float(residual)
    count = len(sums)
    if count < 2:
        return float(values.var())
    return count / (count - 1) * sum(total**2 for total in sums.values()) / len(values) ** 2
