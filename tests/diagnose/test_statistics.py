from __future__ import annotations

import numpy as np
import pytest

from preftune.diagnose.findings import CannotTell
from preftune.diagnose.series import RunLog, Series
from preftune.diagnose.statistics import (
    MOST_BLOCKS,
    blocks,
    head,
    is_enough,
    last_two,
    noise,
    spikes,
    tail,
    too_few,
    trend,
    until,
    up_to,
    window,
)


def curve(values: object, first: int = 1) -> Series:
    array = np.asarray(values, dtype=float)
    return Series("loss", np.arange(first, first + len(array)), array)


def test_head_is_a_tenth_and_tail_a_fifth() -> None:
    series = curve(np.arange(200))
    assert (head(series).n, tail(series).n) == (20, 40)
    assert (head(series).location, tail(series).location) == (9.5, 179.5)
    assert (tail(series).first_step, tail(series).last_step) == (161, 200)


def test_windows_of_a_short_curve_have_ten_points() -> None:
    assert (head(curve(np.arange(30))).n, tail(curve(np.arange(30))).n) == (10, 10)


def test_last_two_windows_follow_each_other() -> None:
    before, after = last_two(curve(np.arange(100)))
    assert (before.last_step + 1, before.n, after.n) == (after.first_step, 10, 10)


def test_scale_of_gaussian_points_is_their_deviation() -> None:
    values = np.random.default_rng(0).normal(3.0, 2.0, 20_000)
    found = window(curve(values))
    assert found.location == pytest.approx(3.0, abs=0.05)
    assert found.scale == pytest.approx(2.0, rel=0.03)


def test_one_point_in_ten_moves_neither_location_nor_scale_far() -> None:
    values = np.random.default_rng(0).normal(size=1000)
    values[::10] = 1e6
    assert abs(window(curve(values)).location) < 0.2
    assert window(curve(values)).scale < 1.4


def test_what_is_not_finite_is_left_out_of_windows() -> None:
    values = np.arange(40, dtype=float)
    values[[0, 39]] = np.nan, np.inf
    assert tail(curve(values)).location == 33.5


def test_slope_of_a_line_is_exact() -> None:
    found = trend(curve(3.0 * np.arange(100) + 7))
    assert found is not None
    assert found.slope == pytest.approx(3.0)
    assert found.rises()


def test_two_wild_blocks_do_not_bend_the_slope() -> None:
    values = 0.5 * np.arange(300, dtype=float)
    values[[40, 200]] = 1e5
    found = trend(curve(values))
    assert found is not None
    assert found.slope == pytest.approx(0.5, rel=0.05)


def test_noise_has_a_trend_as_seldom_as_p_says() -> None:
    draw = np.random.default_rng(1)
    found = [trend(curve(draw.normal(size=60))) for _ in range(400)]
    assert sum(one is not None and one.p < 0.05 for one in found) / 400 == pytest.approx(0.05, abs=0.03)


def test_constant_curve_has_no_trend() -> None:
    found = trend(curve(np.ones(50)))
    assert found is not None
    assert (found.slope, found.p) == (0.0, 1.0)


def test_too_few_points_have_no_trend() -> None:
    assert trend(curve([1.0, 2.0, 3.0])) is None


def test_blocks_of_a_long_curve_are_few_and_keep_its_mean() -> None:
    values = np.random.default_rng(0).normal(size=100_000)
    found = blocks(curve(values))
    assert len(found) == MOST_BLOCKS
    assert found.values.mean() == pytest.approx(values.mean(), abs=1e-12)


def test_noise_is_free_of_the_trend() -> None:
    values = np.random.default_rng(0).normal(size=5000) + 10 * np.linspace(0, 100, 5000)
    assert noise(curve(values)) == pytest.approx(1.0, rel=0.06)


def test_spikes_are_found_where_they_are() -> None:
    values = np.random.default_rng(0).normal(size=300)
    values[[50, 120]] = 30.0
    assert spikes(curve(values), 8.0).tolist() == [51, 121]


def test_gaussian_noise_has_no_spikes_of_six_deviations() -> None:
    assert not len(spikes(curve(np.random.default_rng(2).normal(size=2000)), 6.0))


def test_too_few_points_are_counted_in_words() -> None:
    series = curve([1.0, np.nan, 2.0])
    assert not is_enough(series)
    assert too_few(series) == CannotTell("loss has 2 finite points, and 30 are needed.")


def test_a_run_as_it_was_seen_holds_nothing_later() -> None:
    log = RunLog("run", "test", {"loss": curve(np.arange(10)), "late": curve([1.0], first=9)})
    seen = up_to(log, 4)
    assert seen.series["loss"].steps.tolist() == [1, 2, 3, 4]
    assert "late" not in seen.series
    assert len(until(curve(np.arange(10)), 4)) == 4
