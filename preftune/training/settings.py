"""Settings of the loop: batch, length of the run, optimiser, schedule, what is logged and kept."""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator


class TrainingConfig(BaseModel):
    """Names and meanings are transformers' ``TrainingArguments``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    output_dir: str = Field(
        default="trainer_output",
        description="Folder of the run; must not hold one already, unless resumed.",
        json_schema_extra={"needed": True},
    )
    resume: bool = Field(default=False, description="Go on from the newest valid checkpoint in output_dir.")
    seed: int = Field(default=42, description="Seed of the data order and of everything drawn.")

    per_device_train_batch_size: int = Field(default=4, ge=1, description="Pairs computed at once.")
    per_device_eval_batch_size: int = Field(default=8, ge=1, description="Pairs computed at once without gradients.")
    gradient_accumulation_steps: int = Field(default=1, ge=1, description="Micro-batches to an optimiser step.")
    num_train_epochs: float = Field(default=1.0, gt=0, description="Passes over the training pairs.")
    max_steps: int = Field(default=-1, ge=-1, description="Optimiser steps; above 0 it overrides num_train_epochs.")

    learning_rate: float | None = Field(
        default=None, gt=0, description="Peak; unset: the method's own, larger with LoRA."
    )
    weight_decay: float = Field(default=0.0, ge=0, description="Decoupled decay, not on norms and biases.")
    adam_beta1: float = Field(default=0.9, ge=0, lt=1, description="AdamW's first-moment decay.")
    adam_beta2: float = Field(default=0.999, ge=0, lt=1, description="AdamW's second-moment decay.")
    adam_epsilon: float = Field(default=1e-8, gt=0, description="AdamW's epsilon.")
    max_grad_norm: float = Field(default=1.0, ge=0, description="Gradients are scaled down to this norm; 0: never.")
    lr_scheduler_type: str = Field(default="linear", description="Any schedule of transformers.get_scheduler.")
    lr_scheduler_kwargs: dict[str, Any] | None = Field(default=None, description="Further arguments of the schedule.")
    warmup_steps: float = Field(default=0, ge=0, description="Steps of warm-up; below 1 a share of all steps.")
    warmup_ratio: float = Field(default=0.0, ge=0, lt=1, description="Warm-up as a share of all steps.")
    optim: Literal["adamw_torch", "adamw_torch_fused"] = Field(
        default="adamw_torch_fused", description="Both are fused AdamW."
    )
    gradient_checkpointing: bool = Field(default=False, description="Compute activations twice to keep fewer of them.")

    logging_steps: float | None = Field(
        default=None,
        gt=0,
        description="Steps between lines of metrics.jsonl, below 1 a share of all; unset: 10, or fewer in short runs.",
    )
    eval_strategy: Literal["no", "steps", "epoch"] = Field(
        default="steps", description="When held-out pairs are measured."
    )
    eval_steps: float | None = Field(
        default=None, gt=0, description="Steps between evaluations; unset: a quarter of the run."
    )
    save_strategy: Literal["no", "steps", "epoch"] = Field(default="steps", description="When checkpoints are written.")
    save_steps: float = Field(default=500, gt=0, description="Steps between checkpoints; below 1 a share of all steps.")
    save_total_limit: int | None = Field(default=2, ge=1, description="Checkpoints kept.")
    report_to: tuple[str, ...] = Field(
        default=(), description="Trackers accelerate knows: tensorboard, wandb, trackio ..."
    )
    run_name: str | None = Field(default=None, description="Name of the run for trackers.")

    @field_validator("report_to")
    @classmethod
    def _none_is_nothing(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return () if names == ("none",) else names

    def total_steps(self, steps_per_epoch: int) -> int:
        """Optimiser steps of the whole run."""
        if self.max_steps > 0:
            return self.max_steps
        return math.ceil(self.num_train_epochs * steps_per_epoch)

    def warmup(self, total_steps: int) -> int:
        """Steps of warm-up."""
        if self.warmup_steps >= 1:
            return int(self.warmup_steps)
        return math.ceil(total_steps * (self.warmup_steps or self.warmup_ratio))

    def logging_interval(self, total_steps: int) -> int:
        """Steps between lines of the metrics log; unset, every tenth, but a hundred lines of a short run.

        A detector that asks for forty points would otherwise know nothing of a run of two hundred steps.
        """
        if self.logging_steps is None:
            return min(10, max(1, total_steps // 100))
        return _steps(self.logging_steps, total_steps)

    def save_interval(self, total_steps: int, steps_per_epoch: int) -> int | None:
        """Steps between checkpoints, or None for none."""
        return _interval(self.save_strategy, self.save_steps, total_steps, steps_per_epoch)

    def eval_interval(self, total_steps: int, steps_per_epoch: int) -> int | None:
        """Steps between evaluations during the run, or None for none."""
        return _interval(self.eval_strategy, self.eval_steps or 0.25, total_steps, steps_per_epoch)


def _interval(strategy: str, steps: float, total_steps: int, steps_per_epoch: int) -> int | None:
    if strategy == "no":
        return None
    if strategy == "epoch":
        return steps_per_epoch
    return _steps(steps, total_steps)


def _steps(steps: float, total_steps: int) -> int:
    return int(steps) if steps >= 1 else math.ceil(steps * total_steps)
