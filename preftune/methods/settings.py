"""The settings every method on pairs shares: those of data, model, loop and evaluation, in one flat config."""

from __future__ import annotations

from pydantic import ConfigDict, Field

from preftune.data.settings import DataConfig
from preftune.evaluate.settings import EvaluationConfig
from preftune.models.settings import ModelConfig
from preftune.training.settings import TrainingConfig


class PairConfig(ModelConfig, DataConfig, TrainingConfig, EvaluationConfig):
    """A run on preference pairs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ref_model: str | None = Field(None, description="The reference, if it is not the model the run starts from.")
    precompute_ref_log_probs: bool | None = Field(
        None,
        description="Reference log-probs computed once and cached; unset: unless an adapter runs one epoch.",
    )
