"""What every sampler takes and gives, so that training does not know which one draws its completions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True)
class Sampling:
    """How completions are drawn; the defaults draw from the model's own distribution.

    ``temperature`` 0 is greedy. ``top_k`` 0, ``top_p`` 1 and ``min_p`` 0 leave the distribution whole. A completion
    ends with a stop token, after the token that completes one of the strings ``stop``, or at ``max_new_tokens``.
    """

    max_new_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Drawn:
    """A completion as it was drawn: its tokens, the one it stopped at included.

    ``log_probs`` are those of the distribution that was drawn from, temperature and truncation applied, in nats,
    float32; greedy ones are of temperature 1. ``finished`` is False where ``max_new_tokens`` cut it.
    """

    tokens: list[int]
    log_probs: Float[np.ndarray, "tokens"]
    finished: bool


class Sampler(Protocol):
    """Draws completions of token prompts."""

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        n: int,
        sampling: Sampling,
        seed: int,
        progress: Callable[[int], object] | None = None,
    ) -> list[list[Drawn]]:
        """``n`` completions of each prompt, in the order of the prompts.

        Draws depend on ``seed``, the place of the prompt and the number of the completion, not on what else is
        drawn beside them, and leave the caller's generators as they were. ``progress`` is told how many are done.
        """
        ...

    def sync(self) -> None:
        """Takes over the policy's weights as they are now; nothing to do where they are shared."""
        ...
