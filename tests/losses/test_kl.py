"""Estimates of the KL: Schulman's table, which of them have the reverse KL's gradient, and the controller."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from preftune.losses import adapted_kl_coef, bias_corrected_kl, kl_estimate, probability_ratio

ESTIMATORS: list[Any] = ["k1", "k2", "k3", "k1+", "k3+"]
# N(0, 1) against N(mu, 1): mean and deviation of the estimate, over the true KL mu^2/2 (Schulman 2020).
SCHULMAN = [
    (0.1, "k1", 0.0, 20.0),
    (0.1, "k2", 0.0025, 1.42),
    (0.1, "k3", 0.0, 1.42),
    (1.0, "k1", 0.0, 2.0),
    (1.0, "k2", 0.25, 1.73),
    (1.0, "k3", 0.0, 1.69),
]
POLICY = torch.tensor([0.3, -1.2, 0.9, 0.0, -0.4], dtype=torch.float64)
REFERENCE = torch.tensor([-0.5, 0.4, 0.2, 1.1, -2.0], dtype=torch.float64).log_softmax(0)
OLD = torch.tensor([0.8, -0.7, 0.1, 0.6, -0.9], dtype=torch.float64).log_softmax(0)


@pytest.mark.parametrize(("mu", "estimator", "bias", "deviation"), SCHULMAN)
def test_bias_and_noise_are_those_of_schulmans_table(mu: float, estimator: Any, bias: float, deviation: float) -> None:
    x = torch.linspace(-14, 14, 40_001, dtype=torch.float64)
    estimates = kl_estimate(_normal(x, 0), _normal(x, mu), estimator)
    mass = _normal(x, 0).exp() * (x[1] - x[0])
    mean = (mass * estimates).sum()
    spread = (mass * (estimates - mean).square()).sum().sqrt()
    true = mu**2 / 2
    assert mean.item() / true - 1 == pytest.approx(bias, abs=1e-3)
    assert spread.item() / true == pytest.approx(deviation, abs=0.006)


@pytest.mark.parametrize(("mu", "estimator", "bias", "deviation"), SCHULMAN)
def test_samples_show_the_same_table(mu: float, estimator: Any, bias: float, deviation: float) -> None:
    n = 200_000
    x = torch.randn(n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    estimates = kl_estimate(_normal(x, 0), _normal(x, mu), estimator) / (mu**2 / 2)
    assert abs(estimates.mean().item() - 1 - bias) < 4 * deviation / math.sqrt(n)
    assert estimates.std().item() == pytest.approx(deviation, rel=0.03)


@pytest.mark.parametrize("estimator", ["k2", "k1+", "k3+"])
def test_mean_gradient_is_the_reverse_kls(estimator: Any) -> None:
    expected = _gradient(lambda policy: (policy.exp() * (policy - REFERENCE)).sum())
    assert _mean_gradient(estimator).tolist() == pytest.approx(expected.tolist(), rel=1e-12)


def test_mean_gradient_of_k1_is_nothing() -> None:
    assert _mean_gradient("k1").tolist() == pytest.approx([0.0] * 5, abs=1e-12)


def test_mean_gradient_of_k3_is_the_forward_kls() -> None:
    forward = _gradient(lambda policy: (REFERENCE.exp() * (REFERENCE - policy)).sum())
    reverse = _gradient(lambda policy: (policy.exp() * (policy - REFERENCE)).sum())
    assert _mean_gradient("k3").tolist() == pytest.approx(forward.tolist(), rel=1e-12)
    assert (_mean_gradient("k3") - reverse).abs().max() > 0.1


def test_bias_corrected_kl_is_right_in_value_and_gradient_over_tokens_of_an_older_policy() -> None:
    def over_old_tokens(policy: Tensor) -> Tensor:
        return (OLD.exp() * bias_corrected_kl(policy, REFERENCE, policy - OLD)).sum()

    def reverse_kl(policy: Tensor) -> Tensor:
        return (policy.exp() * (policy - REFERENCE)).sum()

    policy = POLICY.log_softmax(0)
    assert over_old_tokens(policy).item() == pytest.approx(reverse_kl(policy).item(), rel=1e-12)
    assert _gradient(over_old_tokens).tolist() == pytest.approx(_gradient(reverse_kl).tolist(), rel=1e-12)


@pytest.mark.parametrize("plain", ["k1", "k3"])
def test_a_plus_changes_the_gradient_and_not_the_value(plain: Any) -> None:
    policy = POLICY.log_softmax(0)
    with_plus: Any = plain + "+"
    assert kl_estimate(policy, REFERENCE, with_plus).tolist() == kl_estimate(policy, REFERENCE, plain).tolist()
    assert (_mean_gradient(with_plus) - _mean_gradient(plain)).abs().max() > 0.1


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_kl_of_a_policy_that_is_the_reference_is_zero(estimator: Any) -> None:
    assert kl_estimate(REFERENCE, REFERENCE.clone(), estimator).tolist() == [0.0] * 5


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("apart", [-1e4, -50.0, 50.0, 1e4])
def test_huge_log_ratios_give_finite_values_and_a_gradient_in_float32(estimator: Any, apart: float) -> None:
    log_probs = torch.tensor([-20.0], requires_grad=True)
    values = kl_estimate(log_probs, log_probs.detach() + apart, estimator)
    (gradient,) = torch.autograd.grad(values.sum(), log_probs)
    assert torch.isfinite(values).all()
    assert torch.isfinite(gradient).all()
    assert torch.isfinite(gradient.square().sum())
    # Towards the reference; k1 alone always points down.
    assert gradient.sign().item() == (1 if estimator == "k1" else -math.copysign(1, apart))


@pytest.mark.parametrize("apart", [-1e4, -50.0, 50.0, 1e4])
def test_huge_log_ratios_are_finite_with_the_bias_corrected(apart: float) -> None:
    log_probs = torch.tensor([-20.0, -20.0], requires_grad=True)
    old = log_probs.detach() + torch.tensor([apart, -apart])
    values = bias_corrected_kl(log_probs, log_probs.detach() + apart, log_probs - old)
    (gradient,) = torch.autograd.grad(values.sum(), log_probs)
    assert torch.isfinite(torch.cat([values, gradient])).all()


def test_ratio_is_exp_up_to_20_nats_and_its_tangent_beyond() -> None:
    log_ratio = torch.tensor([-700.0, -1.0, 0.0, 19.9, 21.0], dtype=torch.float64, requires_grad=True)
    values = probability_ratio(log_ratio)
    (gradient,) = torch.autograd.grad(values.sum(), log_ratio)
    expected = [math.exp(x) for x in (-700, -1, 0, 19.9)]
    assert values.tolist() == pytest.approx([*expected, 2 * math.exp(20)], rel=1e-12)
    assert gradient.tolist() == pytest.approx([*expected, math.exp(20)], rel=1e-12)


def test_k3_keeps_its_precision_where_policy_and_reference_are_close() -> None:
    near = torch.tensor([-1e-3, 1e-3, 1e-4])
    values = kl_estimate(-near, torch.zeros(3), "k3")
    assert values.tolist() == pytest.approx((near.double().expm1() - near.double()).tolist(), rel=3e-3)
    assert (values > 0).all()


@pytest.mark.parametrize(
    ("kl", "factor"),
    [(6.0, 1.0), (6.6, 1 + 0.1 * 0.1), (5.4, 1 - 0.1 * 0.1), (600.0, 1 + 0.2 * 0.1), (0.0, 1 - 0.2 * 0.1)],
)
def test_controller_follows_the_relative_error_up_to_a_fifth(kl: float, factor: float) -> None:
    assert adapted_kl_coef(0.05, kl, target=6.0, n=256, horizon=2560) == pytest.approx(0.05 * factor, rel=1e-12)


def test_controller_settles_where_a_policy_meets_the_target() -> None:
    coef = 1.0
    for _ in range(2000):
        coef = adapted_kl_coef(coef, kl=0.9 / coef, target=6.0, n=64, horizon=640)
    assert 0.9 / coef == pytest.approx(6.0, rel=1e-6)


def test_a_kl_that_is_not_a_number_changes_no_coefficient() -> None:
    assert adapted_kl_coef(0.05, math.nan, target=6.0, n=64, horizon=640) == 0.05
    assert adapted_kl_coef(0.05, math.inf, target=6.0, n=64, horizon=640) == pytest.approx(0.051)


def _normal(x: Tensor, mean: float) -> Tensor:
    return -((x - mean) ** 2) / 2 - math.log(2 * math.pi) / 2


def _mean_gradient(estimator: Any) -> Tensor:
    """Gradient of the logits, averaged over tokens drawn from the policy; by summation, nothing is drawn."""
    return _gradient(lambda policy: (policy.detach().exp() * kl_estimate(policy, REFERENCE, estimator)).sum())


def _gradient(of: Callable[[Tensor], Tensor]) -> Tensor:
    logits = POLICY.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(of(logits.log_softmax(0)), logits)
    return gradient
