import numpy as np
import pytest

from preftune.audit.many_rates import holm


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
