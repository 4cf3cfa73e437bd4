"""Many tests at once: Holm's correction."""

from __future__ import annotations

import numpy as np

from preftune.audit.votes import Floats


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
