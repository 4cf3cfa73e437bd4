"""DPO's loss against its closed forms and the golden values of the reference sheet."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from preftune.losses import dpo, log_ratio_margin

LOG_PROBS = st.floats(-400, 0, allow_nan=False)
FOUR = st.tuples(LOG_PROBS, LOG_PROBS, LOG_PROBS, LOG_PROBS)
BETAS = st.floats(0.01, 5)


def test_loss_is_ln_2_where_policy_and_reference_agree() -> None:
    chosen, rejected = torch.tensor([-12.0, -250.0]), torch.tensor([-3.0, -80.0])
    losses = dpo(chosen, rejected, chosen, rejected)
    assert losses.tolist() == pytest.approx([0.693147, 0.693147], abs=5e-7)
    assert log_ratio_margin(chosen, rejected, chosen, rejected).tolist() == [0.0, 0.0]


def test_loss_is_the_published_equation() -> None:
    losses = dpo(*_columns([(-10, -20, -12, -15)]), beta=0.5)  # h = 2 - (-5) = 7
    assert losses.item() == pytest.approx(-math.log(1 / (1 + math.exp(-0.5 * 7))), rel=1e-12)


def test_smoothed_loss_is_the_published_equation() -> None:
    h, beta, e = 7.0, 0.5, 0.2
    losses = dpo(*_columns([(-10, -20, -12, -15)]), beta=beta, label_smoothing=e)
    expected = (1 - e) * math.log1p(math.exp(-beta * h)) + e * math.log1p(math.exp(beta * h))
    assert losses.item() == pytest.approx(expected, rel=1e-12)


def test_every_pair_has_a_loss_of_its_own() -> None:
    rows = [(-10, -20, -12, -15), (-5, -5, -5, -5), (-9, -1, -3, -4)]
    together = dpo(*_columns(rows))
    assert together.shape == (3,)
    assert together.tolist() == [dpo(*_columns([row])).item() for row in rows]


@settings(deadline=None)
@given(FOUR, BETAS)
def test_swapping_the_sides_costs_beta_times_the_margin(row: tuple[float, ...], beta: float) -> None:
    wins, loses, ref_wins, ref_loses = _columns([row])
    difference = dpo(loses, wins, ref_loses, ref_wins, beta) - dpo(wins, loses, ref_wins, ref_loses, beta)
    margin = log_ratio_margin(wins, loses, ref_wins, ref_loses)
    assert difference.item() == pytest.approx(beta * margin.item(), rel=1e-9, abs=1e-9)


@settings(deadline=None)
@given(FOUR, BETAS)
def test_half_the_labels_flipped_makes_the_sides_equal(row: tuple[float, ...], beta: float) -> None:
    wins, loses, ref_wins, ref_loses = _columns([row])
    one = dpo(wins, loses, ref_wins, ref_loses, beta, label_smoothing=0.5)
    other = dpo(loses, wins, ref_loses, ref_wins, beta, label_smoothing=0.5)
    assert one.item() == pytest.approx(other.item(), rel=1e-12)


@settings(deadline=None)
@given(FOUR, BETAS)
def test_gradient_is_beta_times_the_sigmoid_of_the_negative_margin(row: tuple[float, ...], beta: float) -> None:
    columns = [column.requires_grad_() for column in _columns([row])]
    gradients = torch.autograd.grad(dpo(*columns, beta=beta).sum(), columns)
    weight = beta * torch.sigmoid(-beta * log_ratio_margin(*columns)).item()
    expected = [-weight, weight, weight, -weight]
    assert [gradient.item() for gradient in gradients] == pytest.approx(expected, rel=1e-9, abs=1e-15)


@settings(deadline=None)
@given(FOUR, BETAS, st.floats(0, 0.49), st.floats(-50, 50))
def test_only_ratios_to_the_reference_count(
    row: tuple[float, ...], beta: float, smoothing: float, shift: float
) -> None:
    wins, loses, ref_wins, ref_loses = _columns([row])
    loss = dpo(wins, loses, ref_wins, ref_loses, beta, smoothing)
    moved = dpo(wins + shift, loses, ref_wins + shift, ref_loses, beta, smoothing)
    together = dpo(wins + shift, loses + shift, ref_wins, ref_loses, beta, smoothing)
    assert moved.item() == pytest.approx(loss.item(), rel=1e-9, abs=1e-10)
    assert together.item() == pytest.approx(loss.item(), rel=1e-9, abs=1e-10)


@settings(deadline=None)
@given(FOUR, BETAS, st.floats(0, 0.49))
def test_loss_is_never_below_the_entropy_of_the_labels(row: tuple[float, ...], beta: float, smoothing: float) -> None:
    entropy = -sum(p * math.log(p) for p in (smoothing, 1 - smoothing) if p)
    assert dpo(*_columns([row]), beta=beta, label_smoothing=smoothing).item() >= entropy - 1e-12


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
    optimum = _optimal_margin(lambda h: _loss_of_margin(h, beta, smoothing))
    assert beta * optimum == pytest.approx(math.log((1 - smoothing) / smoothing), abs=1e-6)


@pytest.mark.parametrize(
    ("flips", "plain", "conservative"),
    [(0.1, 1.516, 1.131), (0.2, 1.046, 0.593), (0.3, 0.663, 0.257), (0.4, 0.323, 0.064)],
)
def test_tabular_optimum_under_flipped_labels(flips: float, plain: float, conservative: float) -> None:
    """True preference 0.9, a share of labels flipped: beta h at the optimum (golden values)."""
    seen = 0.9 * (1 - flips) + 0.1 * flips

    def expected_loss(smoothing: float) -> Callable[[Tensor], Tensor]:
        return lambda h: seen * _loss_of_margin(h, 1.0, smoothing) + (1 - seen) * _loss_of_margin(-h, 1.0, smoothing)

    assert _optimal_margin(expected_loss(0.0)) == pytest.approx(plain, abs=5e-4)
    assert _optimal_margin(expected_loss(flips)) == pytest.approx(conservative, abs=5e-4)


def _columns(rows: list[tuple[float, ...]]) -> tuple[Tensor, ...]:
    return tuple(torch.tensor(column, dtype=torch.float64) for column in zip(*rows, strict=True))


def _loss_of_margin(h: Tensor, beta: float, smoothing: float) -> Tensor:
    zero = torch.zeros_like(h)
    return dpo(h, zero, zero, zero, beta=beta, label_smoothing=smoothing)


def _optimal_margin(loss: Callable[[Tensor], Tensor]) -> float:
    """Where the gradient of a convex loss of the margin is zero, by bisection."""
    low, high = -200.0, 200.0
    for _ in range(60):
        h = torch.tensor([(low + high) / 2], dtype=torch.float64, requires_grad=True)
        (gradient,) = torch.autograd.grad(loss(h).sum(), h)
        low, high = (low, h.item()) if gradient.item() > 0 else (h.item(), high)
    return (low + high) / 2
