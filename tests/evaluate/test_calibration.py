"""Calibration figures by closed forms, and intervals that hold what they say on simulated pairs."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.special import expit, logit

from preftune.evaluate.calibration import (
    accuracy_by_length,
    expected_calibration_error,
    fit_temperature,
    longer_wins,
    margin_histogram,
    reliability_table,
)


def _simulate(n: int, temperature: float, seed: int, spread: float = 2.0) -> np.ndarray:
    """Margins whose confidence is right when they are divided by ``temperature``."""
    draw = np.random.default_rng(seed)
    size = np.abs(draw.normal(0, spread, n))
    return np.where(draw.random(n) < expit(size), size, -size) * temperature


# --- expected calibration error -------------------------------------------------------------------------


def test_error_of_one_confidence_is_its_distance_from_the_accuracy() -> None:
    """Nine of ten right at confidence 0.7: 0.2, in one bin, since equal confidences are never parted."""
    margins = np.full(100, logit(0.7))
    margins[::10] *= -1
    measure = expected_calibration_error(margins, range(100))
    assert measure.value == pytest.approx(0.2)
    assert measure.low < 0.2 < measure.high and measure.low > 0.1
    assert measure.n == 100


def test_error_of_two_confidences_is_weighted_by_their_pairs() -> None:
    """30 pairs at 0.6 all right (0.4 off), 70 at 0.9 of which 35 right (0.4 off): 0.4; signs never cancel."""
    sure = np.full(70, logit(0.9))
    sure[:35] *= -1
    margins = np.concatenate([np.full(30, logit(0.6)), sure])
    assert expected_calibration_error(margins, range(100)).value == pytest.approx(0.4)


def test_ties_are_half_right_at_confidence_one_half() -> None:
    measure = expected_calibration_error(np.zeros(40), range(40))
    assert (measure.value, measure.low) == (0.0, 0.0)


def test_error_depends_on_no_order() -> None:
    margins = np.round(_simulate(300, 2.0, seed=1), 1)  # with equal values
    order = np.random.default_rng(0).permutation(300)
    one, other = (expected_calibration_error(m, range(300)).value for m in (margins, margins[order]))
    assert one == pytest.approx(other, abs=1e-12)


def test_dividing_by_the_temperature_takes_the_error_away() -> None:
    margins = _simulate(4000, 4.0, seed=2)
    before = expected_calibration_error(margins, range(4000))
    after = expected_calibration_error(margins, range(4000), temperature=4.0)
    assert before.low > 0.1 and after.low < 0.02 and after.value < 0.04


def test_intervals_hold_the_error_of_calibrated_and_of_sure_models() -> None:
    """Of 40 draws of 400 pairs each, at least 34 hold the truth that 200,000 pairs show (95%: fewer has p < 0.01)."""
    for temperature in (1.0, 3.0):
        truth = 0.0 if temperature == 1 else _large_sample_error(temperature)
        held = 0
        for seed in range(40):
            measure = expected_calibration_error(_simulate(400, temperature, seed), range(400), seed=seed)
            assert measure.low <= measure.value <= measure.high
            held += measure.low <= truth <= measure.high
        assert held >= 34


def test_pairs_of_one_prompt_count_less_than_pairs_of_many() -> None:
    margins = np.repeat(_simulate(50, 3.0, seed=5), 8)
    together = expected_calibration_error(margins, np.repeat(np.arange(50), 8))
    apart = expected_calibration_error(margins, range(400))
    assert together.value == apart.value
    assert together.high - together.low > 1.5 * (apart.high - apart.low)


def test_no_pairs_and_one_prompt_say_nothing() -> None:
    empty = expected_calibration_error(np.array([]), [])
    assert np.isnan(empty.value) and (empty.low, empty.high, empty.n) == (0.0, 1.0, 0)
    single = expected_calibration_error(np.array([1.0, -2.0]), ["a", "a"])
    assert (single.low, single.high) == (0.0, 1.0)


def _large_sample_error(temperature: float) -> float:
    margins = np.abs(np.random.default_rng(0).normal(0, 2.0, 200_000))
    return float(np.mean(np.abs(expit(margins * temperature) - expit(margins))))


# --- temperature ----------------------------------------------------------------------------------------


def test_temperature_of_equal_margins_is_a_closed_form() -> None:
    """Right with probability p at margin m: sigmoid(m / T) = p."""
    margins = np.full(100, 3.0)
    margins[:20] *= -1
    assert fit_temperature(margins, range(100)).value == pytest.approx(3.0 / logit(0.8), rel=1e-6)


def test_temperature_is_where_the_derivative_vanishes() -> None:
    margins = _simulate(500, 2.5, seed=3)
    slope = brentq(lambda s: np.mean(margins * expit(-s * margins)), 1e-3, 1e3)
    assert fit_temperature(margins, range(500)).value == pytest.approx(1 / slope, rel=1e-5)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_temperature_follows_the_scale_of_the_margins(scale: float) -> None:
    margins = _simulate(500, 1.0, seed=4)
    one, other = fit_temperature(margins, range(500)), fit_temperature(margins * scale, range(500))
    for name in ("value", "low", "high"):
        assert getattr(other, name) == pytest.approx(getattr(one, name) * scale, rel=1e-4)


def test_temperatures_interval_holds_the_truth() -> None:
    """Of 100 draws, at least 89 (95%: fewer has p < 0.01)."""
    held = 0
    for seed in range(100):
        measure = fit_temperature(_simulate(300, 2.0, seed), range(300))
        held += measure.low <= 2.0 <= measure.high
    assert held >= 89


def test_repeated_pairs_narrow_no_interval() -> None:
    margins = _simulate(200, 2.0, seed=6)
    once = fit_temperature(margins, range(200))
    thrice = fit_temperature(np.tile(margins, 3), list(range(200)) * 3)
    assert thrice.low == pytest.approx(once.low, rel=1e-3) and thrice.high == pytest.approx(once.high, rel=1e-3)


@pytest.mark.parametrize("margins", [[1.0, 2.0], [-1.0, -2.0], [1.0, -5.0], []])
def test_temperature_without_a_best_value_is_not_made_up(margins: list[float]) -> None:
    measure = fit_temperature(np.array(margins), range(len(margins)))
    assert np.isnan(measure.value) and "No temperature" in measure.explanation


# --- tables ---------------------------------------------------------------------------------------------


def test_reliability_table_counts_every_pair_once() -> None:
    margins = _simulate(1000, 1.0, seed=7)
    table = reliability_table(margins, range(1000))
    assert len(table) == 15 and sum(row["n"] for row in table) == 1000
    assert all(66 <= row["n"] <= 67 for row in table)
    confidences = [row["confidence"] for row in table]
    assert confidences == sorted(confidences) and confidences[0] >= 0.5
    total = sum(row["n"] * row["accuracy"] for row in table)
    assert total == pytest.approx((margins > 0).sum())
    assert all(row["low"] - 1e-9 <= row["accuracy"] <= row["high"] + 1e-9 for row in table)
    gaps = sum(row["n"] * abs(row["accuracy"] - row["confidence"]) for row in table) / 1000
    assert gaps == pytest.approx(expected_calibration_error(margins, range(1000)).value)


def test_a_model_that_takes_longer_for_better_shows_it() -> None:
    differences = np.arange(-50, 50)
    margins = np.where(differences > 0, 1.0, -1.0)
    buckets = accuracy_by_length(margins, differences, range(100), buckets=5)
    assert [bucket.accuracy.n for bucket in buckets] == [20] * 5
    assert [bucket.accuracy.value for bucket in buckets] == pytest.approx([0, 0, 0.45, 1, 1])
    assert (buckets[0].shortest, buckets[-1].longest) == (-50, 49)


def test_equal_length_differences_share_a_bucket() -> None:
    differences = np.array([0] * 90 + [5] * 10)
    buckets = accuracy_by_length(np.ones(100), differences, range(100), buckets=4)
    assert [(b.shortest, b.longest, b.accuracy.n) for b in buckets] == [(0, 0, 90), (5, 5, 10)]


def test_the_longer_answers_accuracy_counts_equal_lengths_half() -> None:
    assert longer_wins(np.array([3, 1, -2, 0]), range(4)).value == pytest.approx(0.625)


def test_histogram_holds_every_margin() -> None:
    rows = margin_histogram(np.array([0.0, 1.0, 1.0, 4.0]), bins=4)
    assert [row["n"] for row in rows] == [1, 2, 0, 1]
    assert (rows[0]["from"], rows[-1]["to"]) == (0.0, 4.0)


def test_tables_of_no_pairs_are_empty() -> None:
    none = np.array([])
    assert reliability_table(none, []) == accuracy_by_length(none, none, []) == margin_histogram(none) == []  # type: ignore[comparison-overlap]
