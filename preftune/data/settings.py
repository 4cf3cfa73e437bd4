"""Settings of the data: where it comes from, how it is split and turned into tokens."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from preftune.data.batches import SamplingStrategy
from preftune.data.tokens import TruncationMode


class DataConfig(BaseModel):
    """What to read, and what of it is held out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: str = Field(
        default="",
        description="Records: JSONL, JSON, CSV, Parquet, a `datasets` folder, or a hub name.",
        json_schema_extra={"needed": True},
    )
    eval_data: str | None = Field(
        default=None, description="Records to evaluate on; without it some prompts are held out."
    )
    eval_fraction: float = Field(
        default=0.1, ge=0, lt=1, description="Share of the pairs held out, whole prompts at a time."
    )
    split: str = Field(default="train", description="Split of a hub data set or `datasets` folder.")
    eval_split: str = Field(default="test", description="The same for eval_data.")
    limit: int | None = Field(default=None, ge=1, description="Read at most so many rows.")
    max_length: int | None = Field(default=1024, ge=2, description="Most tokens of prompt and completion together.")
    truncation_mode: TruncationMode = Field(
        default="keep_completion", description="keep_completion cuts the prompt's beginning first; keep_start as TRL."
    )
    train_sampling_strategy: SamplingStrategy = Field(
        default="random", description="Order of the pairs within an epoch."
    )
