"""What an evaluation is asked to measure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from preftune.errors import PreftuneError


class EvaluationPlan(BaseModel):
    """All that ``preftune.evaluate`` and ``preftune eval`` take beside models and data."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    split: str = Field(default="test", description="Split of a hub data set or datasets folder.")
    limit: int | None = Field(default=None, ge=1, description="Read at most so many rows.")
    tokenizer: str | None = Field(default=None, description="Where the tokenizer lies, if not with the model.")
    dtype: Literal["auto", "float32", "bfloat16"] = Field(default="auto", description="Precision of the weights.")
    beta: float = Field(default=0.1, gt=0, description="The beta of the implicit reward.")
    max_length: int = Field(default=1024, ge=2, description="Most tokens of prompt and completion together.")
    max_new_tokens: int = Field(default=128, ge=1, description="Most tokens of an answer.")
    num_completions: int = Field(default=32, ge=0, description="Prompts answered at temperature 1.")
    num_answers: int = Field(default=1, ge=1, description="Answers to each of these prompts.")
    batch_size: int = Field(default=8, ge=1, description="Pairs computed at once.")
    seed: int = Field(default=42, ge=0, description="Seed of answers, examples, sides and resampling.")
    trust_remote_code: bool = Field(default=False, description="Run code that comes with the model.")

    start: str | None = Field(default=None, description="What the models started from, where they do not say.")
    against: tuple[str, ...] = Field(default=(), description="Other models to win against.")
    judge: tuple[Any, ...] = Field(default=(), description="Judges: MODEL, PROVIDER:MODEL, MODEL@URL, or opened ones.")
    judging: Any = Field(default=None, description="How judges are asked: collect.judge.How.")
    journal: Path | None = Field(default=None, description="Journal of the judges' answers.")
    reward: tuple[Any, ...] = Field(default=(), description="Rewards: names, reward model folders, functions.")
    prompting: bool = Field(default=False, description="Also the start behind a system prompt and behind examples.")
    prompting_system: str | None = Field(default=None, description="The system prompt, as text or in a file.")
    prompting_shots: int = Field(default=3, ge=0, description="Examples shown; 0 for none.")
    retention: bool = Field(default=False, description="Loss on general text.")
    retention_text: Path | None = Field(default=None, description="General text of your own: .txt or .jsonl.")
    lm_eval: tuple[str, ...] = Field(default=(), description="Tasks of lm-evaluation-harness.")
    lm_eval_limit: int | None = Field(default=None, ge=1, description="Documents of each task.")
    frontier: bool = Field(default=False, description="Reward and KL of each checkpoint of the runs.")
    best_of_n: int = Field(default=0, ge=0, description="Draws of the start for the best-of-n curve.")
    human_check: bool = Field(default=False, description="Items of a blind check between a model and its opponent.")
    human_items: int = Field(default=50, ge=1, description="Most items of the check.")
    human_result: Path | None = Field(default=None, description="The choices that the page exported.")
    gate: Path | None = Field(default=None, description="YAML file of bounds on measures.")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.best_of_n == 1:
            raise ValueError("best_of_n is 1: the best of one is every answer; give 2 or more.")
        if (self.best_of_n or self.frontier) and not self.reward:
            name = "best_of_n" if self.best_of_n else "frontier"
            raise ValueError(f"{name} needs a reward: add --reward NAME, such as a reward model's folder.")
        if (self.prompting_system is not None) and not self.prompting:
            raise ValueError("prompting_system is given without prompting: add --prompting.")
        return self

    @property
    def wants_verdicts(self) -> bool:
        """Whether anything can decide between two answers."""
        return bool(self.judge or self.reward)

    @property
    def wants_start(self) -> bool:
        """Whether the models' start is to answer beside them."""
        return bool(
            self.wants_verdicts
            or self.start
            or self.prompting
            or self.wants_retention
            or self.lm_eval
            or (self.human_check and not self.against)
        )

    @property
    def wants_retention(self) -> bool:
        """Whether general text is to be predicted."""
        return self.retention or self.retention_text is not None


def read_plan(settings: Mapping[str, Any]) -> EvaluationPlan:
    """The plan of these settings, a list of one without its brackets too; PreftuneError names the one that is wrong."""
    listed = {name: (value,) for name, value in settings.items() if name in _LISTS and isinstance(value, str)}
    try:
        return EvaluationPlan.model_validate({**settings, **listed})
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise PreftuneError(
            f"{first['msg'].removeprefix('Value error, ').rstrip('.')}.",
            where=place or None,
            mend="preftune eval --help lists the settings.",
        ) from error


_LISTS: Final = ("against", "judge", "reward", "lm_eval")
