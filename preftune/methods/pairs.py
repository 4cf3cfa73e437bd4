"""A step on preference pairs: batch to log-probs to loss to metrics, whatever the loss is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from preftune.data.tokens import TokenPair
from preftune.models.reference import PairLogProbs, Reference, pair_groups
from preftune.training.loop import Computed


@dataclass(frozen=True)
class PairMethod:
    """What tells one method on pairs from another.

    ``losses(policy, reference)`` takes summed log-probs, chosen and rejected, and gives a loss a pair;
    ``reward_scale`` times log pi / pi_ref is the implicit reward in the metrics.
    """

    name: str
    losses: Callable[[PairLogProbs, PairLogProbs], Float[Tensor, "pairs"]]
    reward_scale: float


def pair_step(method: PairMethod, reference: Reference) -> Callable[[nn.Module, Sequence[TokenPair]], Computed]:
    """The step the loop runs: forward pass and loss of a micro-batch, with TRL's metrics."""

    def compute(module: nn.Module, batch: Sequence[TokenPair]) -> Computed:
        scores = module(pair_groups(batch))
        policy = scores.sums().view(-1, 2)
        frozen = reference.log_probs(batch).to(policy.device)
        losses = method.losses(policy, frozen)
        metrics = {name: (values.sum(), len(batch)) for name, values in _figures(policy, frozen, method).items()}
        metrics["entropy"] = (scores.entropy.sum(), scores.entropy.numel())
        return Computed(losses.sum(), len(batch), sum(token_count(pair) for pair in batch), metrics)

    return compute


def evaluation_figures(
    method: PairMethod, policy: Float[np.ndarray, "pairs 2"], reference: PairLogProbs
) -> dict[str, float]:
    """Means over held-out pairs, by TRL's names with the prefix ``eval_``."""
    ours = torch.from_numpy(policy).to(torch.float32)
    figures = {"loss": method.losses(ours, reference)} | _figures(ours, reference, method)
    return {f"eval_{name}": float(values.mean()) for name, values in figures.items()}


def token_count(pair: TokenPair) -> int:
    """Tokens of the pair's two sequences, prompt counted with each: as a trainer that pads would count."""
    return 2 * len(pair.prompt) + len(pair.chosen) + len(pair.rejected)


@torch.no_grad()
def _figures(policy: PairLogProbs, reference: PairLogProbs, method: PairMethod) -> dict[str, Any]:
    chosen, rejected = (method.reward_scale * (policy - reference)).unbind(1)
    return {
        "rewards/chosen": chosen,
        "rewards/rejected": rejected,
        "rewards/margins": chosen - rejected,
        "rewards/accuracies": (chosen > rejected).float(),
        "logps/chosen": policy[:, 0],
        "logps/rejected": policy[:, 1],
    }
