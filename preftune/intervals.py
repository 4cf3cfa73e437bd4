"""The 95% interval of a share, for every part of the package that tells one."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike

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
