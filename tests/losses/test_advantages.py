"""Advantages: the closed forms of GRPO and RLOO, generalised advantage estimation by hand, rewards that are missing."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from preftune.losses import (
    batch_normalised,
    frac_zero_variance,
    gae,
    gradient_snr,
    group_advantages,
    leave_one_out,
    tied_groups,
    token_rewards,
    whiten,
    zero_variance_probability,
)

NAN = math.nan
SCALES: list[Any] = ["group", "batch", "none"]
# P(all G rewards are the same): a row a group size, a column a success rate.
RATES = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
ZERO_VARIANCE = {
    2: (0.961, 0.905, 0.820, 0.680, 0.580, 0.500),
    4: (0.922, 0.815, 0.656, 0.411, 0.248, 0.125),
    8: (0.851, 0.663, 0.430, 0.168, 0.058, 0.008),
    16: (0.724, 0.440, 0.185, 0.028, 0.003, 0.0),
    32: (0.524, 0.194, 0.034, 0.001, 0.0, 0.0),
}
SIZES = (2, 4, 8, 16)
NUMBERS = st.floats(-1e3, 1e3)
REWARDS = st.integers(2, 6).flatmap(
    lambda size: st.lists(st.lists(NUMBERS | st.just(NAN), min_size=size, max_size=size), min_size=1, max_size=4)
)
SEQUENCES = st.lists(st.lists(st.tuples(NUMBERS, NUMBERS), max_size=6), min_size=1, max_size=5).filter(any)


@pytest.mark.parametrize("size", [2, 4, 8, 16])
def test_one_success_in_a_group_has_the_closed_form(size: int) -> None:
    rewards = torch.zeros(1, size, dtype=torch.float64)
    rewards[0, 0] = 1.0
    expected = [(size - 1) / math.sqrt(size)] + [-1 / math.sqrt(size)] * (size - 1)
    assert group_advantages(rewards, eps=0).tolist()[0] == pytest.approx(expected, rel=1e-12)
    assert group_advantages(rewards).tolist()[0] == pytest.approx(expected, rel=5e-4)


@settings(max_examples=15)
@given(low=NUMBERS, gap=st.floats(1e-3, 1e3))
def test_two_different_rewards_are_as_far_apart_whatever_their_gap(low: float, gap: float) -> None:
    advantages = group_advantages(torch.tensor([[low + gap, low]], dtype=torch.float64), eps=0)
    assert advantages.tolist()[0] == pytest.approx([math.sqrt(0.5), -math.sqrt(0.5)], rel=1e-6)


def test_scales_divide_by_the_deviation_of_group_or_batch_or_by_nothing() -> None:
    rewards = torch.tensor([[1.0, 3.0], [10.0, 16.0]], dtype=torch.float64)
    batch = math.sqrt(sum((x - 7.5) ** 2 for x in (1, 3, 10, 16)) / 3) + 1e-4
    expected: dict[Any, list[float]] = {
        "none": [-1, 1, -3, 3],
        "group": [-1 / (math.sqrt(2) + 1e-4), 1 / (math.sqrt(2) + 1e-4), -3 / (3 * math.sqrt(2) + 1e-4)],
        "batch": [-1 / batch, 1 / batch, -3 / batch, 3 / batch],
    }
    for scale, values in expected.items():
        found = group_advantages(rewards, scale).flatten().tolist()
        assert found[: len(values)] == pytest.approx(values, rel=1e-12)


@pytest.mark.parametrize("scale", SCALES)
def test_a_group_of_equal_rewards_gets_exact_zeros(scale: Any) -> None:
    """0.1 seven times has no mean of 0.1 in float32: what is left, over a deviation near 0, would be a gradient."""
    rewards = torch.tensor([[0.1] * 7, [0.0] * 6 + [1.0]])
    assert (rewards[0] - rewards[0].mean()).abs().max() > 0
    for advantages in (group_advantages(rewards, scale), leave_one_out(rewards)):
        assert advantages[0].tolist() == [0.0] * 7
        assert advantages[1].abs().min() > 0
    assert batch_normalised(rewards[0]).tolist() == [0.0] * 7


@pytest.mark.parametrize("scale", ["group", "none"])
def test_a_missing_reward_counts_in_no_mean_and_gets_zero(scale: Any) -> None:
    holed = torch.tensor([[1.0, NAN, 0.0, 4.0], [NAN, 2.0, NAN, NAN], [NAN] * 4], dtype=torch.float64)
    whole = torch.tensor([[1.0, 0.0, 4.0]], dtype=torch.float64)
    for function in (lambda rewards: group_advantages(rewards, scale), leave_one_out):
        found = function(holed)
        assert found[0, [0, 2, 3]].tolist() == pytest.approx(function(whole)[0].tolist(), rel=1e-12)
        assert found[0, 1].item() == 0
        assert found[1:].tolist() == [[0.0] * 4] * 2


def test_missing_rewards_are_left_out_of_the_batchs_deviation() -> None:
    holed = torch.tensor([[1.0, NAN, 3.0], [10.0, 16.0, NAN]], dtype=torch.float64)
    whole = torch.tensor([[1.0, 3.0], [10.0, 16.0]], dtype=torch.float64)
    kept = group_advantages(holed, "batch")[~holed.isnan()]
    assert kept.tolist() == pytest.approx(group_advantages(whole, "batch").flatten().tolist(), rel=1e-12)


@settings(max_examples=30)
@given(rows=REWARDS, scale=st.sampled_from(SCALES))
def test_advantages_are_finite_and_cancel_within_a_group(rows: list[list[float]], scale: Any) -> None:
    rewards = torch.tensor(rows, dtype=torch.float64)
    for advantages in (group_advantages(rewards, scale), leave_one_out(rewards)):
        assert torch.isfinite(advantages).all()
        assert advantages.sum(1).tolist() == pytest.approx([0.0] * len(rows), abs=1e-6)
        assert (advantages[rewards.isnan()] == 0).all()
    assert torch.isfinite(batch_normalised(rewards)).all()


def test_leave_one_out_subtracts_the_mean_of_the_others() -> None:
    found = leave_one_out(torch.tensor([[1.0, 2.0, 6.0]]))
    assert found.tolist()[0] == pytest.approx([1 - 4, 2 - 3.5, 6 - 1.5])


@settings(max_examples=15)
@given(row=st.lists(NUMBERS, min_size=2, max_size=8))
def test_leave_one_out_is_the_centred_reward_times_g_over_g_minus_1(row: list[float]) -> None:
    rewards = torch.tensor([row], dtype=torch.float64)
    centred = len(row) / (len(row) - 1) * (rewards - rewards.mean())
    assert leave_one_out(rewards).tolist()[0] == pytest.approx(centred.tolist()[0], rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("success_rate", [0.1, 0.3, 0.5])
@pytest.mark.parametrize("size", [2, 4])
def test_leave_one_out_gives_the_true_gradient_in_the_mean(size: int, success_rate: float) -> None:
    """Over every outcome of a group; the gradient of a success rate by its logit is p(1 - p)."""
    total = 0.0
    for outcome in product((0.0, 1.0), repeat=size):
        rewards = torch.tensor([outcome], dtype=torch.float64)
        chance = math.prod(success_rate if one else 1 - success_rate for one in outcome)
        total += chance * (leave_one_out(rewards) * (rewards - success_rate)).mean().item()
    assert total == pytest.approx(success_rate * (1 - success_rate), rel=1e-12)


def test_batch_normalised_has_mean_0_and_deviation_1_of_what_is_there() -> None:
    values = torch.tensor([[1.0, 2.0, NAN], [4.0, 9.0, -3.0]], dtype=torch.float64)
    found = batch_normalised(values)
    there = found[~values.isnan()]
    assert found.shape == values.shape
    assert found[0, 2].item() == 0
    assert there.mean().item() == pytest.approx(0, abs=1e-12)
    assert there.std().item() == pytest.approx(1, rel=1e-4)


def test_tied_groups_are_those_without_two_different_rewards() -> None:
    rewards = torch.tensor([[1.0, 1.0, NAN], [1.0, 1.0 + 2**-20, NAN], [NAN, 3.0, NAN], [NAN] * 3])
    assert tied_groups(rewards).tolist() == [True, False, True, True]
    assert frac_zero_variance(rewards).item() == 0.75


@pytest.mark.parametrize("size", ZERO_VARIANCE)
def test_chance_of_a_group_that_teaches_nothing_is_the_table(size: int) -> None:
    found = [zero_variance_probability(rate, size) for rate in RATES]
    assert found == pytest.approx(ZERO_VARIANCE[size], abs=5.1e-4)


def test_share_of_tied_groups_has_that_chance_in_the_mean() -> None:
    outcomes = list(product((0.0, 1.0), repeat=4))
    chances = torch.tensor([math.prod(0.3 if one else 0.7 for one in outcome) for outcome in outcomes])
    tied = tied_groups(torch.tensor(outcomes)).float()
    assert (chances * tied).sum().item() == pytest.approx(zero_variance_probability(0.3, 4), rel=1e-5)


@pytest.mark.parametrize(
    ("rollouts", "success_rate", "advantages", "golden"),
    [
        (64, 0.3, group_advantages, (4.8, 6.9, 9.8, 14.1)),
        (64, 0.3, leave_one_out, (4.8, 6.7, 7.9, 8.5)),
        (64, 0.1, group_advantages, (2.7, 2.9, 3.2, 3.8)),
        (None, 0.3, group_advantages, (2.4, 4.9, 9.9, 20.1)),
        (None, 0.1, group_advantages, (1.3, 2.0, 3.2, 5.4)),
    ],
)
def test_signal_to_noise_of_group_sizes_is_the_table(
    rollouts: int | None, success_rate: float, advantages: Any, golden: tuple[float, ...]
) -> None:
    """A row a budget: so many rollouts in all, or 8 prompts whatever the size. The table was simulated."""
    found = [gradient_snr(success_rate, size, rollouts // size if rollouts else 8, advantages) for size in SIZES]
    assert found == pytest.approx(golden, rel=0.02, abs=0.06)


@pytest.mark.parametrize("size", [2, 5, 8])
def test_signal_to_noise_is_that_of_the_sum_over_binomial_counts(size: int) -> None:
    """With k successes a group's estimate is k(G - k)/(G(G - 1)) by leave-one-out, its root over G when normalised."""
    p, chances = 0.3, [math.comb(size, k) * 0.3**k * 0.7 ** (size - k) for k in range(size + 1)]
    unscaled = [k * (size - k) / (size * (size - 1)) for k in range(size + 1)]
    scaled = [math.sqrt(one) * (size - 1) / size for one in unscaled]
    for advantages, estimates in ((leave_one_out, unscaled), (lambda r: group_advantages(r, eps=0), scaled)):
        mean = math.fsum(chance * one for chance, one in zip(chances, estimates, strict=True))
        square = math.fsum(chance * one**2 for chance, one in zip(chances, estimates, strict=True))
        expected = mean / math.sqrt(square - mean**2) * math.sqrt(10)
        assert gradient_snr(p, size, 10, advantages) == pytest.approx(expected, rel=1e-9)


def test_certain_success_has_no_signal() -> None:
    assert gradient_snr(1.0, 4, 8) == 0
    assert gradient_snr(0.5, 1, 8) == 0


def test_token_rewards_are_the_price_of_the_kl_and_at_the_end_the_score() -> None:
    kl = torch.tensor([0.5, -1.0, 2.0, 1.0])
    found = token_rewards(kl, torch.tensor([10.0, 20.0, 30.0]), torch.tensor([3, 0, 1]), kl_coef=0.1)
    assert found.tolist() == pytest.approx([-0.05, 0.1, -0.2 + 10, -0.1 + 30])
    assert kl.tolist() == [0.5, -1.0, 2.0, 1.0]


@settings(max_examples=30)
@given(rows=SEQUENCES, gamma=st.floats(0, 1), lam=st.floats(0, 1))
def test_gae_is_the_sum_of_its_definition(rows: list[list[tuple[float, float]]], gamma: float, lam: float) -> None:
    rewards, values, lengths = _flat(rows)
    advantages, returns = gae(rewards, values, lengths, gamma, lam)
    expected = [value for row in rows for value in _by_definition(row, gamma, lam)]
    assert advantages.tolist() == pytest.approx(expected, rel=1e-9, abs=1e-9)
    assert returns.tolist() == pytest.approx((advantages + values).tolist(), rel=1e-12)


@settings(max_examples=15)
@given(rows=SEQUENCES)
def test_gae_with_lam_1_is_the_return_less_the_value(rows: list[list[tuple[float, float]]]) -> None:
    rewards, values, lengths = _flat(rows)
    advantages, returns = gae(rewards, values, lengths, gamma=1.0, lam=1.0)
    to_come = [sum(r for r, _ in row[t:]) for row in rows for t in range(len(row))]
    assert returns.tolist() == pytest.approx(to_come, rel=1e-9, abs=1e-9)
    assert advantages.tolist() == pytest.approx((torch.tensor(to_come) - values).tolist(), rel=1e-4, abs=1e-2)


def test_gae_with_lam_0_is_the_one_step_error_and_nothing_follows_the_end() -> None:
    rewards, values = torch.tensor([1.0, 2.0, 3.0, 5.0]), torch.tensor([0.5, 0.25, -1.0, 4.0])
    advantages, _ = gae(rewards, values, torch.tensor([3, 0, 1]), gamma=0.5, lam=0.0)
    assert advantages.tolist() == [1 + 0.125 - 0.5, 2 - 0.5 - 0.25, 3 + 1.0, 5 - 4.0]


def test_gae_of_a_perfect_value_function_is_zero() -> None:
    rewards, values = torch.tensor([0.0, 0.0, 7.0, 3.0]), torch.tensor([7.0, 7.0, 7.0, 3.0])
    advantages, returns = gae(rewards, values, torch.tensor([3, 1]))
    assert advantages.tolist() == [0.0] * 4
    assert returns.tolist() == values.tolist()


def test_a_sequence_has_the_same_advantages_alone_and_beside_others() -> None:
    generator = torch.Generator().manual_seed(0)
    rewards, values = torch.randn(2, 12, generator=generator)
    together, _ = gae(rewards, values, torch.tensor([5.0, 7.0]))
    alone, _ = gae(rewards[5:], values[5:], torch.tensor([7.0]))
    assert together[5:].tolist() == alone.tolist()


def test_no_gradient_flows_through_advantages_and_returns() -> None:
    values = torch.randn(4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    advantages, returns = gae(torch.ones(4), values, torch.tensor([4]))
    assert not advantages.requires_grad
    assert not returns.requires_grad


def test_whitened_values_have_deviation_1_and_keep_their_mean_if_asked() -> None:
    values = torch.tensor([1.0, 5.0, 6.0, -2.0], dtype=torch.float64)
    for shift, mean in ((True, 0.0), (False, 2.5)):
        found = whiten(values, shift_mean=shift)
        assert found.mean().item() == pytest.approx(mean, abs=1e-9)
        assert found.std().item() == pytest.approx(1, rel=1e-6)


def test_equal_values_whiten_to_zero_or_stay() -> None:
    for values in (torch.full((3,), 4.0), torch.tensor([4.0])):
        assert whiten(values).tolist() == [0.0] * len(values)
        assert whiten(values, shift_mean=False).tolist() == values.tolist()


def _flat(rows: list[list[tuple[float, float]]]) -> tuple[Tensor, Tensor, Tensor]:
    """Rewards, values and lengths of sequences of (reward, value)."""
    rewards, values = torch.tensor([pair for row in rows for pair in row], dtype=torch.float64).unbind(1)
    return rewards, values, torch.tensor([len(row) for row in rows])


def _by_definition(row: list[tuple[float, float]], gamma: float, lam: float) -> list[float]:
    values = [value for _, value in row] + [0.0]
    deltas = [reward + gamma * values[t + 1] - values[t] for t, (reward, _) in enumerate(row)]
    return [sum((gamma * lam) ** (k - t) * deltas[k] for k in range(t, len(row))) for t in range(len(row))]
