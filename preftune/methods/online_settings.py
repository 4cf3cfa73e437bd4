"""The settings that online methods share: how completions are drawn and what judges them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from preftune.methods.sampler_settings import SamplerConfig
from preftune.methods.settings import CappedConfig


class OnlineConfig(SamplerConfig, CappedConfig):
    """A run that draws completions and learns from what they are worth; batch sizes count completions.

    ``unit`` is the fewest completions that cannot be parted.
    """

    unit: ClassVar[int] = 1
    gdpo: ClassVar[bool] = False  # whether rewards may be normalised each by itself
    other_names: ClassVar[Mapping[str, Any]] = {
        "reward_model_path": ("reward_funcs", ""),
        "response_length": ("max_completion_length", ""),
        "vllm_importance_sampling_mode": ("sampler_correction", ""),
        "vllm_importance_sampling_cap": ("sampler_correction_cap", ""),
        "vllm_importance_sampling_clip_max": ("sampler_correction_cap", ""),
    }

    per_device_train_batch_size: int = Field(default=8, ge=1, description="Completions computed at once.")
    gradient_accumulation_steps: int = Field(default=8, ge=1, description="Micro-batches to an optimiser step.")

    num_generations: int = Field(default=8, ge=1, description="Completions drawn for each prompt.")

    reward_funcs: tuple[str, ...] = Field(
        default=(),
        description="Names, module:function, file.py:function, reward model folders, judge:...",
    )
    reward_weights: tuple[float, ...] | None = Field(default=None, description="One for each reward; unset: 1.")
    multi_objective_aggregation: Literal["sum_then_normalize", "normalize_then_sum"] = Field(
        default="sum_then_normalize", description="normalize_then_sum scales each reward in its group first (GDPO)."
    )
    reward_constraints: tuple[str, ...] = Field(
        default=(), description="As 'length>=-0.1': held on average by a multiplier that grows while it is broken."
    )
    constraint_learning_rate: float = Field(default=0.1, gt=0, description="Step of the constraints' multipliers.")
    missing_eos_penalty: float | None = Field(
        default=None, ge=0, description="Taken off the reward of completions that were cut."
    )
    gold_reward_funcs: tuple[str, ...] = Field(
        default=(),
        description="Rewards never trained on, measured on held-out prompts at each evaluation (gold/score).",
    )
    reward_timeout: float = Field(default=60.0, gt=0, description="Seconds that one call of a reward may take.")
    reward_workers: int = Field(default=8, ge=1, description="Rewards asked at the same time.")

    early_stop_kl: float | None = Field(
        default=None, gt=0, description="Nats a token from what drew a window at which no more steps are taken on it."
    )
    ref_model: str | None = Field(
        default=None, description="The reference, if it is not the model the run starts from."
    )
    eval_prompts: int = Field(
        default=64, ge=0, description="Held-out prompts answered to measure reward and KL; num_completions is not used."
    )
    num_generations_eval: int = Field(
        default=1, ge=1, description="Completions of each of them: more narrow the intervals where prompts are few."
    )

    @field_validator("reward_funcs", "reward_weights", "gold_reward_funcs", mode="before")
    @classmethod
    def _commas_part(cls, values: Any) -> Any:
        """``accuracy,format`` is two rewards; a comma within brackets is an argument's."""
        listed = [values] if isinstance(values, str) else values
        if not isinstance(listed, list | tuple):
            return values
        texts = [one for one in listed if isinstance(one, str)]
        parts = [part.strip() for text in texts for part in re.split(r",(?![^()]*\))", text)]
        return parts if len(texts) == len(listed) else listed

    @model_validator(mode="after")
    def _cuts_nothing(self) -> Self:
        if self.truncation_mode != type(self).model_fields["truncation_mode"].default:
            raise ValueError("truncation_mode: prompts are never cut here, those too long are left out; leave it out.")
        return self

    @model_validator(mode="after")
    def _windows_divide(self) -> Self:
        if self.multi_objective_aggregation == "normalize_then_sum" and not self.gdpo:
            raise ValueError("multi_objective_aggregation: normalize_then_sum is GRPO's; leave it out.")
        drawn = self.completions_per_window
        if drawn % self.num_generations:
            raise ValueError(
                f"num_generations: {drawn} completions are drawn at once (per_device_train_batch_size "
                f"{self.per_device_train_batch_size} x {drawn // self.per_device_train_batch_size} micro-batches), "
                f"which is no multiple of {self.num_generations}; change one of them."
            )
        return self

    @property
    def mini_batches(self) -> int:
        """Optimiser steps that one pass over a window takes."""
        return 1

    @property
    def passes(self) -> int:
        """Passes over a window."""
        return 1

    @property
    def completions_per_step(self) -> int:
        """Completions of an optimiser step on one device."""
        return self.per_device_train_batch_size * self.gradient_accumulation_steps

    @property
    def completions_per_window(self) -> int:
        """Completions drawn at once on one device."""
        return self.completions_per_step * self.mini_batches
