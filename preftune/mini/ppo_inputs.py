"""What PPO of a small model is given, checked before and while it trains."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

from torch import nn

from preftune.errors import PreftuneError
from preftune.mini.model import MiniGPT, RewardModel
from preftune.mini.tokenizer import encode

SHOWN = 40  # characters of a prompt in a message


def read_prompts(prompts: Sequence[str]) -> list[str]:
    """The prompts, which must be texts. Raises ``PreftuneError`` for none, and at the first that is none."""
    if isinstance(prompts, str):
        raise PreftuneError("This is one prompt, not a list of prompts.", where="prompts", mend="Use [prompt].")
    found = list(prompts)
    if not found:
        raise PreftuneError(
            "There is nothing to answer: the list is empty.", where="prompts", mend="Give some prompts."
        )
    for number, prompt in enumerate(found, start=1):
        if not isinstance(prompt, str):
            raise PreftuneError(
                f"The prompt is of type {type(prompt).__name__}.",
                where=f"prompt {number}",
                mend="Give it as text, such as row['prompt'] of a pair.",
            )
    return found


def read_rewards(given: Any, prompts: Sequence[str]) -> list[float]:
    """A finite number for each prompt. Raises ``PreftuneError`` for another number of them, and at the first amiss."""
    try:
        found = list(given)
    except TypeError:
        raise PreftuneError(
            f"The reward gave one {type(given).__name__}, not a list.",
            where="reward",
            mend="Let it return a list with a number for each answer.",
        ) from None
    if len(found) != len(prompts):
        raise PreftuneError(
            f"The reward gave {len(found)} numbers for {len(prompts)} answers.",
            where="reward",
            mend="Let it return a number for each answer, in their order.",
        )
    return [
        _number(value, number, prompt) for number, (value, prompt) in enumerate(zip(found, prompts, strict=True), 1)
    ]


def check_trainable(policy: nn.Module) -> None:
    """Raises ``PreftuneError`` for a policy that is frozen: beside it the value model would still learn."""
    if not any(parameter.requires_grad for parameter in policy.parameters()):
        raise PreftuneError("The policy has no weights to train.", mend="Call policy.requires_grad_(True) first.")


def check_room(
    policy: MiniGPT, others: Sequence[MiniGPT | RewardModel], prompts: Sequence[str], max_new_tokens: int
) -> None:
    """Warns of prompts that will lose their beginning; raises ``PreftuneError`` where a model cannot hold the rest."""
    lengths = [len(encode(prompt)) + 1 + max_new_tokens for prompt in prompts]
    cut = sum(length > policy.max_seq_len for length in lengths)
    needed = min(max(lengths), policy.max_seq_len)
    least = min(other.max_seq_len for other in others)
    if needed > least:
        raise PreftuneError(
            f"Prompts with answers are up to {needed} tokens long, and a model beside the policy has room for {least}.",
            where="max_seq_len",
            mend="Build all models with the same max_seq_len, or lower max_new_tokens.",
        )
    if cut:
        warnings.warn(
            f"{cut} of {len(prompts)} prompts leave no room for {max_new_tokens} new tokens within "
            f"max_seq_len={policy.max_seq_len} and lose their beginning.",
            stacklevel=3,
        )


def _number(value: Any, number: int, prompt: str) -> float:
    try:
        found = float(value)
    except (TypeError, ValueError):
        found = math.nan
    if math.isfinite(found):
        return found
    raise PreftuneError(
        f"The reward of the answer to {prompt[:SHOWN]!r} is {value!r}.",
        where=f"prompt {number}",
        mend="Let the reward give a finite number for every answer, an empty one too.",
    )
