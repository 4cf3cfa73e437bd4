"""Wilson's interval: scipy's for whole counts, of many rates at once, of parts of a row, and of none."""

import numpy as np
import pytest
from scipy.stats import binomtest

from preftune.intervals import wilson


def test_interval_is_scipys() -> None:
    counts, n = np.array([0, 1, 8, 50, 999]), np.array([5, 1, 10, 100, 1000])
    lows, highs = wilson(counts / n, n)
    for count, size, low, high in zip(counts, n, lows, highs, strict=True):
        interval = binomtest(int(count), int(size)).proportion_ci(method="wilson")
        assert (low, high) == pytest.approx((interval.low, interval.high), abs=1e-12)


def test_interval_of_nothing_is_not_a_number() -> None:
    lows, highs = wilson(np.array([np.nan]), np.array([0]))
    assert np.isnan(lows).all() and np.isnan(highs).all()


def test_rows_that_hang_together_widen_it() -> None:
    (low, high), (few_low, few_high) = wilson(0.7, 100), wilson(0.7, 33.3)
    assert 0 < few_low < low < 0.7 < high < few_high < 1
