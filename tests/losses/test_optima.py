"""Where the losses end: tabular worlds with flipped labels, and the bandit of the IPO paper."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from preftune.losses import dpo, exo_pair, ipo, robust
from tests.losses.closed_forms import LN_2, derivative, minimiser, stationary_point

Loss = Callable[..., Tensor]

TRUE_PREFERENCE = 0.9
TOTAL_ORDER = [(0, 1), (1, 2), (0, 2)]
GOLDEN_UNDER_FLIPS = [(0.1, 1.516, 1.131), (0.2, 1.046, 0.593), (0.3, 0.663, 0.257), (0.4, 0.323, 0.064)]


@pytest.mark.parametrize(("flips", "plain", "conservative"), GOLDEN_UNDER_FLIPS)
def test_margins_under_flipped_labels_are_the_golden_ones(flips: float, plain: float, conservative: float) -> None:
    """True preference 0.9, a share of labels flipped: beta h at the optimum; robust DPO ends where clean labels do."""
    assert _margin_under_flips(dpo, flips) == pytest.approx(plain, abs=1e-3)
    assert _margin_under_flips(dpo, flips, label_smoothing=flips) == pytest.approx(conservative, abs=1e-3)
    assert _margin_under_flips(robust, flips, label_smoothing=flips) == pytest.approx(2.197, abs=1e-3)


@pytest.mark.parametrize("flips", [0.01, 0.05, 0.15, 0.25, 0.35, 0.45])
def test_robust_trusts_most_and_conservative_least_under_flips(flips: float) -> None:
    trusting = _margin_under_flips(robust, flips, label_smoothing=flips)
    plain = _margin_under_flips(dpo, flips)
    assert trusting > plain + 0.01 > _margin_under_flips(dpo, flips, label_smoothing=flips) + 0.02


@pytest.mark.parametrize("smoothing", [0.05, 0.1, 0.3])
def test_exo_and_conservative_dpo_end_at_the_same_margin(smoothing: float) -> None:
    ends = [_margin_under_flips(loss, 0.0, truth=1.0, label_smoothing=smoothing) for loss in (dpo, exo_pair)]
    assert ends == pytest.approx([math.log((1 - smoothing) / smoothing)] * 2, abs=1e-6)


@pytest.mark.parametrize(
    ("tau", "golden"),
    [(0.1, [0.9644, 0.0344, 0.0012]), (0.5, [0.5627, 0.2889, 0.1483]), (1.0, [0.4484, 0.3213, 0.2302])],
)
def test_ipo_bandit_ends_a_third_of_an_inverse_tau_apart(tau: float, golden: list[float]) -> None:
    scores = minimiser(lambda logits: _bandit_loss(ipo, logits, TOTAL_ORDER, tau), 3)
    assert (scores[:-1] - scores[1:]).tolist() == pytest.approx([1 / (3 * tau)] * 2, abs=1e-6)
    assert torch.softmax(scores, dim=0).tolist() == pytest.approx(golden, abs=1e-3)


@pytest.mark.parametrize("beta", [0.1, 0.5, 1.0])
def test_dpo_bandit_puts_all_on_the_winner_whatever_beta_is(beta: float) -> None:
    scores = _after_adam(lambda logits: _bandit_loss(dpo, logits, TOTAL_ORDER, beta), steps=400)
    assert torch.softmax(scores, dim=0)[0] > 0.999


def test_ipo_bandit_that_saw_one_comparison_leaves_the_third_answer_its_weight() -> None:
    scores = minimiser(lambda logits: _bandit_loss(ipo, logits, [(0, 1)], 1.0), 3)
    assert torch.softmax(scores, dim=0).tolist() == pytest.approx([0.4192, 0.2543, 0.3265], abs=1e-3)


def test_one_comparison_runs_away_under_dpo_faster_under_robust_and_stops_under_smoothing() -> None:
    """Labels that never contradict each other: smoothing bounds the odds at 9:1, robust DPO is no cure."""
    plain, trusting, bounded = (
        _after_descent(lambda logits, loss=loss, e=e: _bandit_loss(loss, logits, [(0, 1)], 1.0, label_smoothing=e))
        for loss, e in [(dpo, 0.0), (robust, 0.1), (dpo, 0.1)]
    )
    assert trusting > plain + 0.1 > 5
    assert bounded == pytest.approx(math.log(9), abs=1e-4)


def test_start_of_the_noisy_world_costs_ln_2() -> None:
    assert _loss_of_margin(dpo, torch.zeros(1)).item() == pytest.approx(LN_2, abs=1e-6)
    assert _loss_of_margin(robust, torch.zeros(1), label_smoothing=0.4).item() == pytest.approx(LN_2, abs=1e-6)


def test_gradient_noise_of_robust_dpo_grows_with_the_share_of_flips() -> None:
    """At the start the gradient is +-1/2 a label under DPO and 1/(1 - 2e) times that under robust DPO."""
    for e in (0.1, 0.25, 0.4):
        plain = derivative(lambda h: _loss_of_margin(dpo, h), at=0.0)
        noisy = derivative(lambda h, e=e: _loss_of_margin(robust, h, label_smoothing=e), at=0.0)
        assert noisy == pytest.approx(plain / (1 - 2 * e), rel=1e-12)


def _margin_under_flips(loss: Loss, flips: float, truth: float = TRUE_PREFERENCE, **options: float) -> float:
    """beta h (beta = 1) that minimises the expected loss when labels are drawn from ``truth`` and then flipped."""
    seen = truth * (1 - flips) + (1 - truth) * flips
    return stationary_point(
        lambda h: seen * _loss_of_margin(loss, h, **options) + (1 - seen) * _loss_of_margin(loss, -h, **options)
    )


def _loss_of_margin(loss: Loss, h: Tensor, **options: float) -> Tensor:
    zero = torch.zeros_like(h)
    return loss(h, zero, zero, zero, beta=1.0, **options)


def _bandit_loss(loss: Loss, logits: Tensor, comparisons: list[tuple[int, int]], beta: float, **options) -> Tensor:
    """Mean loss of a softmax policy over three arms, uniform reference, each comparison seen equally often."""
    policy = torch.log_softmax(logits, dim=0)
    winners, losers = (torch.tensor(side) for side in zip(*comparisons, strict=True))
    ref = torch.full_like(policy, -math.log(3))
    return loss(policy[winners], policy[losers], ref[winners], ref[losers], beta=beta, **options).mean()


def _after_adam(loss: Callable[[Tensor], Tensor], steps: int) -> Tensor:
    logits = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.Adam([logits], lr=0.5)
    for _ in range(steps):
        optimiser.zero_grad()
        loss(logits).backward()
        optimiser.step()
    return logits.detach()


def _after_descent(loss: Callable[[Tensor], Tensor], steps: int = 300) -> float:
    """How far the first arm is above the second after plain gradient descent."""
    logits = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    for _ in range(steps):
        (gradient,) = torch.autograd.grad(loss(logits), logits)
        logits = (logits - 0.5 * gradient).detach().requires_grad_()
    return (logits[0] - logits[1]).item()
