"""Alignment via optimal transport: whole distributions of margins are ordered, not single pairs.

Both losses sort over the batch. What they return is a loss a rank, in rising order, not a loss of the pair in that
row; the mean depends on which pairs share a batch, so splitting a batch changes it.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from preftune.losses.pairwise import smoothed_logistic


def aot(
    policy_chosen: Float[Tensor, "pairs"],
    policy_rejected: Float[Tensor, "pairs"],
    ref_chosen: Float[Tensor, "pairs"],
    ref_rejected: Float[Tensor, "pairs"],
    beta: float = 0.1,
    label_smoothing: float = 0.0,
) -> Float[Tensor, "pairs"]:
    """AOT on pairs, one loss a rank: the policy's margins are to lie above the reference's, quantile by quantile.

    ``-(1 - e) log sigmoid(beta d_i) - e log sigmoid(-beta d_i)``, where d_i is the i-th smallest
    log pi(y_w|x) - log pi(y_l|x) less the i-th smallest log pi_ref(y_w|x) - log pi_ref(y_l|x) (Melnyk et al. 2024,
    arXiv:2406.05882, logistic loss). A batch of one pair is DPO.

    Inputs are summed log-probs, in nats. At the start every loss is ln 2 = 0.6931.
    """
    policy_margins = policy_chosen - policy_rejected
    ref_margins = ref_chosen - ref_rejected
    return _dominance(policy_margins, ref_margins, beta, label_smoothing)


def aot_unpaired(
    policy_chosen: Float[Tensor, "rows"],
    policy_rejected: Float[Tensor, "rows"],
    ref_chosen: Float[Tensor, "rows"],
    ref_rejected: Float[Tensor, "rows"],
    beta: float = 0.1,
    label_smoothing: float = 0.0,
) -> Float[Tensor, "rows"]:
    """AOT on unpaired answers, one loss a rank: chosen log-ratios are to lie above rejected ones.

    As `aot`, with d_i the i-th smallest log pi/pi_ref among the chosen less the i-th smallest among the rejected
    (Melnyk et al. 2024, arXiv:2406.05882). A chosen and a rejected answer need no common prompt, but as many of
    the one as of the other are needed.

    Inputs are summed log-probs, in nats. At the start every loss is ln 2 = 0.6931.
    """
    return _dominance(policy_chosen - ref_chosen, policy_rejected - ref_rejected, beta, label_smoothing)


def _dominance(
    upper: Float[Tensor, "rows"], lower: Float[Tensor, "rows"], beta: float, label_smoothing: float
) -> Float[Tensor, "rows"]:
    """Logistic loss of first-order stochastic dominance: quantiles of ``upper`` over those of ``lower``."""
    return smoothed_logistic(beta * (torch.sort(upper).values - torch.sort(lower).values), label_smoothing)
