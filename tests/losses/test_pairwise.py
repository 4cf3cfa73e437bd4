"""Losses of DPO's margin against their closed forms and the golden values of the reference sheet."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from preftune.errors import PreftuneError
from preftune.losses import (
    discopop,
    dpo,
    exo_pair,
    hinge,
    ipo,
    ipo_target_margin,
    log_ratio_margin,
    robust,
    sigmoid_norm,
)
from tests.losses.closed_forms import columns, derivative, sigmoid, softplus, stationary_point

LOG_PROBS = st.floats(-400, 0, allow_nan=False)
FOUR = st.tuples(LOG_PROBS, LOG_PROBS, LOG_PROBS, LOG_PROBS)
BETAS = st.floats(0.01, 5)
PAIR = (-10.0, -20.0, -12.0, -15.0)  # h = 2 - (-5) = 7


def test_loss_is_ln_2_where_policy_and_reference_agree() -> None:
    chosen, rejected = torch.tensor([-12.0, -250.0]), torch.tensor([-3.0, -80.0])
    losses = dpo(chosen, rejected, chosen, rejected)
    assert losses.tolist() == pytest.approx([0.693147, 0.693147], abs=5e-7)
    assert log_ratio_margin(chosen, rejected, chosen, rejected).tolist() == [0.0, 0.0]


def test_loss_is_the_published_equation() -> None:
    losses = dpo(*columns([(-10, -20, -12, -15)]), beta=0.5)  # h = 2 - (-5) = 7
    assert losses.item() == pytest.approx(-math.log(1 / (1 + math.exp(-0.5 * 7))), rel=1e-12)


def test_smoothed_loss_is_the_published_equation() -> None:
    h, beta, e = 7.0, 0.5, 0.2
    losses = dpo(*columns([(-10, -20, -12, -15)]), beta=beta, label_smoothing=e)
    expected = (1 - e) * math.log1p(math.exp(-beta * h)) + e * math.log1p(math.exp(beta * h))
    assert losses.item() == pytest.approx(expected, rel=1e-12)


def test_every_pair_has_a_loss_of_its_own() -> None:
    rows = [(-10, -20, -12, -15), (-5, -5, -5, -5), (-9, -1, -3, -4)]
    together = dpo(*columns(rows))
    assert together.shape == (3,)
    assert together.tolist() == [dpo(*columns([row])).item() for row in rows]


@settings(deadline=None)
@given(FOUR, BETAS)
def test_swapping_the_sides_costs_beta_times_the_margin(row: tuple[float, ...], beta: float) -> None:
    wins, loses, ref_wins, ref_loses = columns([row])
    difference = dpo(loses, wins, ref_loses, ref_wins, beta) - dpo(wins, loses, ref_wins, ref_loses, beta)
    margin = log_ratio_margin(wins, loses, ref_wins, ref_loses)
    assert difference.item() == pytest.approx(beta * margin.item(), rel=1e-9, abs=1e-9)


@settings(deadline=None)
@given(FOUR, BETAS)
def test_half_the_labels_flipped_makes_the_sides_equal(row: tuple[float, ...], beta: float) -> None:
    wins, loses, ref_wins, ref_loses = columns([row])
    one = dpo(wins, loses, ref_wins, ref_loses, beta, label_smoothing=0.5)
    other = dpo(loses, wins, ref_loses, ref_wins, beta, label_smoothing=0.5)
    assert one.item() == pytest.approx(other.item(), rel=1e-12)


@settings(deadline=None)
@given(FOUR, BETAS)
def test_gradient_is_beta_times_the_sigmoid_of_the_negative_margin(row: tuple[float, ...], beta: float) -> None:
    four = [column.requires_grad_() for column in columns([row])]
    gradients = torch.autograd.grad(dpo(*four, beta=beta).sum(), four)
    weight = beta * torch.sigmoid(-beta * log_ratio_margin(*four)).item()
    expected = [-weight, weight, weight, -weight]
    assert [gradient.item() for gradient in gradients] == pytest.approx(expected, rel=1e-9, abs=1e-15)


@settings(deadline=None)
@given(FOUR, BETAS, st.floats(0, 0.49), st.floats(-50, 50))
def test_only_ratios_to_the_reference_count(
    row: tuple[float, ...], beta: float, smoothing: float, shift: float
) -> None:
    wins, loses, ref_wins, ref_loses = columns([row])
    loss = dpo(wins, loses, ref_wins, ref_loses, beta, smoothing)
    moved = dpo(wins + shift, loses, ref_wins + shift, ref_loses, beta, smoothing)
    together = dpo(wins + shift, loses + shift, ref_wins, ref_loses, beta, smoothing)
    assert moved.item() == pytest.approx(loss.item(), rel=1e-9, abs=1e-10)
    assert together.item() == pytest.approx(loss.item(), rel=1e-9, abs=1e-10)


@settings(deadline=None)
@given(FOUR, BETAS, st.floats(0, 0.49))
def test_loss_is_never_below_the_entropy_of_the_labels(row: tuple[float, ...], beta: float, smoothing: float) -> None:
    entropy = -sum(p * math.log(p) for p in (smoothing, 1 - smoothing) if p)
    assert dpo(*columns([row]), beta=beta, label_smoothing=smoothing).item() >= entropy - 1e-12


@settings(deadline=None)
@given(st.floats(-1e4, 1e4), st.floats(-1e4, 1e4))
def test_loss_falls_as_the_margin_grows(one: float, other: float) -> None:
    low, high = sorted((one, other))
    zero = torch.zeros(1, dtype=torch.float64)
    losses = [dpo(torch.tensor([h], dtype=torch.float64), zero, zero, zero).item() for h in (low, high)]
    assert losses[0] >= losses[1] >= 0


@pytest.mark.parametrize("margin", [-1e5, -1e3, 1e3, 1e5])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_extreme_margins_stay_finite_in_float32(margin: float, smoothing: float) -> None:
    chosen, zero = torch.tensor([margin], requires_grad=True), torch.zeros(1)
    loss = dpo(chosen, zero, zero, zero, beta=1.0, label_smoothing=smoothing)
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert chosen.grad is not None and torch.isfinite(chosen.grad).all()


@settings(max_examples=20, deadline=None)
@given(st.floats(0.01, 0.49), st.floats(0.05, 2))
def test_smoothing_bounds_the_optimal_margin_at_the_logit_of_trust(smoothing: float, beta: float) -> None:
    optimum = stationary_point(lambda h: _loss_of_margin(h, beta, smoothing))
    assert beta * optimum == pytest.approx(math.log((1 - smoothing) / smoothing), abs=1e-6)


@settings(max_examples=25, deadline=None)
@given(FOUR, BETAS, st.floats(0, 0.45))
def test_robust_loss_is_dpo_in_the_mean_over_flips(row: tuple[float, ...], beta: float, flips: float) -> None:
    wins, loses, ref_wins, ref_loses = columns([row])
    kept = robust(wins, loses, ref_wins, ref_loses, beta, flips)
    flipped = robust(loses, wins, ref_loses, ref_wins, beta, flips)
    clean = dpo(wins, loses, ref_wins, ref_loses, beta).item()
    assert ((1 - flips) * kept + flips * flipped).item() == pytest.approx(clean, rel=1e-9, abs=1e-9)


@settings(max_examples=25, deadline=None)
@given(FOUR, BETAS)
def test_without_flips_the_robust_loss_is_dpo(row: tuple[float, ...], beta: float) -> None:
    assert robust(*columns([row]), beta).item() == dpo(*columns([row]), beta).item()


@pytest.mark.parametrize("share", [-0.1, 0.5, 0.9])
def test_robust_loss_refuses_shares_it_cannot_correct(share: float) -> None:
    with pytest.raises(PreftuneError, match="flipped labels"):
        robust(*columns([PAIR]), label_smoothing=share)


def test_ipo_is_the_published_equation_on_sums() -> None:
    assert ipo(*columns([PAIR]), beta=0.2).item() == pytest.approx((7 - 2.5) ** 2, rel=1e-12)
    assert ipo_target_margin(0.2) == 2.5


def test_ipo_with_lengths_divides_each_ratio_by_its_own_tokens() -> None:
    lengths, others = torch.tensor([4]), torch.tensor([10])
    by_token = ipo(*columns([PAIR]), beta=0.2, chosen_lengths=lengths, rejected_lengths=others)
    assert by_token.item() == pytest.approx((2 / 4 + 5 / 10 - 2.5) ** 2, rel=1e-12)


@settings(max_examples=25, deadline=None)
@given(FOUR, BETAS)
def test_ipo_and_the_normalised_loss_of_one_token_answers_are_those_of_sums(
    row: tuple[float, ...], beta: float
) -> None:
    four, one = columns([row]), torch.tensor([1])
    assert ipo(*four, beta, chosen_lengths=one, rejected_lengths=one).item() == ipo(*four, beta).item()
    assert sigmoid_norm(*four, one, one, beta).item() == dpo(*four, beta).item()


def test_ipo_refuses_the_lengths_of_one_side() -> None:
    with pytest.raises(PreftuneError, match="one side"):
        ipo(*columns([PAIR]), chosen_lengths=torch.tensor([3]))


@settings(max_examples=25, deadline=None)
@given(FOUR, BETAS)
def test_ipo_pushes_a_margin_beyond_its_target_back(row: tuple[float, ...], beta: float) -> None:
    four = [column.requires_grad_() for column in columns([row])]
    chosen, rejected = torch.autograd.grad(ipo(*four, beta).sum(), four[:2])
    past_target = log_ratio_margin(*four).item() - ipo_target_margin(beta)
    assert chosen.item() == pytest.approx(2 * past_target, rel=1e-9, abs=1e-9)
    assert rejected.item() == -chosen.item()


@pytest.mark.parametrize(("margin", "loss", "slope"), [(-4.0, 3.0, -0.5), (0.0, 1.0, -0.5), (3.0, 0.0, 0.0)])
def test_hinge_asks_for_a_margin_of_one_over_beta_and_no_more(margin: float, loss: float, slope: float) -> None:
    zero = torch.zeros(1, dtype=torch.float64)
    assert hinge(zero + margin, zero, zero, zero, beta=0.5).item() == loss
    assert derivative(lambda h: hinge(h, zero, zero, zero, beta=0.5), margin) == slope


def test_normalised_loss_is_the_published_equation() -> None:
    values = sigmoid_norm(*columns([PAIR]), torch.tensor([4]), torch.tensor([10]), beta=5.0)
    assert values.item() == pytest.approx(softplus(-5 * (2 / 4 + 5 / 10)), rel=1e-12)


def test_length_does_not_change_the_normalised_loss_of_equal_tokens() -> None:
    """Every token gained as much: twice the tokens, twice the sums, the same loss."""
    lengths, others = torch.tensor([4]), torch.tensor([10])
    short = sigmoid_norm(*columns([PAIR]), lengths, others)
    long = sigmoid_norm(*columns([[2 * value for value in PAIR]]), 2 * lengths, 2 * others)
    assert short.item() == pytest.approx(long.item(), rel=1e-12)


def test_an_empty_completion_does_not_divide_by_zero() -> None:
    four, none = columns([(0.0, -20.0, 0.0, -15.0)]), torch.tensor([0])
    assert sigmoid_norm(*four, none, torch.tensor([5])).item() == pytest.approx(softplus(-5), rel=1e-12)


@settings(max_examples=25, deadline=None)
@given(st.floats(-30, 30), st.floats(0.001, 0.4))
def test_exo_is_the_divergence_of_the_choice_from_the_smoothed_label(logit: float, smoothing: float) -> None:
    zero = torch.zeros(1, dtype=torch.float64)
    q, rest = sigmoid(logit), sigmoid(-logit)
    expected = q * (-softplus(-logit) - math.log(1 - smoothing)) + rest * (-softplus(logit) - math.log(smoothing))
    value = exo_pair(zero + logit, zero, zero, zero, beta=1.0, label_smoothing=smoothing).item()
    assert value == pytest.approx(expected, rel=1e-9, abs=1e-9)
    assert value >= -1e-12


def test_exo_is_zero_at_its_optimum() -> None:
    zero = torch.zeros(1, dtype=torch.float64)
    optimum = zero + math.log(0.9 / 0.1)
    assert exo_pair(optimum, zero, zero, zero, beta=1.0, label_smoothing=0.1).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("smoothing", [0.0, 0.5, 1.0])
def test_exo_refuses_labels_without_doubt(smoothing: float) -> None:
    with pytest.raises(PreftuneError, match="EXO"):
        exo_pair(*columns([PAIR]), label_smoothing=smoothing)


@settings(max_examples=25, deadline=None)
@given(st.floats(-20, 20), st.floats(0.02, 0.9))
def test_discopop_is_the_published_equation(logit: float, tau: float) -> None:
    zero = torch.zeros(1, dtype=torch.float64)
    weight = sigmoid(logit / tau)
    expected = (1 - weight) * softplus(-logit) + weight * math.exp(-logit)
    assert discopop(zero + logit, zero, zero, zero, beta=1.0, tau=tau).item() == pytest.approx(expected, rel=1e-6)


def test_discopop_is_logistic_below_and_exponential_above() -> None:
    zero = torch.zeros(1, dtype=torch.float64)
    below, above = (discopop(zero + h, zero, zero, zero, beta=1.0, tau=0.01).item() for h in (-0.8, 0.8))
    assert (below, above) == pytest.approx((softplus(0.8), math.exp(-0.8)), rel=1e-9)


def test_discopop_has_a_local_minimum_on_the_wrong_side() -> None:
    zero = torch.zeros(1, dtype=torch.float64)
    slopes = [derivative(lambda h: discopop(h, zero, zero, zero, beta=1.0), at) for at in (-0.12, -0.117, 0.0, 0.073)]
    assert [math.copysign(1, slope) for slope in slopes] == [-1, 1, 1, -1]


def _loss_of_margin(h: Tensor, beta: float, smoothing: float) -> Tensor:
    zero = torch.zeros_like(h)
    return dpo(h, zero, zero, zero, beta=beta, label_smoothing=smoothing)
