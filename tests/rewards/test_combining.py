"""Several rewards as one: sums, GDPO against its own formula, moments and prices."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from preftune.rewards.combining import (
    RunningMoments,
    combine,
    constrained,
    standardised_in_groups,
    updated_multiplier,
)

NAN = math.nan
TABLES = npst.arrays(
    float, st.tuples(st.just(8), st.integers(1, 3)), elements=st.floats(-10, 10) | st.just(NAN), fill=st.nothing()
)


def test_the_sum_is_weighted_and_leaves_out_what_does_not_apply() -> None:
    values = np.array([[1.0, 10.0], [2.0, NAN], [NAN, 30.0], [NAN, NAN]])
    found = combine(values, [1.0, 0.5], [0, 0, 1, 1])
    assert np.array_equal(found, [6.0, 2.0, 15.0, NAN], equal_nan=True)


@pytest.mark.parametrize("aggregation", ["sum_then_normalize", "normalize_then_sum"])
def test_a_failed_reward_is_no_zero_and_takes_its_sample_out(aggregation: str) -> None:
    values = np.array([[1.0, 10.0], [2.0, NAN], [3.0, 30.0], [5.0, 20.0]])
    failed = np.zeros((4, 2), bool)
    failed[1, 1] = True
    found = combine(values, [1, 1], [0] * 4, aggregation, failed=failed)  # type: ignore[arg-type]
    assert np.isnan(found).tolist() == [False, True, False, False]
    rest = np.delete(values, 1, axis=0)
    assert np.allclose(np.delete(found, 1), combine(rest, [1, 1], [0] * 3, aggregation))  # type: ignore[arg-type]


def test_a_reward_of_weight_0_is_only_watched() -> None:
    values = np.array([[1.0, NAN], [NAN, 5.0]])
    failed = np.array([[False, True], [False, False]])
    assert np.array_equal(combine(values, [2, 0], [0, 0], failed=failed), [2.0, NAN], equal_nan=True)


def by_trls_formula(values: np.ndarray, weights: list[float], group: int) -> np.ndarray:
    """GRPOTrainer's ``normalize_then_sum`` written down again in torch, groups of equal size lying together."""
    import torch

    def nanstd(tensor: torch.Tensor, dim: int | None, keepdim: bool) -> torch.Tensor:
        mean = torch.nanmean(tensor, dim=dim, keepdim=True)
        count = (~torch.isnan(tensor)).sum(dim=dim, keepdim=True)
        variance = torch.nanmean((tensor - mean) ** 2, dim=dim, keepdim=True) * count / (count - 1)
        variance = torch.where(count > 1, variance, torch.full_like(variance, NAN))
        return variance.sqrt() if keepdim else variance.sqrt().squeeze()

    table = torch.tensor(values)
    nobody = table.isnan().all(dim=1)
    grouped = table.view(-1, group, table.shape[1])
    scaled = (grouped - grouped.nanmean(dim=1, keepdim=True)) / (nanstd(grouped, 1, True) + 1e-4)
    sums = (scaled.view(table.shape) * torch.tensor(weights)).nansum(dim=1)
    sums[nobody] = NAN
    return ((sums - sums.nanmean()) / (nanstd(sums, None, False) + 1e-4)).numpy()


def test_gdpo_is_trls() -> None:
    draw = np.random.default_rng(0)
    values = draw.normal(size=(24, 3)) * [1, 10, 0.1] + [0, 5, -1]
    values[draw.random(values.shape) < 0.15] = NAN
    values[5] = NAN
    found = combine(values, [1.0, 0.5, 2.0], np.repeat(np.arange(6), 4), "normalize_then_sum")
    assert np.allclose(found, by_trls_formula(values, [1.0, 0.5, 2.0], 4), equal_nan=True, atol=1e-12)


def test_gdpo_brings_rewards_of_unlike_scales_to_one() -> None:
    """One success in a group of G has (G - 1)/sqrt(G) standard deviations, whatever the reward's unit."""
    values = np.zeros((4, 2))
    values[0, 0], values[1, 1] = 1.0, 1000.0
    one = standardised_in_groups(values, [0] * 4, 0.0)
    assert one[0, 0] == pytest.approx(1.5) and one[1, 1] == pytest.approx(1.5)
    assert one[1, 0] == pytest.approx(-0.5)
    found = combine(values, [1, 1], [0] * 4, "normalize_then_sum")
    assert found[0] == pytest.approx(found[1], rel=1e-3)
    assert combine(values, [1, 1], [0] * 4)[1] == 1000


@given(TABLES)
def test_gdpo_sums_to_0_and_knows_neither_order_nor_names_of_groups(values: np.ndarray) -> None:
    groups = np.array([7, 3, 7, 3, 9, 9, 7, 3])
    weights = [1.0] * values.shape[1]
    found = combine(values, weights, groups, "normalize_then_sum")
    assert np.isnan(found).tolist() == np.isnan(values).all(axis=1).tolist()
    assert abs(np.nansum(found)) < 1e-6
    order = np.random.default_rng(0).permutation(8)
    assert np.allclose(
        combine(values[order], weights, -groups[order], "normalize_then_sum"), found[order], equal_nan=True
    )


def test_a_group_of_one_and_equal_rewards_carry_no_signal() -> None:
    values = np.array([[3.0], [2.0], [2.0], [2.0]])
    assert np.allclose(combine(values, [1], [0, 1, 1, 1], "normalize_then_sum"), 0)


def test_no_samples_are_no_error() -> None:
    for aggregation in ("sum_then_normalize", "normalize_then_sum"):
        assert combine(np.zeros((0, 2)), [1, 1], [], aggregation).shape == (0,)  # type: ignore[arg-type]


# --- moments over windows -------------------------------------------------------------------------------


@given(TABLES, TABLES)
def test_moments_of_windows_are_those_of_all_values_together(first: np.ndarray, second: np.ndarray) -> None:
    width = min(first.shape[1], second.shape[1])
    first, second = first[:, :width], second[:, :width]
    moments = RunningMoments.none_of(width).updated(first).updated(second)
    for column, count, mean, squares in zip(
        np.vstack([first, second]).T, moments.counts, moments.means, moments.squares, strict=True
    ):
        seen = column[np.isfinite(column)]
        assert count == len(seen)
        if count:
            assert mean == pytest.approx(seen.mean(), abs=1e-9)
            assert squares == pytest.approx(((seen - seen.mean()) ** 2).sum(), abs=1e-7)


def test_moments_come_back_from_json_to_the_last_bit() -> None:
    values = np.random.default_rng(1).normal(size=(50, 2)) / 3
    moments = RunningMoments.none_of(2).updated(values)
    again = RunningMoments.load(json.loads(json.dumps(moments.state())))
    assert again == moments
    assert again.updated(values) == moments.updated(values)


def test_standardised_rewards_have_mean_0_and_deviation_1() -> None:
    values = np.random.default_rng(2).normal(size=(200, 2)) * [5, 0.1] + [3, -2]
    values[0, 0] = NAN
    scaled = RunningMoments.none_of(2).updated(values).standardised(values)
    assert np.allclose(np.nanmean(scaled, axis=0), 0) and np.allclose(np.nanstd(scaled, axis=0, ddof=1), 1)
    assert math.isnan(scaled[0, 0])


def test_a_reward_that_never_varied_is_only_centred() -> None:
    values = np.full((4, 1), 2.0)
    assert np.allclose(RunningMoments.none_of(1).updated(values).standardised(np.array([[2.0], [3.0]])), [[0], [1]])


# --- constraints ----------------------------------------------------------------------------------------


def test_the_price_rises_while_the_limit_is_broken_and_never_falls_below_0() -> None:
    assert updated_multiplier(0.0, 0.1, 1.5, 1.0) == pytest.approx(0.05)
    assert updated_multiplier(0.05, 0.1, 0.8, 1.0) == pytest.approx(0.03)
    assert updated_multiplier(0.05, 0.1, 0.0, 1.0) == 0.0
    assert updated_multiplier(0.05, 0.1, NAN, 1.0) == 0.05


def test_the_price_settles_where_the_cost_meets_its_limit() -> None:
    """Reward x - x^2/4 with cost x and limit 1: the best x without limit is 2, and the price of the limit is 1/2."""
    price = 0.0
    for _ in range(200):
        price = updated_multiplier(price, 0.2, 2 * (1 - price), 1.0)
    assert price == pytest.approx(0.5)


def test_costs_are_taken_off_at_their_price() -> None:
    found = constrained(np.array([1.0, 2.0, NAN]), np.array([[1.0, 2.0], [NAN, 4.0], [1.0, 1.0]]), [0.5, 0.25])
    assert np.array_equal(found, [0.0, 1.0, NAN], equal_nan=True)
