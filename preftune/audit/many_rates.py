"""Many rates at once: Wilson's intervals, and Holm's correction of as many tests."""

from __future__ import annotations

import numpy as np

from preftune.audit.votes import Floats, Ints

Z_95 = 1.959963984540054  # of a two-sided 95% interval


def wilson_bounds(counts: Ints, n: Ints) -> tuple[Floats, Floats]:
    """Wilson's 95% intervals of ``counts`` of ``n`` (rates,); NaN where ``n`` is 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        share, size = counts / n, n + Z_95**2
        centre = (counts + Z_95**2 / 2) / size
        half = Z_95 / size * np.sqrt(n * share * (1 - share) + Z_95**2 / 4)
    return np.maximum(centre - half, 0), np.minimum(centre + half, 1)


def holm(p_values: Floats) -> Floats:
    """Holm's adjusted p-values (tests,): those below 0.05 hold together with 95%.

    NaN, for what was not tested, stays and does not count. Holm 1979, A simple sequentially rejective multiple
    test procedure.
    """
    tested = np.flatnonzero(~np.isnan(p_values))
    order = tested[np.argsort(p_values[tested], kind="stable")]
    adjusted = np.full(len(p_values), np.nan)
    steps = p_values[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1) if len(order) else steps
    return adjusted
