"""Settings of the measurement before, during and after training."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class EvaluationConfig(BaseModel):
    """How many answers are written to be read, and how many to measure length and KL."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_samples: int = Field(
        default=8, ge=0, description="Held-out prompts answered greedily, for reading side by side."
    )
    num_completions: int = Field(
        default=32, ge=0, description="Held-out prompts answered at temperature 1, for length and KL."
    )
    max_new_tokens: int = Field(default=128, ge=1, description="Most tokens of an answer.")
