"""What detectors measure of a curve: windows, trends, noise, and whether there is enough of it.

Locations are medians and scales MAD x 1.4826, so that single points rule nothing. Trends are Theil-Sen slopes with
the p-value of Mann and Kendall's test, on means of blocks of points: neighbours in a log hang together, and the test
would take that for a trend. A long series is cut into at most ``MOST_BLOCKS`` blocks first, for the slope looks at
every pair.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from preftune.diagnose.findings import CannotTell
from preftune.diagnose.series import RunLog, Series

LEAST_POINTS: Final = 30  # below it nothing is said of a curve
LEAST_IN_WINDOW: Final = 10
HEAD, TAIL = 0.1, 0.2  # of the points
MOST_BLOCKS, LEAST_IN_BLOCK, BLOCKS_OF_SHORT = 200, 5, 12
LEAST_BLOCKS: Final = 5  # Mann and Kendall's test cannot reach p < 0.01 on fewer
SIGNIFICANT: Final = 0.01
MAD_TO_DEVIATION: Final = 1.4826


@dataclass(frozen=True)
class Window:
    """The middle and the spread of some neighbouring points."""

    location: float
    scale: float
    n: int
    first_step: int
    last_step: int

    @property
    def error(self) -> float:
        """The standard error of ``location`` for independent Gaussian points; infinite for none."""
        return 1.2533 * self.scale / self.n**0.5 if self.n else float("inf")


@dataclass(frozen=True)
class Trend:
    """``change`` is what the slope makes over the whole series; ``p`` is two-sided."""

    slope: float
    p: float
    change: float
    blocks: int

    def rises(self, p: float = SIGNIFICANT) -> bool:
        return self.slope > 0 and self.p < p

    def falls(self, p: float = SIGNIFICANT) -> bool:
        return self.slope < 0 and self.p < p


def head(series: Series) -> Window:
    """The first tenth of the finite points, at least ``LEAST_IN_WINDOW``."""
    finite = series.finite()
    return window(part(finite, 0, max(round(HEAD * len(finite)), LEAST_IN_WINDOW)))


def tail(series: Series) -> Window:
    """The last fifth of the finite points, at least ``LEAST_IN_WINDOW``."""
    return window(tail_part(series))


def tail_part(series: Series) -> Series:
    """The points of ``tail``."""
    finite = series.finite()
    return part(finite, -max(round(TAIL * len(finite)), LEAST_IN_WINDOW), None)


def last_two(series: Series) -> tuple[Window, Window]:
    """The two halves of the tail, in their order: what holds in both has lasted."""
    points = tail_part(series)
    middle = len(points) // 2
    return window(part(points, 0, middle)), window(part(points, middle, None))


def window(series: Series) -> Window:
    """Median and scale of all finite points; NaN of none."""
    finite = series.finite()
    if not len(finite):
        return Window(float("nan"), float("nan"), 0, 0, 0)
    location = float(np.median(finite.values))
    return Window(location, scale_of(finite.values), len(finite), int(finite.steps[0]), int(finite.steps[-1]))


def start(series: Series) -> float:
    """Where the curve began: the median of its first three finite points, for a run may change within its head."""
    first = series.finite().values[:3]
    return float(np.median(first)) if len(first) else float("nan")


def scale_of(values: np.ndarray) -> float:
    """MAD x 1.4826: the standard deviation, were the values Gaussian."""
    with np.errstate(over="ignore", invalid="ignore"):
        return float(MAD_TO_DEVIATION * np.median(np.abs(values - np.median(values)))) if len(values) else float("nan")


def part(series: Series, begin: int, end: int | None) -> Series:
    """Points ``begin`` to ``end``, as a slice takes them."""
    return Series(series.name, series.steps[begin:end], series.values[begin:end], series.logged_as)


def since(series: Series, step: float) -> Series:
    """The points at ``step`` and after it."""
    return part(series, int(np.searchsorted(series.steps, step)), None)


def until(series: Series, step: float) -> Series:
    """The points at ``step`` and before it."""
    return part(series, 0, int(np.searchsorted(series.steps, step, side="right")))


def blocks(series: Series, most: int = MOST_BLOCKS, least: int | None = None) -> Series:
    """Means of ``most`` blocks of neighbours at most, each of ``least`` finite points or more, at their mean steps.

    Unless it is said otherwise a block of a short series has fewer than ``LEAST_IN_BLOCK`` points, so that
    ``BLOCKS_OF_SHORT`` remain.
    """
    finite = series.finite()
    n = len(finite)
    if least is None:
        least = min(LEAST_IN_BLOCK, max(n // BLOCKS_OF_SHORT, 1))
    count = min(most, n // least)
    if count < 1 or count == n:
        return finite
    begins = np.arange(count) * n // count
    sizes = np.diff(np.append(begins, n))
    with np.errstate(over="ignore", invalid="ignore"):
        values = np.add.reduceat(finite.values.astype(float), begins) / sizes
        steps = np.add.reduceat(finite.steps.astype(float), begins) / sizes
    return Series(series.name, steps, values, series.logged_as)


def trend(series: Series) -> Trend | None:
    """The trend of the finite points; None where they make too few blocks."""
    from scipy.stats import kendalltau, theilslopes

    means = blocks(series).finite()
    if len(means) < LEAST_BLOCKS:
        return None
    span = float(means.steps[-1] - means.steps[0])
    if np.ptp(means.values) == 0 or span <= 0:
        return Trend(0.0, 1.0, 0.0, len(means))
    with np.errstate(all="ignore"):
        slopes: Any = theilslopes(means.values, means.steps)
        test: Any = kendalltau(means.steps, means.values)
    slope, p = float(slopes[0]), float(test.pvalue)
    if not np.isfinite(slope):
        return Trend(0.0, 1.0, 0.0, len(means))
    return Trend(slope, p if np.isfinite(p) else 1.0, slope * span, len(means))


def rises(series: Series, p: float = SIGNIFICANT) -> bool:
    """True where the trend is surely upward."""
    found = trend(series)
    return found is not None and found.rises(p)


def falls(series: Series, p: float = SIGNIFICANT) -> bool:
    """True where the trend is surely downward."""
    found = trend(series)
    return found is not None and found.falls(p)


def noise(series: Series) -> float:
    """The deviation of a point from its neighbours: what is left of the curve's spread without its trend."""
    values = series.finite().values
    if len(values) < 3:
        return float("nan")
    with np.errstate(over="ignore", invalid="ignore"):
        found = scale_of(np.diff(values)) / 2**0.5
    return found if np.isfinite(found) else float("nan")


def spikes(series: Series, deviations: float, neighbours: int = 21) -> np.ndarray:
    """The steps of points that stand ``deviations`` scales above the median of their ``neighbours``."""
    finite = series.finite()
    groups = len(finite) // neighbours
    if not groups:
        return np.empty(0)
    whole = finite.values[: groups * neighbours].reshape(groups, neighbours)
    level = np.repeat(np.median(whole, axis=1), neighbours)
    level = np.append(level, np.full(len(finite) - len(level), level[-1]))
    with np.errstate(over="ignore", invalid="ignore"):
        rest = finite.values - level
        scale = max(scale_of(rest), 1e-9 * float(np.abs(level).max()), 1e-300)
        return finite.steps[rest > deviations * scale]


def is_enough(series: Series | None, least: int = LEAST_POINTS) -> bool:
    """True where the curve has so many finite points."""
    return series is not None and len(series.finite()) >= least


def too_few(series: Series, least: int = LEAST_POINTS) -> CannotTell:
    """What to say where it has not."""
    n = len(series.finite())
    points = "1 finite point" if n == 1 else f"{n} finite points"
    return CannotTell(f"{series.name} has {points}, and {least} are needed.")


def absent(*names: str) -> CannotTell:
    """What to say where none of these series is there."""
    return CannotTell(f"The log has no {' or '.join(names)}.")


def at_steps(series: Series, steps: np.ndarray) -> np.ndarray:
    """The finite points' values at other steps, straight lines between them."""
    finite = series.finite()
    return np.interp(steps, finite.steps, finite.values)


def up_to(log: RunLog, step: int) -> RunLog:
    """The run as it was seen at ``step``."""
    series: Mapping[str, Series] = {name: until(one, step) for name, one in log.series.items()}
    samples = [sample for sample in log.samples if sample.step <= step]
    kept = {name: one for name, one in series.items() if len(one)}
    return RunLog(log.name, log.tool, kept, log.config, log.method, samples, {}, log.notes)
