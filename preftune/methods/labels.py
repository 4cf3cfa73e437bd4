"""A step on labelled answers: each answer beside one that belongs to another prompt, log-probs, loss, metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from preftune.data.tokens import TokenIds, TokenLabel
from preftune.errors import PreftuneError
from preftune.models.layout import Group
from preftune.models.reference import ItemLogProbs, Reference
from preftune.training.loop import Computed

ItemLosses = Float[Tensor, "items"]


@dataclass(frozen=True)
class LabelItem:
    """A labelled answer and a ``mismatch``: an answer that was given to another prompt."""

    id: str
    prompt: TokenIds
    completion: TokenIds
    mismatch: TokenIds
    label: bool

    @property
    def completions(self) -> tuple[TokenIds, TokenIds]:
        return self.completion, self.mismatch

    @property
    def length(self) -> int:
        return len(self.prompt) + len(self.completion) + len(self.mismatch)


@dataclass(frozen=True)
class LabelValues:
    """What a loss on labels may ask for: summed log-probs in nats, what is good, and the KL estimate z0 >= 0."""

    policy: ItemLosses
    reference: ItemLosses
    labels: Bool[Tensor, "items"]
    kl: Float[Tensor, ""]


@dataclass(frozen=True)
class LabelMethod:
    """``losses(values)`` gives a loss an item; ``reward_scale`` times log pi / pi_ref is the implicit reward."""

    name: str
    losses: Callable[[LabelValues], ItemLosses]
    reward_scale: float


def mismatched(labels: Sequence[TokenLabel], seed: int) -> list[LabelItem]:
    """Each label with an answer to another prompt, drawn once: every answer serves as a mismatch once.

    Labels of a prompt stand together in a random order of prompts, and the answers move on by the size of the
    largest prompt, so that none meets its own while no prompt has more than half of the labels. Raises
    ``PreftuneError`` where all have one prompt: there is then no other.
    """
    keys = [label.prompt.tobytes() for label in labels]
    sizes = Counter(keys)
    if len(sizes) < 2:
        raise PreftuneError(
            "KTO's KL estimate needs answers to other prompts, and all rows have the same prompt.",
            mend="Give data with at least two prompts.",
        )
    places = np.random.default_rng([seed, len(labels)]).permutation(len(sizes))
    place = dict(zip(sizes, places, strict=True))
    order = sorted(range(len(labels)), key=lambda i: place[keys[i]])
    shift = max(sizes.values()) % len(labels)
    partner = {mine: order[(number + shift) % len(order)] for number, mine in enumerate(order)}
    return [
        LabelItem(label.id, label.prompt, label.completion, labels[partner[i]].completion, label.label)
        for i, label in enumerate(labels)
    ]


def label_step(method: LabelMethod, reference: Reference) -> Callable[[nn.Module, Sequence[LabelItem]], Computed]:
    """The step the loop runs: log-probs of answers and mismatches, loss of a micro-batch, TRL's metrics."""

    def compute(module: nn.Module, batch: Sequence[LabelItem]) -> Computed:
        with torch.no_grad():  # first, while no activations are kept
            other = module([Group(one.prompt.tolist(), (one.mismatch.tolist(),)) for one in batch]).sums()
        scores = module([Group(one.prompt.tolist(), (one.completion.tolist(),)) for one in batch])
        frozen = reference.log_probs(batch).to(other.device)
        values = values_of(torch.stack([scores.sums(), other], 1), frozen, batch)
        losses = method.losses(values)
        metrics = _metrics(values, method.reward_scale)
        metrics["entropy"] = (scores.entropy.sum(), scores.entropy.numel())
        tokens = sum(len(one.prompt) + len(one.completion) for one in batch)
        return Computed(losses.sum(), len(batch), tokens, metrics)

    return compute


def values_of(policy: ItemLogProbs, reference: ItemLogProbs, items: Sequence[LabelItem]) -> LabelValues:
    """The values of a batch whose log-probs are given, (items, 2): of the answer and of the mismatch.

    z0 is the mean of log pi / pi_ref over the mismatches of all processes, then at least 0 (KTO, section 4.1).
    """
    ratios = (policy - reference)[:, 1].detach()
    return LabelValues(
        policy[:, 0],
        reference[:, 0],
        torch.tensor([one.label for one in items], device=policy.device),
        _mean_over_processes(ratios).clamp(min=0),
    )


def evaluation_figures(
    method: LabelMethod, policy: ItemLogProbs, reference: ItemLogProbs, items: Sequence[LabelItem]
) -> dict[str, float]:
    """Means over held-out labels, by TRL's names with the prefix ``eval_``."""
    values = values_of(policy, reference, items)
    figures = {"loss": (method.losses(values).sum(), len(items)), **_metrics(values, method.reward_scale)}
    return {f"eval_{name}": float(total / weight) for name, (total, weight) in figures.items() if weight}


def _mean_over_processes(ratios: ItemLosses) -> Float[Tensor, ""]:
    total = torch.stack([ratios.sum(), ratios.new_tensor(float(len(ratios)))])
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(total)
    return total[0] / total[1]


@torch.no_grad()
def _metrics(values: LabelValues, scale: float) -> dict[str, tuple[Tensor, float]]:
    """Sums with their counts: a micro-batch may hold labels of one kind only."""
    rewards = scale * (values.policy - values.reference)
    metrics: dict[str, tuple[Tensor, float]] = {"kl": (values.kl * len(rewards), len(rewards))}
    for side, mask in (("chosen", values.labels), ("rejected", ~values.labels)):
        metrics[f"rewards/{side}"] = (rewards[mask].sum(), int(mask.sum()))
        metrics[f"logps/{side}"] = (values.policy[mask].sum(), int(mask.sum()))
    if 0 < int(values.labels.sum()) < len(rewards):
        margin = rewards[values.labels].mean() - rewards[~values.labels].mean()
        metrics["rewards/margins"] = (margin, 1)
    return metrics
