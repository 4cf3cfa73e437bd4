"""ORPO's odds in every precision, SimPO's gamma, CPO as DPO without a reference."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from preftune.losses import (
    alphapo,
    cpo,
    cpo_hinge,
    cpo_ipo,
    dpo,
    hinge,
    ipo,
    log_odds,
    log_odds_ratio,
    orpo,
    sft,
    simpo,
)
from tests.losses.closed_forms import LN_2, softplus

MEANS = st.floats(-20, -1e-3)
CHOSEN, REJECTED = torch.tensor([-10.0, -3.5]), torch.tensor([-20.0, -2.0])
ZERO = torch.zeros(2)


@settings(max_examples=200, deadline=None)
@given(st.floats(-60, -2e-7))
def test_log_odds_in_float32_keep_their_digits(mean: float) -> None:
    mean = torch.tensor(mean).item()  # the float32 that is really passed
    exact = mean - math.log(-math.expm1(mean))
    assert log_odds(torch.tensor([mean])).item() == pytest.approx(exact, rel=2e-6, abs=2e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("mean", [0.0, -1e-9, -1e-8, -1e-6, -1e-3, -LN_2, -1.0, -100.0, -1e4])
def test_log_odds_and_their_gradient_are_finite_in_every_precision(dtype: torch.dtype, mean: float) -> None:
    means = torch.tensor([mean], dtype=dtype, requires_grad=True)
    odds = log_odds(means)
    (gradient,) = torch.autograd.grad(odds.sum(), means)
    assert torch.isfinite(odds).all()
    assert torch.isfinite(gradient.float()).all() or dtype == torch.float16  # 1e7 does not fit float16
    assert odds.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


def test_log_odds_of_a_near_certain_bfloat16_answer_are_right() -> None:
    mean = torch.tensor([-1e-3], dtype=torch.bfloat16)
    assert log_odds(mean).item() == pytest.approx(-math.log(math.expm1(-mean.item())), rel=1e-6)
    assert log_odds(mean).item() == pytest.approx(6.9, abs=0.01)


@settings(max_examples=30, deadline=None)
@given(st.floats(-20, -1e-4))
def test_gradient_of_log_odds_is_the_inverse_of_what_is_left(mean: float) -> None:
    means = torch.tensor([mean], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(log_odds(means).sum(), means)
    assert gradient.item() == pytest.approx(1 / -math.expm1(mean), rel=1e-9)


def test_log_odds_of_a_half_are_zero_from_both_forms() -> None:
    around = torch.tensor([-LN_2 - 1e-9, -LN_2, -LN_2 + 1e-9], dtype=torch.float64)
    assert log_odds(around).tolist() == pytest.approx([0, 0, 0], abs=1e-8)


@settings(max_examples=40, deadline=None)
@given(MEANS, MEANS, st.floats(0, 2))
def test_orpo_is_the_published_equation(chosen: float, rejected: float, lam: float) -> None:
    p_w, p_l = math.exp(chosen), math.exp(rejected)
    ratio = math.log(p_w / -math.expm1(chosen)) - math.log(p_l / -math.expm1(rejected))
    sides = (torch.tensor([chosen], dtype=torch.float64), torch.tensor([rejected], dtype=torch.float64))
    assert orpo(*sides, lam).item() == pytest.approx(-chosen + lam * softplus(-ratio), rel=1e-8)
    assert log_odds_ratio(*sides).item() == pytest.approx(ratio, rel=1e-8, abs=1e-8)


def test_orpo_between_equals_is_the_likelihood_and_lambda_ln_2() -> None:
    assert orpo(CHOSEN, CHOSEN, lam=0.1).tolist() == pytest.approx([10 + 0.1 * LN_2, 3.5 + 0.1 * LN_2], rel=1e-6)


def test_orpo_takes_another_likelihood_in_place_of_its_own() -> None:
    means = CHOSEN / 10
    own, other = orpo(means, means - 1), orpo(means, means - 1, nll=torch.tensor(2.0))
    assert (own + means).tolist() == pytest.approx((other - 2).tolist(), abs=1e-6)


def test_gamma_is_subtracted_inside_the_sigmoid_and_not_scaled_by_beta() -> None:
    for beta in (1.0, 2.0, 10.0):
        assert simpo(CHOSEN, CHOSEN, beta, gamma=1.0).tolist() == pytest.approx([1.313262] * 2, abs=1e-6)
    values = simpo(torch.tensor([-0.5]), torch.tensor([-1.25]), beta=2.5, gamma=1.375)
    assert values.item() == pytest.approx(softplus(-(2.5 * 0.75 - 1.375)), rel=1e-6)


def test_simpo_without_gamma_is_dpo_on_means_without_reference() -> None:
    plain = simpo(CHOSEN, REJECTED, beta=0.3, gamma=0.0, label_smoothing=0.1)
    assert plain.tolist() == dpo(CHOSEN, REJECTED, ZERO, ZERO, 0.3, 0.1).tolist()


def test_alphapo_bends_simpo() -> None:
    straight = simpo(CHOSEN.double() / 10, REJECTED.double() / 10)
    assert alphapo(CHOSEN.double() / 10, REJECTED.double() / 10, alpha=1e-8).tolist() == pytest.approx(
        straight.tolist(), rel=1e-6
    )
    one = alphapo(torch.tensor([-0.5]), torch.tensor([-1.25]), beta=2.0, gamma=0.5, alpha=0.25).item()
    rewards = [2.0 * (1 - math.exp(-mean) ** 0.25) / 0.25 for mean in (-0.5, -1.25)]
    assert one == pytest.approx(softplus(-(rewards[0] - rewards[1] - 0.5)), rel=1e-5)


def test_cpo_and_its_forms_are_the_losses_of_pairs_against_a_uniform_reference() -> None:
    four = (CHOSEN, REJECTED, ZERO, ZERO)
    assert cpo(CHOSEN, REJECTED, 0.3, 0.1, nll_weight=0).tolist() == dpo(*four, 0.3, 0.1).tolist()
    assert cpo_hinge(CHOSEN, REJECTED, 0.3, nll_weight=0).tolist() == hinge(*four, 0.3).tolist()
    assert cpo_ipo(CHOSEN, REJECTED, 0.3, nll_weight=0).tolist() == ipo(*four, 0.3).tolist()
    for constant in (-7.0, 4.0):  # any uniform reference is the same
        shifted = dpo(CHOSEN, REJECTED, ZERO + constant, ZERO + constant, 0.3)
        assert cpo(CHOSEN, REJECTED, 0.3, nll_weight=0).tolist() == pytest.approx(shifted.tolist(), rel=1e-6)


def test_cpo_adds_the_likelihood_of_chosen_or_the_one_it_is_given() -> None:
    for loss in (cpo, cpo_hinge, cpo_ipo):
        preference = loss(CHOSEN, REJECTED, nll_weight=0)
        assert (loss(CHOSEN, REJECTED) - preference).tolist() == pytest.approx([10.0, 3.5], rel=1e-5)
        given_one = loss(CHOSEN, REJECTED, nll_weight=0.5, nll=torch.tensor(3.0)) - preference
        assert given_one.tolist() == pytest.approx([1.5, 1.5], rel=1e-5)


def test_sft_is_the_mean_over_an_answers_tokens() -> None:
    values = sft(torch.tensor([-10.0, -3.0, 0.0]), torch.tensor([5, 2, 0]))
    assert values.tolist() == [2.0, 1.5, 0.0]
