"""GRPO (Shao et al. 2024, arXiv:2402.03300) and its descendants: completions of a prompt judged against each other."""

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
from preftune.methods.dynamic_sampling import draw_informative
from preftune.methods.experience import Experience
from preftune.methods.group_policy import Batch, Correction, corrected, policy_step
from preftune.methods.group_settings import GroupConfig, has_signal, kept_tokens
from preftune.methods.job import Job
from preftune.methods.online import Online, open_online
from preftune.methods.rollout_figures import Sums, advantage_figures, window_figures
from preftune.methods.windows import Portion, TakePrompts, Window, drawn_in_windows
from preftune.training.loop import Figures

LossType = Literal["grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo", "luspo"]
CISPO_BOUND = 5.0  # of the ratio itself, where epsilon_high says no other
MEAN_OVER_TOKENS = ("dapo", "bnpo", "cispo")


class GRPOConfig(GroupConfig):
    """Train a policy on its own completions, each compared with the others of its prompt."""

    gdpo: ClassVar[bool] = True
    learning_rates: ClassVar[tuple[float, float]] = (1e-6, 1e-5)

    loss_type: LossType = Field(
        default="dapo",
        description="dapo: mean over tokens; grpo: of each one's mean; dr_grpo: over a constant; cispo, sapo, luspo.",
    )
    scale_rewards: Literal["group", "batch", "none"] = Field(
        default="group", description="Whose deviation advantages are divided by; none for Dr. GRPO."
    )
    beta: float = Field(default=0.0, ge=0, description="Weight of the KL from the reference, a token; 0: no reference.")
    kl_estimator: Literal["k1", "k2", "k3", "k1+", "k3+"] = Field(
        default="k3", description="k3 as in the paper; k2 and k3+ have the KL's own gradient."
    )
    use_bias_correction_kl: bool = Field(
        default=False, description="k3 times the ratio to the sampling policy: unbiased in value and gradient."
    )
    delta: float | None = Field(default=None, gt=1, description="Upper bound of the ratio for bad completions too.")
    importance_sampling_level: Literal["token", "sequence", "sequence_token"] = Field(
        default="token", description="sequence: GSPO, whose epsilons are near 3e-4; sequence_token: GSPO-token."
    )
    sapo_temperature_pos: float = Field(default=1.0, gt=0, description="Of SAPO's gate for good tokens.")
    sapo_temperature_neg: float = Field(default=1.05, gt=0, description="The same for bad ones.")
    dynamic_sampling: bool = Field(
        default=False, description="Groups whose rewards are all the same are drawn again with other prompts (DAPO)."
    )
    max_resampling: int = Field(default=8, ge=1, description="Most rounds of that a window.")
    sampler_correction: Correction = Field(
        default="none", description="What makes up for a sampler whose numbers are not the trainer's (TIS, MIS)."
    )
    sampler_correction_cap: float = Field(default=3.0, gt=0, description="Largest ratio of the two.")

    @model_validator(mode="after")
    def _has_something_to_compare(self) -> Self:
        if self.kl_cap is not None and not self.beta:
            raise ValueError("kl_cap: without a beta no KL from the reference is measured; set beta, or leave it out.")
        if self.num_generations < 2:
            raise ValueError("num_generations: a completion alone has nothing to be compared with; give 2 or more.")
        if self.delta is not None and self.delta <= 1 + self.clip[1]:
            raise ValueError(f"delta: {self.delta} is not above 1 + epsilon_high, {1 + self.clip[1]}.")
        if self.use_bias_correction_kl and self.kl_estimator != "k3":
            raise ValueError(f"kl_estimator: use_bias_correction_kl corrects k3, not {self.kl_estimator}.")
        return self


def prepare(context: Context[Any]) -> Job[Any]:
    """A run of GRPO."""
    config: GRPOConfig = context.config
    online = open_online(context, needs_reference=config.beta > 0)

    def make(number: int, take: TakePrompts) -> Window:
        drawn = judged = online.draw(take, number)
        figures: Sums = {}
        if config.dynamic_sampling:
            judged, drawn, figures = draw_informative(online, judged, take, number)
        rewards = online.objective.combined(judged)
        is_gdpo = config.multi_objective_aggregation == "normalize_then_sum"
        advantages = online.objective.normalised(judged) if is_gdpo else group_advantages(online, rewards)
        experiences = online.experiences(judged, keep_old=config.moves_within_window, advantages=advantages)
        figures |= window_figures(drawn, online.objective.combined(drawn)) | advantage_figures(
            advantages, judged.groups
        )
        return Window(experiences, {**figures, **online.objective.learn(drawn)})

    def weight(one: Experience) -> float:
        tokens = 0 if config.leaves_out(one) else len(one.completion)
        if config.loss_type in MEAN_OVER_TOKENS:
            return float(tokens)
        return losses.divisor(config.loss_type, torch.tensor([float(tokens)]), config.max_completion_length)

    def counts(one: Experience) -> bool:
        return not config.leaves_out(one) and (config.beta > 0 or has_signal(one))

    def weights(batch: Batch) -> Float[Tensor, "targets"]:
        own = losses.token_weights(config.loss_type, batch.scores.sequence, batch.lengths)
        return own * kept_tokens(batch, config)

    supply = drawn_in_windows(context, len(online.collector.prompts), make, Portion(weight, counts), online.objective)
    return online.job("grpo", supply, policy_step(lambda batch: grpo_loss(batch, config), weights, weight))


def grpo_loss(batch: Batch, config: GRPOConfig) -> tuple[Float[Tensor, "targets"], Figures]:
    """The loss of each token, and how much of it was clipped."""
    low, high = config.clip
    bound = CISPO_BOUND if config.epsilon_high is None else config.epsilon_high
    scores = batch.scores
    log_ratio = batch.log_ratio
    if config.importance_sampling_level == "sequence":
        log_ratio = losses.sequence_log_ratio(log_ratio, scores.sequence, scores.n_sequences)
    elif config.importance_sampling_level == "sequence_token":
        log_ratio = losses.gspo_token_log_ratio(log_ratio, scores.sequence, scores.n_sequences)
    if config.loss_type == "cispo":
        per_token = losses.cispo(scores.per_token, log_ratio, batch.advantages, bound)
    elif config.loss_type == "sapo":
        per_token = losses.sapo(log_ratio, batch.advantages, config.sapo_temperature_pos, config.sapo_temperature_neg)
    else:
        per_token = losses.clipped_surrogate(log_ratio, batch.advantages, low, high, config.delta)
    per_token = corrected(per_token, batch, config.sampler_correction, config.sampler_correction_cap)
    n = per_token.numel()
    figures: dict[str, Any] = {}
    if config.loss_type == "cispo":
        figures["cispo_clip_ratio"] = ((log_ratio.exp() > bound).sum(), n)
    elif config.loss_type != "sapo":
        below, above = losses.is_clipped(log_ratio, batch.advantages, low, high)
        figures |= {"clip_ratio/low_mean": (below.sum(), n), "clip_ratio/high_mean": (above.sum(), n)}
    if config.beta:
        reference = batch.per_token("reference")
        if config.use_bias_correction_kl:
            kl = losses.bias_corrected_kl(scores.per_token, reference, log_ratio)
        else:
            kl = losses.kl_estimate(scores.per_token, reference, config.kl_estimator)
        figures["kl"] = (kl.detach().sum(), n)
        figures["objective/kl"] = (kl.detach().sum(), scores.n_sequences)
        per_token = per_token + config.beta * kl
    return per_token, figures


def group_advantages(online: Online, rewards: Float[np.ndarray, "samples"]) -> Float[np.ndarray, "samples"]:
    """Each completion's advantage over its group; with scale batch over the deviation of all processes' rewards."""
    config: GRPOConfig = online.context.config

    def advantages(everyone: Float[np.ndarray, "all"]) -> Float[np.ndarray, "all"]:
        groups = torch.from_numpy(everyone).view(-1, config.num_generations)
        return losses.group_advantages(groups, config.scale_rewards).flatten().numpy()

    return over_all(online.context.accelerator, rewards, advantages)
