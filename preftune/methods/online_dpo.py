"""Online DPO: pairs of the policy's own completions, ranked by rewards, trained on at once (arXiv:2402.04792)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import nn

from preftune.data.tokens import TokenPair
from preftune.methods.context import Context
from preftune.methods.dpo import DPOConfig, dpo_method
from preftune.methods.experience import Experience, branches, flat
from preftune.methods.job import Job
from preftune.methods.online import open_online
from preftune.methods.online_settings import OnlineConfig
from preftune.methods.pairs import PairMethod, PairValues, expected_losses, token_count
from preftune.methods.rollout_figures import window_figures
from preftune.methods.rollouts import Judged
from preftune.methods.windows import Portion, TakePrompts, Window, drawn_in_windows
from preftune.training.loop import Computed

Labels = Literal["hard", "soft", "sampled"]


class OnlineDPOConfig(OnlineConfig, DPOConfig):
    """Train a policy by DPO on pairs of its own completions, ranked by rewards as they are drawn."""

    unit: ClassVar[int] = 2

    per_device_train_batch_size: int = Field(default=8, ge=1, description="Pairs computed at once.")
    num_generations: int = Field(
        default=2, ge=2, description="Completions drawn for each prompt; the best and the worst make the pair."
    )
    labels: Labels = Field(
        default="hard",
        description="hard: the better reward wins; soft: with weight sigma(r_a - r_b); sampled: with that probability.",
    )
    reference_policy: Literal["start", "previous"] = Field(
        default="start", description="start: frozen; previous: the policy as it was when the pair was drawn."
    )

    @model_validator(mode="after")
    def _computes_references_as_it_goes(self) -> Self:
        of_batches = [name for name in self.loss_type if name in ("aot", "bco_pair")]
        if of_batches:
            raise ValueError(f"loss_type: {of_batches[0]} sorts or centres whole batches, which tied pairs would bend.")
        if self.early_stop_kl is not None:
            raise ValueError("early_stop_kl: a window is one step here; leave it out.")
        if self.use_confidence:
            raise ValueError("use_confidence: labels says how sure a reward is of a pair; leave it out.")
        if self.precompute_ref_log_probs is not None:
            raise ValueError("precompute_ref_log_probs: the completions are not there before training; leave it out.")
        return self

    @property
    def completions_per_window(self) -> int:
        return self.completions_per_step * self.mini_batches * self.num_generations


def prepare(context: Context[Any]) -> Job[Any]:
    """A run of online DPO."""
    config: OnlineDPOConfig = context.config
    online = open_online(context, needs_reference=config.reference_policy == "start")

    def make(number: int, take: TakePrompts) -> Window:
        judged = online.draw(take, number)
        rewards = online.objective.combined(judged)
        figures = {**window_figures(judged, rewards), **online.objective.learn(judged)}
        draw = np.random.default_rng([config.seed, number, context.accelerator.process_index])
        places, preferences = choose_pairs(judged, rewards, config.labels, draw)
        pairs = replace(
            judged,
            rollouts=[judged.rollouts[i] for i in places],
            values=judged.values[places],
            failed=judged.failed[places],
        )
        experiences = online.experiences(pairs, keep_old=config.reference_policy == "previous", preference=preferences)
        figures["pairs/tied"] = (float((preferences == TIED).sum()), float(len(preferences)))
        return Window(experiences, figures)

    method = dpo_method(config)
    portion = Portion(lambda one: 0.5 * float(not is_tied(one)), lambda one: not is_tied(one))
    supply = drawn_in_windows(context, len(online.collector.prompts), make, portion, online.objective)
    return online.job("online-dpo", supply, pair_step(method, config))


TIED = 0.0  # the preference of a pair that says nothing; of others it is above


def choose_pairs(
    judged: Judged, rewards: Float[np.ndarray, "samples"], labels: Labels, draw: np.random.Generator
) -> tuple[list[int], Float[np.ndarray, "samples"]]:
    """Places of the better and the worse completion of each group, and how surely the first is the better one.

    A pair of one reward, the same text, or an unknown reward is tied, and 0.
    """
    places: list[int] = []
    preferences: list[float] = []
    for group in sorted(set(judged.groups.tolist())):
        members = np.flatnonzero(judged.groups == group)
        known = members[np.isfinite(rewards[members])]
        if len(known) < 2:
            places += [int(i) for i in members[:2]]
            preferences += [TIED, TIED]
            continue
        best, worst = int(known[rewards[known].argmax()]), int(known[rewards[known].argmin()])
        if best == worst:
            worst = int(known[known != best][0])
        gap = float(rewards[best] - rewards[worst])
        same = judged.rollouts[best].drawn.tokens == judged.rollouts[worst].drawn.tokens
        preference = _preference(gap, labels, draw)
        if same or (gap == 0 and labels == "hard"):
            preference = TIED
        elif preference == 0.0:  # drawn the other way round
            best, worst, preference = worst, best, 1.0
        places += [best, worst]
        preferences += [preference, preference]
    return places, np.array(preferences)


def is_tied(one: Experience) -> bool:
    """True for a side of a pair that says nothing."""
    return bool(one.per_token["preference"][0] == TIED)


def pair_step(method: PairMethod, config: OnlineDPOConfig) -> Callable[[nn.Module, Sequence[Experience]], Computed]:
    """The step on completions that are better and worse in turn; soft preferences weigh both orders of a pair."""
    kept = "reference" if config.reference_policy == "start" else "old"

    def compute(module: nn.Module, batch: Sequence[Experience]) -> Computed:
        scores = module(branches(batch))
        device = scores.per_token.device
        frozen = replace(scores, per_token=flat(batch, kept, device))
        pairs = [
            TokenPair(first.id, first.prompt, first.completion, second.completion)
            for first, second in zip(batch[::2], batch[1::2], strict=True)
        ]
        policy, reference = (method.reduce(part, pairs).view(-1, 2) for part in (scores, frozen))
        lengths = scores.lengths().view(-1, 2)
        nll = -(scores.sums() / scores.lengths()).view(-1, 2)
        values = PairValues(policy, reference, lengths, nll)
        p = torch.tensor([float(one.per_token["preference"][0]) for one in batch[::2]], device=device)
        known = (p != TIED).to(p)
        losses = known * expected_losses(method, values, p)
        rewards = method.rewards(values).detach()
        n = float(known.sum())
        metrics = {
            "rewards/chosen": ((known * rewards[:, 0]).sum(), n),
            "rewards/rejected": ((known * rewards[:, 1]).sum(), n),
            "rewards/margins": ((known * (rewards[:, 0] - rewards[:, 1])).sum(), n),
            "rewards/accuracies": ((known * (rewards[:, 0] > rewards[:, 1])).sum(), n),
            "objective/kl": ((policy - reference).detach().sum(), 2 * len(pairs)),
            "entropy": (scores.entropy.sum(), scores.entropy.numel()),
        }
        return Computed(losses.sum(), len(pairs), sum(map(token_count, pairs)), metrics, weight=max(n, 1e-9))

    return compute


def _preference(gap: float, labels: Labels, draw: np.random.Generator) -> float:
    """How surely the first is the better one, by Bradley and Terry's model of the rewards; 1 where labels are hard."""
    if labels == "hard":
        return 1.0
    probability = 1 / (1 + float(np.exp(-gap)))
    return probability if labels == "soft" else float(draw.random() < probability)
