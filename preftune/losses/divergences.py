"""DPO under other f-divergences than the reverse KL: what a log-ratio is worth as a reward.

Keeping the policy near the reference in an f-divergence turns DPO's ``log u``, u = pi/pi_ref, into f'(u) (Wang et al.
2023, arXiv:2309.16240). Constants cancel between chosen and rejected; each f' here is 0 at u = 1.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from preftune.losses.pairwise import dpo

Divergence = Literal["reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"]

# Beyond 40 nats the exponential goes on as its tangent: a clamp would stop the gradient of the very answers that
# have fallen furthest, and the square of exp(40), in a gradient norm, is the largest that float32 holds safely.
STEEPEST = 40.0


def f_dpo(
    policy_chosen: Float[Tensor, "pairs"],
    policy_rejected: Float[Tensor, "pairs"],
    ref_chosen: Float[Tensor, "pairs"],
    ref_rejected: Float[Tensor, "pairs"],
    beta: float = 0.1,
    divergence: Divergence = "reverse_kl",
    alpha: float = 0.5,
    label_smoothing: float = 0.0,
) -> Float[Tensor, "pairs"]:
    """DPO kept near the reference by an f-divergence, one loss a pair.

    ``-log sigmoid(beta f'(u_w) - beta f'(u_l))`` with u = pi/pi_ref of each answer (Wang et al. 2023,
    arXiv:2309.16240); ``label_smoothing`` as in `dpo`. Any other loss of DPO's margin takes a divergence the same
    way: hand it `divergence_score` of each side as policy, and zeros as reference.

    Inputs are summed log-probs, in nats; ``alpha`` is read by "alpha_divergence" alone. The result is float32 or
    wider for every divergence but the reverse KL. At the start every loss is ln 2 = 0.6931.
    """
    chosen = divergence_score(policy_chosen - ref_chosen, divergence, alpha)
    rejected = divergence_score(policy_rejected - ref_rejected, divergence, alpha)
    nothing = torch.zeros_like(chosen)
    return dpo(chosen, rejected, nothing, nothing, beta, label_smoothing)


def divergence_score(
    log_ratios: Float[Tensor, "pairs"], divergence: Divergence, alpha: float = 0.5
) -> Float[Tensor, "pairs"]:
    """f'(u) of the divergence named as in TRL, for log u in nats."""
    if divergence == "alpha_divergence":
        return alpha_divergence(log_ratios, alpha)
    return {"reverse_kl": reverse_kl, "forward_kl": forward_kl, "js_divergence": js_divergence}[divergence](log_ratios)


def reverse_kl(log_ratios: Float[Tensor, "pairs"]) -> Float[Tensor, "pairs"]:
    """f'(u) = log u: DPO itself."""
    return log_ratios


def forward_kl(log_ratios: Float[Tensor, "pairs"]) -> Float[Tensor, "pairs"]:
    """f'(u) = 1 - 1/u: at most 1, and steep for answers that have become unlikely."""
    return alpha_divergence(log_ratios, 1.0)


def js_divergence(log_ratios: Float[Tensor, "pairs"]) -> Float[Tensor, "pairs"]:
    """f'(u) = log(2u/(1 + u)), Jensen-Shannon: DPO's below the reference, at most ln 2 above it."""
    return math.log(2) + F.logsigmoid(log_ratios.to(_wide(log_ratios)))


def alpha_divergence(log_ratios: Float[Tensor, "pairs"], alpha: float = 0.5) -> Float[Tensor, "pairs"]:
    """f'(u) = (1 - u^-alpha)/alpha: from the reverse KL (alpha towards 0) to the forward KL (alpha = 1).

    ``alpha`` is the paper's. TRL 1.16 computes (u^(a - 1) - 1)/(a - 1) from its ``f_alpha_divergence_coef`` a, so
    a = 1 - alpha: only 0.5 means the same in both.
    """
    if alpha == 0:
        return reverse_kl(log_ratios)
    return -_expm1_with_tangent(-alpha * log_ratios.to(_wide(log_ratios))) / alpha


def _expm1_with_tangent(exponents: Float[Tensor, "pairs"]) -> Float[Tensor, "pairs"]:
    """exp(x) - 1 up to x = STEEPEST, from there on its tangent."""
    beyond = torch.relu(exponents - STEEPEST)
    return torch.expm1(exponents.clamp(max=STEEPEST)) + math.exp(STEEPEST) * beyond


def _wide(values: Tensor) -> torch.dtype:
    return torch.promote_types(values.dtype, torch.float32)
