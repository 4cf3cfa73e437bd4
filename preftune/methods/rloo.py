"""RLOO (Ahmadian et al. 2024, arXiv:2402.14740) and REINFORCE++ (Hu 2025, arXiv:2501.03262): policy gradients with a
baseline from other completions, and the KL in the reward."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor

from preftune import losses
from preftune.methods.across import over_all
from preftune.methods.context import Context
from preftune.methods.experience import Experience
from preftune.methods.group_policy import Batch, policy_step
from preftune.methods.group_settings import GroupConfig, has_signal, kept_tokens
from preftune.methods.job import Job
from preftune.methods.online import Online, open_online
from preftune.methods.rollout_figures import advantage_figures, window_figures
from preftune.methods.windows import Portion, TakePrompts, Window, drawn_in_windows
from preftune.training.loop import Figures


class RLOOConfig(GroupConfig):
    """Train a policy on its own completions with a baseline from the others, the KL taken off the reward."""

    learning_rates: ClassVar[tuple[float, float]] = (1e-6, 1e-5)

    num_generations: int = Field(default=4, ge=1, description="Completions drawn for each prompt.")
    beta: float = Field(default=0.05, ge=0, description="Price of the KL from the reference, nats a completion.")
    advantage_estimator: Literal["rloo", "reinforce_plus_plus"] = Field(
        default="rloo",
        description="rloo: less the mean of the others; reinforce_plus_plus: normalised over the whole batch.",
    )
    normalize_advantages: bool = Field(default=False, description="Advantages with deviation 1 over the whole batch.")
    reward_clip_range: tuple[float, float] | None = Field(
        default=None, description="Rewards are kept within, before the KL is taken off."
    )
    importance_sampling_level: Literal["token", "sequence"] = Field(
        default="sequence",
        description="What is clipped: a completion's whole ratio as in TRL, which soon clips long ones; or a token's.",
    )

    @model_validator(mode="after")
    def _has_something_to_compare(self) -> Self:
        if self.kl_cap is not None and not self.beta:
            raise ValueError("kl_cap: without a beta no KL from the reference is measured; set beta, or leave it out.")
        if self.num_generations < 2 and self.advantage_estimator == "rloo":
            raise ValueError("num_generations: a completion alone has nothing to be compared with; give 2 or more.")
        return self


def prepare(context: Context[Any]) -> Job[Any]:
    """A run of RLOO or REINFORCE++."""
    config: RLOOConfig = context.config
    online = open_online(context, needs_reference=config.beta > 0)

    def make(number: int, take: TakePrompts) -> Window:
        judged = online.draw(take, number)
        rewards = online.objective.combined(judged)
        figures = {**window_figures(judged, rewards), **online.objective.learn(judged)}
        # The KL is of the policy's own numbers, not the sampler's: at the start it is then exactly 0.
        experiences = online.experiences(judged, keep_old=True)
        divergences = sequence_kl(experiences)
        if config.beta:
            figures["kl"] = (float(divergences.sum()), float(sum(len(one.completion) for one in experiences)))
            figures["objective/kl"] = (float(divergences.sum()), float(len(experiences)))
        advantages = baseline_advantages(online, rewards, divergences)
        figures |= advantage_figures(advantages, judged.groups)
        learned = [
            (one if config.moves_within_window else one.without("old")).having_each("advantages", float(advantage))
            for one, advantage in zip(experiences, advantages, strict=True)
        ]
        return Window(learned, figures)

    def weight(one: Experience) -> float:
        return float(not config.leaves_out(one))

    portion = Portion(weight, lambda one: not config.leaves_out(one) and has_signal(one))
    supply = drawn_in_windows(context, len(online.collector.prompts), make, portion, online.objective)
    step = policy_step(lambda batch: rloo_loss(batch, config), lambda batch: kept_tokens(batch, config), weight)
    return online.job("rloo", supply, step)


def rloo_loss(batch: Batch, config: RLOOConfig) -> tuple[Float[Tensor, "targets"], Figures]:
    """The loss of each token: a completion's is spread evenly over its tokens where its whole ratio counts."""
    low, high = config.clip
    scores, log_ratio, advantages = batch.scores, batch.log_ratio, batch.advantages
    if config.importance_sampling_level == "token":
        per_token = losses.clipped_surrogate(log_ratio, advantages, low, high)
        below, above = losses.is_clipped(log_ratio, advantages, low, high)
        n: float = per_token.numel()
    else:
        whole = losses.sequence_sum_log_ratio(log_ratio, scores.sequence, scores.n_sequences)
        own = advantages.new_zeros(scores.n_sequences).index_copy(0, scores.sequence, advantages)
        each = losses.clipped_surrogate(whole, own, low, high)
        below, above = losses.is_clipped(whole, own, low, high)
        per_token = (each / batch.lengths)[scores.sequence]
        n = float(len(each))
    return per_token, {"clip_ratio/low_mean": (below.sum(), n), "clip_ratio/high_mean": (above.sum(), n)}


def sequence_kl(experiences: list[Experience]) -> Float[np.ndarray, "samples"]:
    """log pi - log pi_ref of each completion (k1, summed over its tokens); 0 without a reference."""
    return np.array(
        [
            float((one.per_token["old"].astype(np.float64) - one.per_token["reference"]).sum())
            if "reference" in one.per_token
            else 0.0
            for one in experiences
        ]
    )


def baseline_advantages(
    online: Online, rewards: Float[np.ndarray, "samples"], divergences: Float[np.ndarray, "samples"]
) -> Float[np.ndarray, "samples"]:
    """Rewards less the price of the KL, less what was to be expected; scales span all processes."""
    config: RLOOConfig = online.context.config

    def advantages(everyone: Float[np.ndarray, "all"]) -> Float[np.ndarray, "all"]:
        values = torch.from_numpy(everyone)
        if config.advantage_estimator == "reinforce_plus_plus":
            return losses.batch_normalised(values).numpy()
        groups = values.view(-1, config.num_generations)
        over_others = losses.leave_one_out(groups)
        if config.normalize_advantages:
            over_others = losses.batch_normalised(over_others.masked_fill(groups.isnan(), torch.nan))
        return over_others.flatten().numpy()

    kept = rewards if config.reward_clip_range is None else np.clip(rewards, *config.reward_clip_range)
    return over_all(online.context.accelerator, kept - config.beta * divergences, advantages)
