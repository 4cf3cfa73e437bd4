"""Sums of two numbers of two digits, written out: prompts, answers, and a small Llama that has never seen one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import nn

from benchmarks.experiments.small_models import EOS, PAD, character_tokenizer, small_llama
from preftune.rollout.sample import Completion, sample

CHARACTERS = "0123456789+="
LONGEST_ANSWER = 4  # three digits and the EOS
WIDTH, LAYERS = 128, 6  # 1.3 million parameters
SAMPLED_AT_ONCE = 1000

Sum = tuple[int, int]


def split_sums(seed: int, n_held_out: int) -> tuple[list[Sum], list[Sum]]:
    """All sums in random order: those to learn from, and those held out."""
    numbers = np.random.default_rng([seed, *b"sums"]).permutation(90 * 90).tolist()
    every = [(10 + number // 90, 10 + number % 90) for number in numbers]
    return every[n_held_out:], every[:n_held_out]


def prompt_of(one: Sum) -> str:
    """Like "37+58="."""
    return f"{one[0]}+{one[1]}="


def answer_of(one: Sum) -> str:
    """Like "95"."""
    return str(one[0] + one[1])


def rows_of(sums: Sequence[Sum]) -> list[dict[str, str]]:
    """Prompts with their answers as trainers take them: ``completion`` for SFT, ``answer`` for rewards."""
    return [{"prompt": prompt_of(one), "completion": answer_of(one), "answer": answer_of(one)} for one in sums]


def make_tokenizer() -> Any:
    """A token a character."""
    return character_tokenizer(CHARACTERS)


def make_policy(seed: int, width: int = WIDTH, layers: int = LAYERS) -> Any:
    """A random Llama for these characters."""
    return small_llama(seed, len(CHARACTERS), width, layers, spread=0.05)


def is_right(completions: Sequence[str], answer: Sequence[str], **_: Any) -> list[float]:
    """The reward: 1 for exactly the answer, else 0."""
    return [float(completion == right) for completion, right in zip(completions, answer, strict=True)]


def shuffled(reward: Callable[..., list[float]], seed: int) -> Callable[..., list[float]]:
    """The same rewards handed to other completions of the batch: as many, but for nothing."""
    draw = np.random.default_rng([seed, *b"shuffled"])

    def reward_of_another(**batch: Any) -> list[float]:
        return draw.permutation(reward(**batch)).tolist()

    return reward_of_another


def rightness(
    model: nn.Module, sums: Sequence[Sum], temperature: float = 0.0, samples: int = 1, seed: int = 0
) -> np.ndarray:
    """Which answers are right: (sums, samples), greedy at temperature 0."""
    tokenizer = make_tokenizer()
    prompts = [tokenizer(prompt_of(one))["input_ids"] for one in sums for _ in range(samples)]
    drawn = sample(
        model,
        prompts,
        pad_id=PAD,
        stop_ids=[EOS],
        max_new_tokens=LONGEST_ANSWER,
        temperature=temperature,
        seed=seed,
        batch_size=SAMPLED_AT_ONCE,
    )
    answers = [answer_of(one) for one in sums for _ in range(samples)]
    return np.array([_says(tokenizer, one, right) for one, right in zip(drawn, answers, strict=True)]).reshape(
        -1, samples
    )


def _says(tokenizer: Any, drawn: Completion, answer: str) -> bool:
    return drawn.finished and tokenizer.decode(drawn.tokens, skip_special_tokens=True) == answer
