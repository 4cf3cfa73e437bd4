import numpy as np
import pytest
from scipy.stats import binomtest

from preftune.audit.many_rates import holm, wilson_bounds


def test_wilson_bounds_are_scipys() -> None:
    counts, n = np.array([0, 1, 8, 50, 999]), np.array([5, 1, 10, 100, 1000])
    lows, highs = wilson_bounds(counts, n)
    for count, size, low, high in zip(counts, n, lows, highs, strict=True):
        interval = binomtest(int(count), int(size)).proportion_ci(method="wilson")
        assert (low, high) == pytest.approx((interval.low, interval.high), abs=1e-12)


def test_wilson_bounds_of_nothing_are_not_numbers() -> None:
    lows, highs = wilson_bounds(np.array([0]), np.array([0]))
    assert np.isnan(lows).all() and np.isnan(highs).all()


def test_holm_multiplies_by_the_tests_that_are_left() -> None:
    # Sorted 0.01, 0.02, 0.03, 0.04 times 4, 3, 2, 1, made monotone: Holm's own example.
    adjusted = holm(np.array([0.04, np.nan, 0.01, 0.03, 0.02]))
    assert adjusted[[2, 4, 3, 0]] == pytest.approx([0.04, 0.06, 0.06, 0.06])
    assert np.isnan(adjusted[1])
    assert holm(np.array([0.9, 0.8])).tolist() == [1.0, 1.0]
    assert len(holm(np.array([]))) == 0


def test_holm_keeps_false_alarms_below_one_in_twenty() -> None:
    rng = np.random.default_rng(0)
    alarms = sum((holm(rng.random(200)) < 0.05).any() for _ in range(1000))
    assert alarms < 70  # 50 expected, 3 standard deviations
