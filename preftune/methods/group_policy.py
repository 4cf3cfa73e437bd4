"""A step of the methods that compare completions of one prompt: GRPO and its descendants, RLOO, REINFORCE++."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn

from preftune import losses
from preftune.methods.experience import Experience, branches, completion_lengths, flat
from preftune.models.logprobs import CompletionLogProbs
from preftune.training.loop import Computed, Figures

Correction: TypeAlias = Literal["none", "token_truncate", "token_mask", "sequence_truncate", "sequence_mask"]


@dataclass(frozen=True)
class Batch:
    """What a loss on completions may ask for: flat numbers a token, and which completion each is of.

    ``log_ratio`` is log pi - log pi_old; exactly 0 in value where the policy is still what it was.
    """

    experiences: Sequence[Experience]
    scores: CompletionLogProbs
    old: Float[Tensor, "targets"]
    advantages: Float[Tensor, "targets"]
    lengths: Float[Tensor, "sequences"]

    @property
    def log_ratio(self) -> Float[Tensor, "targets"]:
        return self.scores.per_token - self.old

    def per_token(self, name: str) -> Float[Tensor, "targets"]:
        """Numbers that were kept with the experiences."""
        return flat(self.experiences, name, self.scores.per_token.device)


Loss: TypeAlias = Callable[[Batch], tuple[Float[Tensor, "targets"], Figures]]


def policy_step(
    loss: Loss, weights: Callable[[Batch], Float[Tensor, "targets"]], divisor: Callable[[Experience], float]
) -> Callable[[nn.Module, Sequence[Experience]], Computed]:
    """The step: ``sum_t weight_t loss_t``, to be divided by the sum of ``divisor`` over the whole step."""

    def compute(module: nn.Module, experiences: Sequence[Experience]) -> Computed:
        batch = gather_batch(module(branches(experiences)), experiences)
        per_token, figures = loss(batch)
        loss_sum = (weights(batch) * per_token).sum()
        tokens = sum(one.length for one in experiences)
        own = sum(divisor(one) for one in experiences)
        return Computed(loss_sum, len(experiences), tokens, {**shared_figures(batch), **figures}, weight=max(own, 1e-9))

    return compute


def gather_batch(scores: CompletionLogProbs, experiences: Sequence[Experience]) -> Batch:
    """A forward pass with what was kept; without kept log-probs the policy has not moved since."""
    device = scores.per_token.device
    has_old = "old" in experiences[0].per_token
    old = flat(experiences, "old", device) if has_old else scores.per_token.detach()
    return Batch(
        experiences, scores, old, flat(experiences, "advantages", device), completion_lengths(experiences, device)
    )


@torch.no_grad()
def shared_figures(batch: Batch) -> dict[str, Any]:
    """Entropy, how far the policy is from what drew, and how far the sampler's numbers are from the trainer's."""
    n = batch.scores.per_token.numel()
    log_ratio = batch.log_ratio
    apart = (batch.old - batch.per_token("sampled")).abs()
    return {
        "entropy": (batch.scores.entropy.sum(), n),
        "policy/approxkl_avg": (losses.kl_estimate(-log_ratio, torch.zeros_like(log_ratio), "k3").sum(), n),
        "val/ratio": (log_ratio.exp().sum(), n),
        "sampling/sampling_logp_difference/mean": (apart.sum(), n),
        "sampling/sampling_logp_difference/max": (apart.max(), 1.0),
    }


def corrected(per_token: Float[Tensor, "targets"], batch: Batch, mode: Correction, cap: float) -> Tensor:
    """Each token's loss times how much likelier it is to the trainer than it was to the sampler, bounded."""
    if mode == "none":
        return per_token
    ratios = losses.importance_weights(
        batch.old, batch.per_token("sampled"), batch.scores.sequence, batch.scores.n_sequences, mode, cap
    )
    return per_token * ratios
