"""What keeps a preference loss from paying for length: R-DPO's term and LD-DPO's token weights."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from preftune.losses.pairwise import log_ratio_margin


def length_regularised(
    policy_chosen: Float[Tensor, "pairs"],
    policy_rejected: Float[Tensor, "pairs"],
    ref_chosen: Float[Tensor, "pairs"],
    ref_rejected: Float[Tensor, "pairs"],
    chosen_lengths: Int[Tensor, "pairs"],
    rejected_lengths: Int[Tensor, "pairs"],
    beta: float = 0.1,
    alpha: float = 0.01,
) -> Float[Tensor, "pairs"]:
    """Length-regularised DPO (R-DPO), one loss a pair: a reward that pays alpha less for each token.

    ``-log sigmoid(beta h + alpha (|y_w| - |y_l|))`` with DPO's margin h (Park et al. 2024, arXiv:2403.19159). From
    maximising r - alpha |y| - beta KL: the optimal policy gives r = beta log pi/pi_ref + alpha |y| + const, and that
    r explains the labels. Where the longer answer was chosen, length explains part of the choice and the policy
    has less to learn from the pair. Some comparison tables print the term with a minus, which rewards length.

    Inputs are summed log-probs, in nats; lengths are completion tokens; ``alpha`` is nats of beta h a token, 0 is
    DPO. At the start a loss is ln 2 = 0.6931 where both sides are equally long. TRL has no such loss.
    """
    explained_by_length = alpha * (chosen_lengths - rejected_lengths).to(policy_chosen)
    logits = beta * log_ratio_margin(policy_chosen, policy_rejected, ref_chosen, ref_rejected) + explained_by_length
    return -F.logsigmoid(logits)


def ld_token_weights(
    chosen_lengths: Int[Tensor, "pairs"],
    rejected_lengths: Int[Tensor, "pairs"],
    tokens: int,
    alpha: float = 0.5,
) -> tuple[Float[Tensor, "pairs tokens"], Float[Tensor, "pairs tokens"]]:
    """LD-DPO's weights of chosen and rejected tokens: 1 up to the shorter side's length, ``alpha`` beyond.

    log pi_LD(y|x) = sum of the first l token log-probs + alpha times the sum of the rest, where
    l = min(|y_w|, |y_l|) (Liu et al. 2024, arXiv:2409.06411). Weigh the token log-probs of policy and reference
    alike, sum, and hand the sums to `dpo`; only the longer side changes.

    Column t is the t-th completion token (prompt left out), ``tokens`` the number of columns; columns after a
    completion's end weigh 0. ``alpha`` 1 is DPO, 0 ignores the tail. Weights are float32.
    """
    shared = torch.minimum(chosen_lengths, rejected_lengths)
    return _tail_weights(chosen_lengths, shared, tokens, alpha), _tail_weights(rejected_lengths, shared, tokens, alpha)


def _tail_weights(
    lengths: Int[Tensor, "pairs"], shared: Int[Tensor, "pairs"], tokens: int, alpha: float
) -> Float[Tensor, "pairs tokens"]:
    columns = torch.arange(tokens, device=lengths.device)
    is_shared = columns < shared[:, None]  # pairs tokens
    is_tail = (columns < lengths[:, None]) & ~is_shared
    return is_shared.float() + alpha * is_tail.float()
