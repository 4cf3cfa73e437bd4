"""f-DPO's transforms against the derivatives they stand for, and f-DPO against the problem it solves."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from preftune.losses import alpha_divergence, divergence_score, dpo, f_dpo, forward_kl, ipo, js_divergence, reverse_kl
from preftune.losses.divergences import Divergence
from tests.losses.closed_forms import minimiser

ALPHA = 0.3
GENERATORS: dict[Divergence, Callable[[Tensor], Tensor]] = {
    "reverse_kl": lambda u: u * torch.log(u),
    "forward_kl": lambda u: -torch.log(u),
    "js_divergence": lambda u: u * torch.log(u) - (u + 1) * torch.log((u + 1) / 2),
    "alpha_divergence": lambda u: (u ** (1 - ALPHA) - (1 - ALPHA) * u - ALPHA) / (ALPHA * (ALPHA - 1)),
}


@pytest.mark.parametrize("divergence", GENERATORS)
@settings(max_examples=25, deadline=None)
@given(log_ratio=st.floats(-12, 12))
def test_score_is_the_derivative_of_the_divergence(divergence: Divergence, log_ratio: float) -> None:
    u = torch.tensor([math.exp(log_ratio), 1.0], dtype=torch.float64, requires_grad=True)
    (slopes,) = torch.autograd.grad(GENERATORS[divergence](u).sum(), u)
    score = divergence_score(torch.tensor([log_ratio], dtype=torch.float64), divergence, ALPHA)
    assert score.item() == pytest.approx((slopes[0] - slopes[1]).item(), rel=1e-7, abs=1e-9)


@pytest.mark.parametrize("divergence", GENERATORS)
def test_f_dpo_finds_the_best_policy_near_the_reference(divergence: Divergence) -> None:
    """Labels drawn from rewards: the loss and the penalised reward itself must end at the same policy."""
    rewards = torch.tensor([0.0, 0.7, 1.6], dtype=torch.float64)
    ref, beta = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64), 0.8
    wins, loses = torch.tensor([0, 0, 1, 1, 2, 2]), torch.tensor([1, 2, 0, 2, 0, 1])
    chances = torch.sigmoid(rewards[wins] - rewards[loses])

    def expected_loss(logits: Tensor) -> Tensor:
        policy = torch.log_softmax(logits, dim=0)
        four = (policy[wins], policy[loses], ref.log()[wins], ref.log()[loses])
        return (chances * f_dpo(*four, beta, divergence, ALPHA)).sum()

    def penalised_cost(logits: Tensor) -> Tensor:
        policy = torch.softmax(logits, dim=0)
        return beta * (ref * GENERATORS[divergence](policy / ref)).sum() - (policy * rewards).sum()

    found, best = (torch.softmax(minimiser(loss, 3), dim=0) for loss in (expected_loss, penalised_cost))
    assert found.tolist() == pytest.approx(best.tolist(), abs=1e-5)


def test_reverse_kl_is_dpo() -> None:
    four = [torch.tensor([-10.0, -3.0]), torch.tensor([-20.0, -2.0]), torch.tensor([-12.0]), torch.tensor([-15.0])]
    assert f_dpo(*four, beta=0.3, label_smoothing=0.1).tolist() == dpo(*four, 0.3, 0.1).tolist()


@settings(max_examples=25, deadline=None)
@given(st.floats(-30, 30))
def test_alpha_runs_from_the_reverse_to_the_forward_kl(log_ratio: float) -> None:
    x = torch.tensor([log_ratio], dtype=torch.float64)
    assert alpha_divergence(x, 0).item() == reverse_kl(x).item()
    assert alpha_divergence(x, 1e-9).item() == pytest.approx(log_ratio, rel=1e-6, abs=1e-9)
    assert alpha_divergence(x, 1).item() == forward_kl(x).item()


@settings(max_examples=25, deadline=None)
@given(st.floats(-30, 30))
def test_trl_coefficient_is_one_less_alpha(log_ratio: float) -> None:
    coefficient = 0.2
    expected = (math.exp((coefficient - 1) * log_ratio) - 1) / (coefficient - 1)
    score = alpha_divergence(torch.tensor([log_ratio], dtype=torch.float64), alpha=1 - coefficient)
    assert score.item() == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("score", [forward_kl, alpha_divergence, js_divergence])
def test_scores_rise_with_the_ratio_and_never_lose_their_gradient_below(score: Callable[[Tensor], Tensor]) -> None:
    ratios = torch.tensor([-1000.0, -500.0, -90.0, -79.0, -41.0, -39.0, -1.0, 0.0, 1.0], requires_grad=True)
    scores = score(ratios)
    (slopes,) = torch.autograd.grad(scores.sum(), ratios)
    assert (scores.diff() > 0).all()
    assert (slopes > 0).all()
    assert torch.isfinite(slopes**2).all()
    assert scores[-2].item() == pytest.approx(0, abs=1e-7)


def test_another_loss_takes_a_divergence_through_its_scores() -> None:
    chosen, rejected = torch.tensor([1.2]), torch.tensor([-0.4])
    zero = torch.zeros(1)
    value = ipo(forward_kl(chosen), forward_kl(rejected), zero, zero, beta=0.5)
    assert value.item() == pytest.approx(((1 - math.exp(-1.2)) - (1 - math.exp(0.4)) - 1) ** 2, rel=1e-5)
