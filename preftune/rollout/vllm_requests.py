"""What vLLM is asked for and what it answers, alike in this process and behind a server."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from preftune.errors import PreftuneError
from preftune.rollout.protocol import Drawn, Sampling

Weights = Iterable[tuple[str, Tensor]]


@dataclass(frozen=True)
class Request:
    """``n`` completions of a prompt; the completion with number i is drawn from ``seed`` + i."""

    prompt: list[int]
    n: int
    seed: int
    max_tokens: int

    def fields(self, sampling: Sampling, stop_ids: Sequence[int]) -> dict[str, Any]:
        """Every setting that bends what is drawn, said: left out, a model's own generation settings would hold.

        Names are those of ``SamplingParams`` and of the server's /v1/completions, which are the same.
        """
        return {
            "n": self.n,
            "seed": self.seed,
            "max_tokens": self.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
            "min_p": sampling.min_p,
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "stop": list(sampling.stop),
            "stop_token_ids": list(stop_ids),
            "ignore_eos": True,  # those that end a completion are the stop tokens, and no others
            "skip_special_tokens": False,  # a stop string may name one
            "logprobs": 0,  # of the token drawn alone
        }


class Engine(Protocol):
    """vLLM, wherever it runs."""

    @property
    def longest(self) -> int:
        """Most tokens of a prompt with its completion."""
        ...

    @property
    def is_on_cpu(self) -> bool:
        """Whether it computes on a CPU."""
        ...

    @property
    def starts_with_weights(self) -> bool:
        """Whether it was opened on a checkpoint's weights, not on none."""
        ...

    @property
    def lacks_weights(self) -> bool:
        """Whether it has given its weights up since they were loaded, so that it cannot draw."""
        ...

    def complete(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        stop_ids: Sequence[int],
        progress: Callable[[int], object] | None,
    ) -> list[list[Drawn]]:
        """The completions of each request."""
        ...

    def load(self, weights: Weights) -> None:
        """Takes over ``weights``, by their names in a checkpoint, and forgets what was computed with others."""
        ...


def requests_for(
    prompts: Sequence[Sequence[int]], n: int, sampling: Sampling, seed: int, longest: int
) -> list[Request]:
    """One request a prompt, each with seeds of its own.

    Raises ``PreftuneError`` for a prompt that is empty or leaves no room for a token of completion.
    """
    for number, prompt in enumerate(prompts):
        if not len(prompt):
            raise PreftuneError(
                "The prompt has no tokens.", where=f"prompt {number}", mend="Begin prompts with a BOS token."
            )
        if len(prompt) >= longest:
            raise PreftuneError(
                f"The prompt has {len(prompt)} tokens, and vLLM takes {longest}, completion included.",
                where=f"prompt {number}",
                mend="Leave long prompts out (max_length), or raise vllm_max_model_length or --max-model-len.",
            )
    room = [min(sampling.max_new_tokens, longest - len(prompt)) for prompt in prompts]
    return [
        Request(list(prompt), n, _seed(seed, number), most)
        for number, (prompt, most) in enumerate(zip(prompts, room, strict=True))
    ]


def drawn(
    tokens: Sequence[int], log_probs: Sequence[float | None], reason: str | None, stop_ids: Collection[int], where: str
) -> Drawn:
    """A completion as the protocol has it; ``PreftuneError`` where vLLM broke it off or said half of it."""
    if reason not in ("stop", "length") or not tokens:
        raise PreftuneError(
            f"vLLM broke a completion off after {len(tokens)} tokens ({reason}).",
            where=where,
            mend="Its own log says why.",
        )
    if len(tokens) != len(log_probs) or None in log_probs:
        raise PreftuneError(
            f"vLLM gave {len(log_probs)} log-probs of {len(tokens)} tokens.",
            where=where,
            mend="Use vLLM 0.32 or newer.",
        )
    finished = reason == "stop" or tokens[-1] in stop_ids
    return Drawn(list(tokens), np.asarray(log_probs, dtype=np.float32), finished)


def _seed(seed: int, prompt: int) -> int:
    """62 bits far from every other prompt's.

    vLLM counts up from a request's seed for its completions: seeds next to each other would draw the same tokens
    for neighbouring prompts.
    """
    words = np.random.SeedSequence([seed % 2**64, prompt]).generate_state(1, np.uint64)
    return int(words[0] >> np.uint64(2))
