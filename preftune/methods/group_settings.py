"""What GRPO and RLOO have in common: passes over what was drawn, the clip, and which completions count."""

from __future__ import annotations

from typing import Self

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor

from preftune.methods.experience import Experience
from preftune.methods.group_policy import Batch
from preftune.methods.online_settings import OnlineConfig


class GroupConfig(OnlineConfig):
    """A run whose completions are compared with others of the same prompt."""

    num_iterations: int = Field(default=1, ge=1, description="Passes over the completions drawn at once.")
    steps_per_generation: int | None = Field(
        default=None, ge=1, description="Micro-batches drawn at once; unset: those of one optimiser step."
    )
    epsilon: float = Field(default=0.2, ge=0, description="How far below 1 the ratio counts.")
    epsilon_high: float | None = Field(
        default=None, ge=0, description="How far above 1; unset: as epsilon. DAPO: 0.28."
    )
    mask_truncated_completions: bool = Field(
        default=False, description="Completions that were cut are not learned from."
    )

    @model_validator(mode="after")
    def _steps_divide(self) -> Self:
        if self.micro_batches_drawn % self.gradient_accumulation_steps:
            raise ValueError(
                f"steps_per_generation: {self.steps_per_generation} is no multiple of gradient_accumulation_steps "
                f"{self.gradient_accumulation_steps}."
            )
        return self

    @property
    def micro_batches_drawn(self) -> int:
        """Micro-batches that are drawn at once."""
        return self.steps_per_generation or self.gradient_accumulation_steps

    @property
    def mini_batches(self) -> int:
        return max(self.micro_batches_drawn // self.gradient_accumulation_steps, 1)

    @property
    def passes(self) -> int:
        return self.num_iterations

    @property
    def moves_within_window(self) -> bool:
        """True where the policy is another at a later step on the same completions."""
        return self.mini_batches * self.passes > 1

    @property
    def clip(self) -> tuple[float, float]:
        """Lower and upper epsilon."""
        return self.epsilon, self.epsilon if self.epsilon_high is None else self.epsilon_high

    def leaves_out(self, one: Experience) -> bool:
        """True for a completion that is not learned from because it was cut."""
        return self.mask_truncated_completions and not one.finished


def has_signal(one: Experience) -> bool:
    """False for a completion that was neither better nor worse than expected."""
    return bool(np.any(one.per_token["advantages"]))


def kept_tokens(batch: Batch, config: GroupConfig) -> Float[Tensor, "targets"]:
    """1 for tokens that are learned from, 0 for those of completions left out."""
    kept = torch.tensor([float(not config.leaves_out(one)) for one in batch.experiences])
    return kept.to(batch.advantages)[batch.scores.sequence]
