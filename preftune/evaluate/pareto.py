"""Which of several models are worth choosing where there is more than one goal: the Pareto front and its volume."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

Points = Float[np.ndarray, "points objectives"]


def pareto_front(points: Points) -> list[int]:
    """The rows that no other row dominates, by their first objective ascending, then by their number.

    One row dominates another where it is at least as high in every objective and higher in one. Equal rows do not
    dominate each other; a row with a NaN is on no front and dominates nothing.
    """
    points = np.asarray(points, dtype=np.float64)
    known = np.isfinite(points).all(1) if len(points) else np.zeros(0, dtype=bool)
    dominated = dominates(points, points).any(0)
    front = np.flatnonzero(known & ~dominated)
    return sorted(front.tolist(), key=lambda row: (points[row, 0], row))


def dominates(first: Points, second: Points) -> Bool[np.ndarray, "first second"]:
    """Whether each row of ``first`` dominates each row of ``second``; comparisons with NaN are false."""
    ours, theirs = first[:, None, :], second[None, :, :]
    return np.asarray((ours >= theirs).all(-1) & (ours > theirs).any(-1))


def clearly_dominated(low: Points, high: Points) -> Bool[np.ndarray, "points"]:
    """The rows that some other row beats in every objective by more than both 95% intervals.

    A point off the front that is not clearly dominated may owe its place to chance.
    """
    beaten = (np.asarray(low)[:, None, :] > np.asarray(high)[None, :, :]).all(-1)
    return np.asarray(beaten.any(0))


def hypervolume(points: Float[np.ndarray, "points 2"], reference: tuple[float, float]) -> float:
    """The area that two objectives' points dominate above ``reference`` (Zitzler & Thiele 1999).

    Points that do not exceed the reference in both objectives add nothing.
    """
    points = np.asarray(points, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] != 2:
        raise ValueError(f"hypervolume is of two objectives, not of shape {points.shape}")
    above = points[np.isfinite(points).all(1) & (points > np.asarray(reference)).all(1)]
    area, reached = 0.0, reference[1]
    for x, y in sorted(above.tolist(), key=lambda point: (-point[0], -point[1])):
        if y > reached:
            area += (x - reference[0]) * (y - reached)
            reached = y
    return float(area)
