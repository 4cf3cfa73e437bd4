"""KL(pi || pi_ref) from sampled tokens: estimates, which of them have the right gradient, control of the coefficient.

All estimates read log u = log pi_ref(y_t) - log pi(y_t) of tokens drawn from pi. As numbers k1 and k3 are right in the
mean; as losses they are not: averaged over samples, the gradient of k1 is 0, that of k3 is the gradient of the forward
KL(pi_ref || pi). That of k2 is the reverse KL's; `kl_estimate` with "k3+" has k3's value and k2's gradient, and
`bias_corrected_kl` is right in value and gradient even for tokens drawn from an older policy.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Estimator = Literal["k1", "k2", "k3", "k1+", "k3+"]

# Beyond 20 nats the exponential goes on as its tangent: exp(89) overflows float32, and a clamp would stop the gradient
# of the very tokens that have moved furthest. exp(20) squared, summed in a gradient norm, is far from overflow.
STEEPEST = 20.0


def kl_estimate(
    log_probs: Float[Tensor, "targets"], reference: Float[Tensor, "targets"], estimator: Estimator = "k3"
) -> Float[Tensor, "targets"]:
    """The estimate of the reverse KL that each token gives, in nats.

    With log u = log pi_ref - log pi: k1 = -log u, k2 = (log u)^2 / 2, k3 = u - 1 - log u (Schulman 2020,
    joschu.net/blog/kl-approx.html). "k1+" and "k3+" have those values and the gradient of k2, which is the reverse
    KL's for tokens drawn from pi (verl's names, a straight-through estimator). k1 may be negative, k2 is biased
    when the KL is large, k3 is never negative and unbounded where pi_ref is far above pi.

    Log-probs are a token's, in nats. u is exact up to exp(20), from there on linear in log u, so value and gradient
    stay finite and keep their sign; verl clamps log u to +-20 and k3 to +-10, where its gradient is 0, TRL does
    nothing. Summed over a sequence's tokens this is its KL; where policy and reference agree every value is 0.
    """
    if not estimator.endswith("+"):
        return _ESTIMATES[estimator](reference - log_probs)
    with_gradient = _k2(reference - log_probs)
    return _ESTIMATES[estimator[:-1]](reference - log_probs.detach()) + (with_gradient - with_gradient.detach())


def bias_corrected_kl(
    log_probs: Float[Tensor, "targets"], reference: Float[Tensor, "targets"], log_ratio: Float[Tensor, "targets"]
) -> Float[Tensor, "targets"]:
    """k3 of each token times pi/pi_old, differentiable through both: unbiased in value and gradient, in nats.

    ``pi/pi_old (u - 1 - log u)`` with log u = log pi_ref - log pi (DeepSeek-V3.2, arXiv:2512.02556; TRL's
    ``use_bias_correction_kl``). Over tokens drawn from pi_old its mean is KL(pi || pi_ref), whatever pi is by now.
    ``log_ratio`` is log pi - log pi_old with its gradient, of the token or spread from its sequence.
    """
    return probability_ratio(log_ratio) * _k3(reference - log_probs)


def probability_ratio(log_ratio: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """exp of a log-ratio, from 20 nats on its tangent: finite in float32, and never without a gradient."""
    beyond = torch.relu(log_ratio - STEEPEST)
    return torch.exp(log_ratio.clamp(max=STEEPEST)) + math.exp(STEEPEST) * beyond


def adapted_kl_coef(coef: float, kl: float, target: float, n: int, horizon: float) -> float:
    """The coefficient after ``n`` samples whose mean KL was ``kl``: raised above the target, lowered below.

    ``coef (1 + clip(kl/target - 1, -0.2, 0.2) n/horizon)``. Ziegler et al. 2019 (arXiv:1909.08593, section 2.2) have
    0.1 for n/horizon; the form with a horizon is verl's and old TRL's, where n counts sequences and 10,000 is usual.
    n above the horizon counts as the horizon, or the price could fall below zero.
    ``kl`` and ``target`` are of one kind, nats a sequence in the paper. A KL that is not a number changes nothing.
    """
    if math.isnan(kl):
        return coef
    error = min(max(kl / target - 1, -0.2), 0.2)
    return coef * (1 + error * min(n / horizon, 1.0))


def _k1(log_u: Float[Tensor, "targets"]) -> Float[Tensor, "targets"]:
    return -log_u


def _k2(log_u: Float[Tensor, "targets"]) -> Float[Tensor, "targets"]:
    return log_u.square() / 2


def _k3(log_u: Float[Tensor, "targets"]) -> Float[Tensor, "targets"]:
    # expm1, because near 0, where most tokens are, u - 1 of a rounded u leaves nothing of a square below 1e-7.
    beyond = torch.relu(log_u - STEEPEST)
    return torch.expm1(log_u.clamp(max=STEEPEST)) + math.exp(STEEPEST) * beyond - log_u


_ESTIMATES = {"k1": _k1, "k2": _k2, "k3": _k3}
