"""The settings that methods share: those of data, model, loop and evaluation, in one flat config."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import ConfigDict, Field, model_validator

from preftune.config import translate
from preftune.data.settings import DataConfig
from preftune.evaluate.settings import EvaluationConfig
from preftune.models.settings import ModelConfig
from preftune.training.settings import TrainingConfig


class RunConfig(ModelConfig, DataConfig, TrainingConfig, EvaluationConfig):
    """A run of any method; ``learning_rates`` are its peaks where none is set: all weights, LoRA."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    learning_rates: ClassVar[tuple[float, float]] = (1e-6, 1e-5)

    stop_on: Literal["never", "error", "warning"] = Field(
        default="never", description="What found in the curves while it runs ends the run, with a checkpoint."
    )

    @model_validator(mode="before")
    @classmethod
    def _in_our_names(cls, values: Any) -> Any:
        """TRL's names are understood in Python as they are in a file."""
        return translate(cls, values) if isinstance(values, dict) else values

    @property
    def peak_learning_rate(self) -> float:
        """The learning rate at the end of the warm-up."""
        whole, lora = self.learning_rates
        return self.learning_rate or (lora if self.use_peft else whole)


class CappedConfig(RunConfig):
    """A run that logs how far the policy is from its reference."""

    kl_cap: float | None = Field(
        default=None, gt=0, description="Nats a completion from the reference at which the run ends, with a checkpoint."
    )


class PairConfig(RunConfig):
    """A run that learns from labelled pairs."""

    use_confidence: bool = Field(
        default=False, description="A pair's confidence softens its label: c times its loss, 1 - c times the turned."
    )


class ReferenceConfig(RunConfig):
    """A run whose loss compares the policy with a frozen reference."""

    ref_model: str | None = Field(
        default=None, description="The reference, if it is not the model the run starts from."
    )
    precompute_ref_log_probs: bool | None = Field(
        default=None,
        description="Reference log-probs computed once and cached; unset: unless an adapter runs one epoch.",
    )
