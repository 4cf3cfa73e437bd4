"""Losses on pairs of sequence log-probs. Pure functions: no model, no config, no I/O."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def dpo(
    policy_chosen: Float[Tensor, "pairs"],
    policy_rejected: Float[Tensor, "pairs"],
    ref_chosen: Float[Tensor, "pairs"],
    ref_rejected: Float[Tensor, "pairs"],
    beta: float = 0.1,
    label_smoothing: float = 0.0,
) -> Float[Tensor, "pairs"]:
    """Direct preference optimisation, one loss a pair.

    With h = log pi(y_w|x)/pi_ref(y_w|x) - log pi(y_l|x)/pi_ref(y_l|x), the loss is
    ``-(1 - e) log sigmoid(beta h) - e log sigmoid(-beta h)``; e = 0 is DPO (Rafailov et al. 2023,
    arXiv:2305.18290, eq. 7), e > 0 is conservative DPO, whose optimum is finite: beta h* = logit(1 - e).

    Inputs are log-probs summed over the completion's tokens, in nats. ``beta`` sets how dearly leaving the
    reference is paid; ``label_smoothing`` (e) is the believed share of flipped labels, in [0, 0.5).
    At the start, where policy and reference agree, every loss is ln 2 = 0.6931.
    """
    logits = beta * log_ratio_margin(policy_chosen, policy_rejected, ref_chosen, ref_rejected)
    return -(1 - label_smoothing) * F.logsigmoid(logits) - label_smoothing * F.logsigmoid(-logits)


def log_ratio_margin(
    policy_chosen: Float[Tensor, "pairs"],
    policy_rejected: Float[Tensor, "pairs"],
    ref_chosen: Float[Tensor, "pairs"],
    ref_rejected: Float[Tensor, "pairs"],
) -> Float[Tensor, "pairs"]:
    """How much further the policy moved towards chosen than towards rejected, in nats (h in DPO's eq. 7)."""
    return (policy_chosen - ref_chosen) - (policy_rejected - ref_rejected)
