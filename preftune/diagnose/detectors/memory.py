"""D36: memory that grows with every step, or is twice what it should be."""

from __future__ import annotations

from typing import Final

from preftune.diagnose.detector import Detector
from preftune.diagnose.detectors.reading import number
from preftune.diagnose.findings import Evidence, Finding, Nothing, Outcome
from preftune.diagnose.series import RunLog, Series
from preftune.diagnose.statistics import is_enough, last_two, part, tail, too_few, trend

NAMES: Final = ("memory/rss_mib", "memory/cuda_peak_mib", "memory/cuda_mib", "rss_mib")
SLOPE: Final = 0.005  # of itself in a hundred steps
WARM: Final = 0.3  # of the run, in which memory may still be found
GREW: Final = 0.05  # at least, over the rest of the run
STRAIGHT: Final = 0.5  # of the earlier slope, the later one at least
LEAST_STEPS: Final = 150  # before, allocators are still finding their level
TWICE: Final = 1.7


def detect(log: RunLog) -> Outcome:
    """Whether memory climbs on after the run is warm, or stands far above its estimate."""
    there = [series for name in NAMES if (series := log.get(name)) is not None]
    enough = [series for series in there if is_enough(series)]
    if not enough:
        return too_few(there[0])
    found = [one for series in enough if (one := _leaks(series)) is not None]
    estimate = number(log, "memory_estimate_mib")
    if estimate:
        peak = max(tail(series).location for series in enough)
        if peak > TWICE * estimate:
            found.append(Evidence(enough[0].name, "memory over its estimate", peak / estimate, TWICE))
    if not found:
        return Nothing()
    return Finding(
        id="D36",
        severity="warning",
        certainty="likely",
        title="Memory grows or is twice what it should be",
        what="The run holds more and more memory, or far more than model, gradients and optimiser need.",
        why="Something keeps the graph of each step (a loss that was not detached, in a list or a metric), or a second "
        "model is trained along: see D13.",
        remedy="Detach what is kept (.detach(), .item()); keep the reference out of the optimiser; see that "
        "callbacks and "
        "reward functions hold no completions.",
        first_step=int(enough[0].steps[0]),
        last_step=log.last_step,
        evidence=tuple(found),
    )


def _leaks(series: Series) -> Evidence | None:
    """A straight climb: as steep in both later parts, and by more than a first touch of memory makes."""
    finite = series.finite()
    n = len(finite)
    if finite.steps[-1] - finite.steps[0] < LEAST_STEPS:
        return None
    warm = part(finite, round(WARM * n), None)
    halves = part(warm, 0, len(warm) // 2), part(warm, len(warm) // 2, None)
    whole, parts = trend(warm), [trend(half) for half in halves]
    if whole is None or not whole.rises() or any(one is None or not one.rises(0.05) for one in parts):
        return None
    first, second = (one.slope for one in parts if one is not None)
    if second < STRAIGHT * first:
        return None  # it finds its level
    level = last_two(finite)[0].location
    slope, change = 100 * whole.slope / max(level, 1e-9), whole.change / max(level, 1e-9)
    if slope <= SLOPE or change <= GREW:
        return None
    return Evidence(series.name, "growth in a hundred steps, of itself", slope, SLOPE)


MEMORY = Detector("D36", "memory leak", detect, (NAMES,))
