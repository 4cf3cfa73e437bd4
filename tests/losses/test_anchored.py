"""Losses that hold each side by itself, against plain-float forms and against each other."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from preftune.losses import apo_down, apo_zero, bco_pair, dpo, dpop, nca_pair, rpo, sppo_hard
from tests.losses.closed_forms import columns, derivative, sigmoid, softplus, stationary_point

RATIOS = st.tuples(st.floats(-40, 40), st.floats(-40, 40))
BETAS = st.floats(0.05, 2)
ZERO = torch.zeros(1, dtype=torch.float64)


@settings(max_examples=40, deadline=None)
@given(RATIOS, BETAS)
def test_losses_are_the_published_equations(ratios: tuple[float, float], beta: float) -> None:
    four, won, lost = _from_ratios(*ratios), beta * ratios[0], beta * ratios[1]
    fallen = max(0.0, -ratios[0])
    expected = {
        dpop: softplus(-(won - lost) + beta * 5 * fallen),
        nca_pair: softplus(-won) + softplus(won) / 2 + softplus(lost) / 2,
        sppo_hard: (ratios[0] - 0.5 / beta) ** 2 + (ratios[1] + 0.5 / beta) ** 2,
        apo_zero: 1 - sigmoid(won) + sigmoid(lost),
        apo_down: sigmoid(won) + 1 - sigmoid(won - lost),
    }
    for loss, value in expected.items():
        assert loss(*four, beta=beta).item() == pytest.approx(value, rel=1e-9, abs=1e-9), loss.__name__


@settings(max_examples=25, deadline=None)
@given(RATIOS, BETAS)
def test_without_their_term_dpop_and_rpo_are_dpo(ratios: tuple[float, float], beta: float) -> None:
    four = _from_ratios(*ratios)
    plain = dpo(*four, beta).item()
    assert dpop(*four, beta, lam=0).item() == plain
    assert rpo(*four, torch.tensor([9]), beta, alpha=0).item() == plain


@settings(max_examples=25, deadline=None)
@given(RATIOS, BETAS, st.floats(0, 50))
def test_dpop_costs_more_than_dpo_exactly_where_chosen_has_fallen(
    ratios: tuple[float, float], beta: float, lam: float
) -> None:
    four = _from_ratios(*ratios)
    extra = dpop(*four, beta, lam) - dpo(*four, beta)
    assert extra.item() == 0 if ratios[0] >= 0 or lam == 0 else extra.item() >= 0


def test_dpop_raises_chosen_where_dpo_would_let_it_fall() -> None:
    """One weight that moves both sides together, rejected twice as fast: DPO's margin grows as chosen falls."""

    def falling(loss, **options: float) -> float:
        return derivative(lambda x: loss(-x, -2 * x, ZERO, ZERO, **options), at=0.1)

    assert falling(dpo) < 0  # descent lets x, the fall, grow
    assert falling(dpop, lam=5.0) > 0


def test_rpo_adds_the_mean_negative_log_prob_of_chosen() -> None:
    chosen, rejected = torch.tensor([-12.0, -30.0]), torch.tensor([-3.0, -8.0])
    four = (chosen, rejected, chosen - 1, rejected + 2)
    extra = rpo(*four, torch.tensor([4, 10]), alpha=0.5) - dpo(*four)
    assert extra.tolist() == pytest.approx([0.5 * 3.0, 0.5 * 3.0], rel=1e-6)


def test_nca_draws_chosen_to_a_reward_of_ln_2_and_rejected_ever_lower() -> None:
    beta = 0.25
    chosen = stationary_point(lambda x: nca_pair(x, ZERO, ZERO, ZERO, beta))
    assert beta * chosen == pytest.approx(math.log(2), abs=1e-9)
    assert derivative(lambda x: nca_pair(ZERO, x, ZERO, ZERO, beta), at=-100.0) > 0


def test_sppo_ends_half_an_inverse_beta_from_the_reference() -> None:
    assert stationary_point(lambda x: sppo_hard(x, ZERO, ZERO, ZERO, 0.1)) == pytest.approx(5.0, abs=1e-9)
    assert stationary_point(lambda x: sppo_hard(ZERO, x, ZERO, ZERO, 0.1)) == pytest.approx(-5.0, abs=1e-9)


def test_bco_compares_with_the_mean_reward_of_the_batch() -> None:
    four = columns([(-10, -20, -12, -15), (-6, -4, -5, -8)])  # log-ratios 2, -5 and -1, 4: mean 0
    shifted = (four[0] + 3, four[1] + 3, *four[2:])  # mean 3
    assert bco_pair(*four).tolist() == pytest.approx(bco_pair(*four, delta=0.0).tolist(), rel=1e-12)
    assert bco_pair(*shifted).tolist() == pytest.approx(bco_pair(*four).tolist(), rel=1e-12)
    assert bco_pair(*shifted, beta=0.5, delta=1.5).tolist() == pytest.approx(bco_pair(*four, beta=0.5).tolist())
    expected = [softplus(-0.2) + softplus(-0.5), softplus(0.1) + softplus(0.4)]
    assert bco_pair(*four, delta=0.0).tolist() == pytest.approx(expected, rel=1e-12)


def test_no_gradient_flows_through_the_mean_reward() -> None:
    four = [column.requires_grad_() for column in columns([(-10, -20, -12, -15), (-6, -4, -5, -8)])]
    own = torch.autograd.grad(bco_pair(*four)[0], four[0])[0]
    assert own[0].item() == pytest.approx(-0.1 * sigmoid(-0.2), rel=1e-9)
    assert own[1].item() == 0


@settings(max_examples=25, deadline=None)
@given(RATIOS)
def test_apo_zero_moves_the_sides_apart_and_each_by_its_own_reward(ratios: tuple[float, float]) -> None:
    chosen, rejected = _gradients(apo_zero, ratios)
    slopes = [0.1 * sigmoid(0.1 * ratio) * sigmoid(-0.1 * ratio) for ratio in ratios]
    assert (chosen, rejected) == pytest.approx((-slopes[0], slopes[1]), rel=1e-9)


@settings(max_examples=25, deadline=None)
@given(RATIOS)
def test_apo_down_lowers_rejected_and_chosen_once_the_margin_is_the_larger(ratios: tuple[float, float]) -> None:
    chosen, rejected = _gradients(apo_down, ratios)
    assert rejected >= 0
    gap = abs(ratios[0] - ratios[1]) - abs(ratios[0])
    if abs(gap) > 1e-3:
        assert math.copysign(1, chosen) == math.copysign(1, gap)


def test_apo_down_starts_by_lowering_rejected_alone() -> None:
    assert _gradients(apo_down, (0.0, 0.0)) == pytest.approx((0.0, 0.1 / 4), abs=1e-12)


def _gradients(loss, ratios: tuple[float, float]) -> tuple[float, float]:
    four = [column.requires_grad_() for column in _from_ratios(*ratios)]
    chosen, rejected = torch.autograd.grad(loss(*four).sum(), four[:2])
    return chosen.item(), rejected.item()


def _from_ratios(chosen: float, rejected: float) -> tuple[Tensor, ...]:
    return columns([(chosen, rejected, 0.0, 0.0)])
