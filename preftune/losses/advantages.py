"""From rewards to advantages: how much better a completion, or a token, was than expected.

Groups are completions of one prompt, a row each. A reward that is NaN (none applied, or all failed) counts in no mean
and no deviation, and its advantage is 0. Advantages are data: nothing here is differentiated.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Scale = Literal["group", "batch", "none"]


def group_advantages(
    rewards: Float[Tensor, "prompts group"], scale: Scale = "group", eps: float = 1e-4
) -> Float[Tensor, "prompts group"]:
    """GRPO's advantage of each completion: its reward less its group's mean, over a deviation.

    ``A_i = (r_i - mean)/(std + eps)`` with the deviation of the group (Shao et al. 2024, arXiv:2402.03300, section
    4.1.2), of all rewards of the batch (Lite PPO, arXiv:2508.08221), or without one (Dr. GRPO, arXiv:2503.20783, for
    which dividing weighs prompts by how hard they are). Deviations divide by n - 1, as TRL's.

    The mean of a group is 0. A group whose rewards are all the same gets exact zeros, whatever rounding leaves of
    r - mean. One success among G binary rewards has (G - 1)/sqrt(G), the failures -1/sqrt(G); two different rewards
    have +-0.7071 however far apart they are.
    """
    advantages = rewards - rewards.nanmean(1, keepdim=True)
    if scale != "none":
        advantages = advantages / (_deviation(rewards, 1 if scale == "group" else None) + eps)
    return _zero_without_signal(advantages, rewards)


def leave_one_out(rewards: Float[Tensor, "prompts group"]) -> Float[Tensor, "prompts group"]:
    """RLOO's advantage of each completion: its reward less the mean of the others of its group.

    ``A_i = r_i - 1/(G - 1) sum_{j != i} r_j`` (Ahmadian et al. 2024, arXiv:2402.14740), which is
    G/(G - 1) (r_i - mean): the policy gradient without bias. The only reward of a group has nothing to be compared
    with, and advantage 0.
    """
    others = (~rewards.isnan()).sum(1, keepdim=True) - 1
    baseline = (rewards.nansum(1, keepdim=True) - rewards) / others
    return _zero_without_signal(rewards - baseline, rewards)


def batch_normalised(values: Float[Tensor, "*any"], eps: float = 1e-4) -> Float[Tensor, "*any"]:
    """Rewards or advantages with mean 0 and deviation 1 over the whole batch, NaN as 0.

    ``(A - mean(A))/(std(A) + eps)``: REINFORCE++ (Hu 2025, arXiv:2501.03262), TRL's ``normalize_advantages``. The
    deviation divides by n - 1; a batch of equal values gets exact zeros.
    """
    row = values.reshape(1, -1)
    normalised = (row - row.nanmean()) / (_deviation(row) + eps)
    return _zero_without_signal(normalised, row).reshape(values.shape)


def tied_groups(rewards: Float[Tensor, "prompts group"]) -> Bool[Tensor, "prompts"]:
    """Which groups hold no two different rewards, so that every advantage is 0 and nothing is learnt from them."""
    missing = rewards.isnan()
    highest = rewards.masked_fill(missing, -math.inf).amax(1)
    return highest <= rewards.masked_fill(missing, math.inf).amin(1)


def frac_zero_variance(rewards: Float[Tensor, "prompts group"]) -> Float[Tensor, ""]:
    """Share of groups that teach nothing: those of `tied_groups` (TRL's ``frac_reward_zero_std``)."""
    return tied_groups(rewards).to(rewards).mean()


def zero_variance_probability(success_rate: float, group_size: int) -> float:
    """Chance that ``group_size`` binary rewards are all the same: ``p^G + (1 - p)^G``."""
    return success_rate**group_size + (1 - success_rate) ** group_size


def gradient_snr(
    success_rate: float,
    group_size: int,
    n_groups: int,
    advantages: Callable[[Tensor], Tensor] = group_advantages,
) -> float:
    """Mean over standard deviation of the policy-gradient estimate of a step, for binary rewards; exact.

    For a policy with one parameter, the logit of its success rate p, a group estimates the gradient by
    mean_i A_i (r_i - p); n groups together have sqrt(n) times its ratio of mean to deviation. Under `leave_one_out`
    the mean is the true gradient p(1 - p) at any size; under `group_advantages` it grows with the group, so group
    sizes are compared fairly each at its own learning rate. 0 where every group is tied.

    ``advantages`` takes rewards (prompts, group) and treats each group by itself.
    """
    p, g = success_rate, group_size
    successes = torch.arange(g + 1)
    rewards = (torch.arange(g) < successes[:, None]).double()  # a row for each number of successes
    chances = torch.tensor([math.comb(g, k) * p**k * (1 - p) ** (g - k) for k in range(g + 1)], dtype=torch.float64)
    estimates = (advantages(rewards) * (rewards - p)).mean(1)
    mean = (chances * estimates).sum().item()
    variance = (chances * (estimates - mean).square()).sum().item()
    return mean / math.sqrt(variance) * math.sqrt(n_groups) if variance > 0 else 0.0


def token_rewards(
    kl: Float[Tensor, "targets"],
    scores: Float[Tensor, "sequences"],
    lengths: Float[Tensor, "sequences"],
    kl_coef: float,
) -> Float[Tensor, "targets"]:
    """PPO's reward of each token: the price of its KL, and at the last token of a sequence also the score.

    ``R_t = -beta (log pi - log pi_ref)_t + 1[t = T] r(x, y)`` (Ziegler et al. 2019, arXiv:1909.08593, eq. 2, by
    token). ``kl`` is k1 of each token in nats, sequence after sequence; a completion without tokens loses its score.
    """
    rewards = -kl_coef * kl
    has_tokens = lengths > 0
    last = (lengths.long().cumsum(0) - 1)[has_tokens]
    return rewards.index_add(0, last, scores[has_tokens].to(rewards))


def gae(
    rewards: Float[Tensor, "targets"],
    values: Float[Tensor, "targets"],
    lengths: Float[Tensor, "sequences"],
    gamma: float = 1.0,
    lam: float = 0.95,
) -> tuple[Float[Tensor, "targets"], Float[Tensor, "targets"]]:
    """Generalised advantage estimates of each token, and the returns the value function is to learn.

    ``delta_t = R_t + gamma V_{t+1} - V_t``, ``A_t = sum_l (gamma lam)^l delta_{t+l}``, return = A_t + V_t (Schulman et
    al. 2015, arXiv:1506.02438, eq. 16). Nothing follows the last token of a sequence: V_{T+1} = 0, cut off or not.
    With lam 1 the advantage is the discounted sum of rewards less the value, with lam 0 it is delta_t.

    Tokens are sequence after sequence, ``lengths`` of each (0 is allowed); V_t is the value before token t is seen.
    The results carry no gradient.
    """
    is_token = torch.arange(int(lengths.max()), device=lengths.device) < lengths[:, None]  # sequences steps
    padded_rewards, padded_values = (_rows(flat.detach(), is_token) for flat in (rewards, values))
    following = torch.nn.functional.pad(padded_values[:, 1:], (0, 1))
    deltas = padded_rewards + gamma * following - padded_values
    advantages = torch.empty_like(deltas)
    running = deltas.new_zeros(len(deltas))  # stays 0 until a sequence's last token: its padding is 0
    for step in reversed(range(deltas.shape[1])):
        running = deltas[:, step] + gamma * lam * running
        advantages[:, step] = running
    return advantages[is_token], advantages[is_token] + values.detach()


def whiten(values: Float[Tensor, "targets"], shift_mean: bool = True) -> Float[Tensor, "targets"]:
    """Values with deviation 1, and mean 0 unless ``shift_mean`` is False, which keeps the mean.

    ``(v - mean)/sqrt(var + 1e-8)`` over all tokens given. PPO whitens advantages with the shift, and rewards, where
    it does at all, without: shifting them would reward or punish length (Huang et al. 2024, arXiv:2403.17031).
    Equal values become 0, or stay.
    """
    mean = values.mean()
    spread = (values - mean).square().sum() / max(values.numel() - 1, 1)
    whitened = (values - mean) * torch.rsqrt(spread + 1e-8)
    return whitened if shift_mean else whitened + mean


def _deviation(rewards: Float[Tensor, "prompts group"], dim: int | None = None) -> Float[Tensor, "..."]:
    """Standard deviation of what is a number, over n - 1; NaN where there is but one."""
    squares = (rewards - rewards.nanmean(dim, keepdim=True)).square()
    degrees = (~rewards.isnan()).sum(dim, keepdim=True) - 1
    return (squares.nansum(dim, keepdim=True) / degrees).sqrt()


def _zero_without_signal(
    advantages: Float[Tensor, "prompts group"], rewards: Float[Tensor, "prompts group"]
) -> Float[Tensor, "prompts group"]:
    return advantages.masked_fill(tied_groups(rewards)[:, None] | rewards.isnan(), 0.0)


def _rows(
    flat: Float[Tensor, "targets"], is_token: Bool[Tensor, "sequences steps"]
) -> Float[Tensor, "sequences steps"]:
    """Flat tokens as a row a sequence, 0 after its end."""
    rows = flat.new_zeros(is_token.shape)
    rows[is_token] = flat
    return rows
