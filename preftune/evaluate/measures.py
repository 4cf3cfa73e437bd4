"""Figures with n and a 95% interval: the only form in which a result leaves this package."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from preftune.intervals import cluster_numbers, design_effect, wilson


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
    if n == 0:
        return Measure(float("nan"), 0.0, 1.0, 0, "share", title, explanation)
    value = hits / n
    low, high = wilson(value, n if effective_n is None else effective_n)
    return Measure(value, float(low), float(high), n, "share", title, explanation)


def share_of(flags: Sequence[bool] | np.ndarray, prompts: Sequence[Any], title: str, explanation: str) -> Measure:
    """The share of true ``flags``; pairs of one prompt count as one draw as far as they agree with each other.

    Wilson's interval for n / design effect items, the design effect being the cluster-robust variance of the
    share over its variance under independence (Kish 1965), at least 1.
    """
    values = np.asarray(flags, dtype=np.float64)
    n, hits = len(values), float(np.sum(values))
    if not n:
        return share(hits, n, title, explanation)
    effect = design_effect(values, cluster_numbers(prompts))
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
    """The mean of after minus before over the same items, with Student's interval of the differences.

    Differences of shares, between -1 and 1, have that of Agresti and Min (2005): two prompts more, one half of
    them gained and one half lost, so that few changes or none are not taken for certainty.
    """
    difference = np.asarray(after, dtype=np.float64) - np.asarray(before, dtype=np.float64)
    what = "After minus before on the same items; the interval is of the differences."
    measure = mean(difference, unit, title, what, prompts)
    return measure if unit != "share" else _with_two_more(measure, difference, prompts)


def _with_two_more(measure: Measure, differences: np.ndarray, prompts: Sequence[Any] | None) -> Measure:
    """The interval of Agresti and Min, a prompt's items together; two prompts are of the mean size, and sum to 0."""
    from scipy.stats import t

    sums, sizes = _cluster_sums(differences, range(len(differences)) if prompts is None else prompts)
    if len(sums) < 2:
        return measure
    size = len(differences) / len(sums)
    n = len(differences) + 2 * size
    centre = float(sums.sum()) / n
    spread = float(((sums - centre * sizes) ** 2).sum()) + size**2 * (1 + 2 * centre**2)
    half = float(t.ppf(0.975, len(sums) + 1)) * np.sqrt(spread) / n
    low, high = max(-1.0, min(centre - half, measure.value)), min(1.0, max(centre + half, measure.value))
    return replace(measure, low=float(low), high=float(high))


def standard_error(values: np.ndarray, clusters: Sequence[Any]) -> float:
    """Of the mean of ``values``, those of a cluster being free to hang together; NaN of fewer than two clusters."""
    return float(np.sqrt(_variance_of_mean(values, clusters))) if len(set(clusters)) > 1 else float("nan")


def _variance_of_mean(values: np.ndarray, clusters: Sequence[Any]) -> float:
    """The variance of the mean where items of a cluster may be correlated: the sandwich estimate.

    With clusters of one item it is the usual variance over n, ddof 1.
    """
    sums, _ = _cluster_sums(values - values.mean(), clusters)
    count = len(sums)
    if count < 2:
        return float(values.var())
    return count / (count - 1) * float((sums**2).sum()) / len(values) ** 2


def _cluster_sums(values: np.ndarray, clusters: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
    """The sum of each cluster's values, and how many it has."""
    known: dict[Any, int] = {}
    numbers = [known.setdefault(one, len(known)) for one in clusters]
    return np.bincount(numbers, values), np.bincount(numbers)
