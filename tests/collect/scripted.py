"""A generator that says what a test wants it to say, and keeps what it was asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from preftune.collect.generation import Choice, Progress, Prompt, Text
from preftune.rollout.protocol import Sampling


@dataclass
class Scripted:
    """``says`` is given the prompt, the completion's number and the seed; ``weighs`` the prompt, for P(A)."""

    says: Callable[[Any, int, int], str | Text] = lambda prompt, number, seed: "nothing"
    weighs: Callable[[Any], float | Choice | None] = lambda prompt: None
    name: str = "scripted"
    cost: float | None = None
    asked: list[Any] = field(default_factory=list)

    def generate(
        self, prompts: Sequence[Prompt], n: int, sampling: Sampling, seed: int, progress: Progress | None = None
    ) -> list[list[Text]]:
        self.asked += prompts
        return [[_text(self.says(prompt, number, seed)) for number in range(n)] for prompt in prompts]

    def choose(
        self, prompts: Sequence[Prompt], options: Sequence[str], progress: Progress | None = None
    ) -> list[Choice | None]:
        self.asked += prompts
        return [_choice(self.weighs(prompt)) for prompt in prompts]


def last_turn(prompt: Any) -> str:
    """What was asked last."""
    return prompt if isinstance(prompt, str) else prompt[-1]["content"]


def _text(said: str | Text) -> Text:
    return said if isinstance(said, Text) else Text(said, finished=True)


def _choice(weighed: float | Choice | None) -> Choice | None:
    return Choice((weighed, 1 - weighed), 0.9) if isinstance(weighed, float) else weighed
