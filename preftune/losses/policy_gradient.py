"""Policy-gradient losses of PPO, GRPO and their descendants: one loss a token, and how tokens are weighed.

Token data is flat: entry t of every tensor belongs to sequence ``sequence[t]``; there is no padding. log_ratio is
log pi - log pi_old, in nats, with pi_old the policy the completions were drawn from, as a constant; advantages are
constants, a sequence's spread over its tokens (``advantages[sequence]``) or a token's own.

The loss of an optimiser step is ``sum_t weight_t loss_t / divisor`` with `token_weights` and `divisor`: the divisor is
one number for the whole step, so it does not matter how the step is cut into micro-batches. Its value says little:
on-policy it is near 0 whatever is learnt.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from preftune.losses.kl import probability_ratio

LossType = Literal["grpo", "bnpo", "dr_grpo", "dapo", "luspo", "cispo", "sapo"]
CorrectionMode = Literal["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"]

_MEAN_OF: dict[LossType, Literal["sequence means", "tokens", "possible tokens", "sequence sums"]] = {
    "grpo": "sequence means",
    "sapo": "sequence means",
    "bnpo": "tokens",
    "dapo": "tokens",
    "cispo": "tokens",
    "dr_grpo": "possible tokens",
    "luspo": "sequence sums",
}


def clipped_surrogate(
    log_ratio: Float[Tensor, "targets"],
    advantages: Float[Tensor, "targets"],
    epsilon_low: float = 0.2,
    epsilon_high: float = 0.2,
    delta: float | None = None,
) -> Float[Tensor, "targets"]:
    """PPO's clipped loss, one a token: the policy gradient, until the ratio has gone far enough.

    ``-min(rho A, clip(rho, 1 - e_low, 1 + e_high) A)`` with rho = pi/pi_old (Schulman et al. 2017, arXiv:1707.06347,
    eq. 7; GRPO, arXiv:2402.03300, eq. 3). ``epsilon_high`` above ``epsilon_low`` is DAPO's clip-higher
    (arXiv:2503.14476, 0.2 and 0.28). With ``delta``, above 1 + e_high, the first rho is min(rho, delta), which bounds
    the loss of tokens with A < 0 too (INTELLECT-2, arXiv:2505.07291, with 4).

    Sequences in place of tokens, with `sequence_sum_log_ratio`, give RLOO's loss; `sequence_log_ratio` gives GSPO's.
    Where pi is pi_old the loss is -A and its gradient that of -A log pi. rho is linear beyond 20 nats.
    """
    ratio = probability_ratio(log_ratio)
    clipped = ratio.clamp(1 - epsilon_low, 1 + epsilon_high)
    bounded = ratio if delta is None else ratio.clamp(max=delta)
    return -torch.minimum(bounded * advantages, clipped * advantages)


def is_clipped(
    log_ratio: Float[Tensor, "targets"],
    advantages: Float[Tensor, "targets"],
    epsilon_low: float = 0.2,
    epsilon_high: float = 0.2,
) -> tuple[Bool[Tensor, "targets"], Bool[Tensor, "targets"]]:
    """Which tokens `clipped_surrogate` has stopped: bad ones that fell below 1 - e_low, good ones above 1 + e_high."""
    ratio = probability_ratio(log_ratio.detach())
    return (ratio < 1 - epsilon_low) & (advantages < 0), (ratio > 1 + epsilon_high) & (advantages > 0)


def clip_fractions(
    log_ratio: Float[Tensor, "targets"],
    advantages: Float[Tensor, "targets"],
    epsilon_low: float = 0.2,
    epsilon_high: float = 0.2,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Share of tokens clipped below and above, of all tokens given (TRL's ``clip_ratio/low_mean``, ``high_mean``)."""
    low, high = is_clipped(log_ratio, advantages, epsilon_low, epsilon_high)
    return low.to(log_ratio).mean(), high.to(log_ratio).mean()


def cispo(
    log_probs: Float[Tensor, "targets"],
    log_ratio: Float[Tensor, "targets"],
    advantages: Float[Tensor, "targets"],
    epsilon_high: float = 5.0,
) -> Float[Tensor, "targets"]:
    """CISPO's loss, one a token: the weight is clipped, not the token's gradient.

    ``-sg(min(rho, e_high)) A log pi`` with rho = pi/pi_old and no gradient through the weight (MiniMax-M1,
    arXiv:2506.13585, without a lower bound; ScaleRL, arXiv:2510.13786, takes 5). ``epsilon_high`` bounds
    rho itself, not its distance from 1. Where pi is pi_old the gradient is that of -A log pi; the value is not -A.
    """
    return -probability_ratio(log_ratio.detach()).clamp(max=epsilon_high) * advantages * log_probs


def sapo(
    log_ratio: Float[Tensor, "targets"],
    advantages: Float[Tensor, "targets"],
    temperature_positive: float = 1.0,
    temperature_negative: float = 1.05,
) -> Float[Tensor, "targets"]:
    """Soft adaptive policy optimisation, one loss a token: a smooth gate in place of the clip.

    ``-4/tau sigmoid(tau (rho - 1)) A`` with rho = pi/pi_old and tau by the sign of A (Gao et al. 2025,
    arXiv:2511.20347); a higher tau for A <= 0 lets go of bad tokens sooner. Where pi is pi_old the loss is
    -2A/tau and its gradient that of -A log pi.
    """
    tau = torch.where(advantages > 0, temperature_positive, temperature_negative)
    return -4 / tau * torch.sigmoid(tau * (probability_ratio(log_ratio) - 1)) * advantages


def sequence_log_ratio(
    log_ratio: Float[Tensor, "targets"], sequence: Int[Tensor, "targets"], n_sequences: int
) -> Float[Tensor, "targets"]:
    """GSPO's log-ratio: the mean over a sequence's tokens, handed back to each of them.

    log s_i = 1/|y_i| sum_t log pi/pi_old (Zheng et al. 2025, arXiv:2507.18071). In `clipped_surrogate`, with
    epsilons near 3e-4 and 4e-4, all tokens of a sequence are clipped together. The gradient goes through all of them.
    """
    counts = torch.bincount(sequence, minlength=n_sequences).clamp(min=1)
    return (sequence_sum_log_ratio(log_ratio, sequence, n_sequences) / counts)[sequence]


def gspo_token_log_ratio(
    log_ratio: Float[Tensor, "targets"], sequence: Int[Tensor, "targets"], n_sequences: int
) -> Float[Tensor, "targets"]:
    """GSPO-token's log-ratio: the value of `sequence_log_ratio`, the gradient of the token's own log-prob.

    log s_it = sg(log s_i) + log pi_t - sg(log pi_t) (Zheng et al. 2025, arXiv:2507.18071, section 4.3). For advantages
    that differ between the tokens of a sequence, which must not be averaged over it; where they are the same, so are
    the gradients of both forms.
    """
    mean = sequence_log_ratio(log_ratio.detach(), sequence, n_sequences)
    return mean + (log_ratio - log_ratio.detach())


def sequence_sum_log_ratio(
    log_ratio: Float[Tensor, "targets"], sequence: Int[Tensor, "targets"], n_sequences: int
) -> Float[Tensor, "sequences"]:
    """log pi(y|x) - log pi_old(y|x) of each whole sequence, in nats; 0 for one without tokens.

    In `clipped_surrogate` with an advantage a sequence it is TRL's RLOO loss. The sum grows with length: off-policy,
    long completions are nearly always clipped.
    """
    return log_ratio.new_zeros(n_sequences).index_add(0, sequence, log_ratio)


def importance_weights(
    train_log_probs: Float[Tensor, "targets"],
    sampler_log_probs: Float[Tensor, "targets"],
    sequence: Int[Tensor, "targets"],
    n_sequences: int,
    mode: CorrectionMode = "sequence_mask",
    cap: float = 3.0,
    floor: float = 0.0,
) -> Float[Tensor, "targets"]:
    """What each token's loss is multiplied by because the sampler's numbers are not the trainer's.

    rho = pi_old(trainer)/pi(sampler) of the token, or of the whole sequence (exp of the sum over its tokens).
    "truncate" clamps it to [floor, cap] (TIS, Yao et al. 2025, fengyao.notion.site/off-policy-rl), "mask" takes out
    what lies outside (MIS, Liu et al. 2025). Names and defaults are TRL's ``vllm_importance_sampling_*``.

    Log-probs are of the drawn tokens before the first step on them, in nats. A token whose sampler log-prob is NaN
    (not told) counts as equal. ``cap`` may be `math.inf`. The weights carry no gradient and are 1 where both agree.
    """
    level, action = mode.split("_")
    difference = (train_log_probs - sampler_log_probs).detach()
    difference = difference.masked_fill(difference.isnan(), 0.0)
    if level == "sequence":
        difference = sequence_sum_log_ratio(difference, sequence, n_sequences)[sequence]
    ratio = probability_ratio(difference)
    if action == "truncate":
        return ratio.clamp(floor, cap)
    return ratio.masked_fill((ratio < floor) | (ratio > cap), 0.0)


def token_weights(
    loss_type: LossType, sequence: Int[Tensor, "targets"], lengths: Float[Tensor, "sequences"]
) -> Float[Tensor, "targets"]:
    """How much each token's loss counts in the sum of a step: 1, or 1/|o_i| where a sequence counts by its mean.

    "grpo" and "sapo" average each sequence over its tokens, so a token of a long completion counts less; the others
    count tokens alike. ``lengths`` are the tokens of each sequence that ``sequence`` numbers; tokens that are left
    out of the loss but not of the mean still count in them.
    """
    if _MEAN_OF[loss_type] == "sequence means":
        return 1 / lengths.to(torch.float32)[sequence]
    return torch.ones_like(sequence, dtype=torch.float32)


def divisor(loss_type: LossType, lengths: Float[Tensor, "sequences"], max_completion_length: int) -> float:
    """What the weighted sum of a step is divided by; from all its sequences, shared by all its micro-batches.

    - "grpo", "sapo": sequences, so the loss is 1/G sum_i 1/|o_i| sum_t (arXiv:2402.03300, eq. 3; arXiv:2511.20347).
    - "dapo", "bnpo", "cispo": tokens (arXiv:2503.14476). In TRL "bnpo" divides each micro-batch by its own.
    - "dr_grpo": sequences times ``max_completion_length``, the same at any length (arXiv:2503.20783).
    - "luspo": sequences, each by its sum (arXiv:2602.05261).
    """
    kind = _MEAN_OF[loss_type]
    if kind == "tokens":
        return max(float(lengths.sum()), 1.0)
    return float(max(len(lengths), 1) * (max_completion_length if kind == "possible tokens" else 1))
