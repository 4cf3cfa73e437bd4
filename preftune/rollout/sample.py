"""Answers from a model, one a prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from preftune.models.paths import causal_model
from preftune.rollout.engine import ROWS, open_sampler
from preftune.rollout.protocol import Sampling


@dataclass(frozen=True)
class Completion:
    """An answer as token ids, its EOS included where it ``finished`` by itself."""

    prompt: list[int]
    tokens: list[int]
    finished: bool


def sample(
    model: nn.Module,
    prompts: Sequence[list[int]],
    *,
    pad_id: int,
    stop_ids: Sequence[int],
    max_new_tokens: int,
    temperature: float = 1.0,
    seed: int = 0,
    batch_size: int = ROWS,
    progress: Callable[[int], object] | None = None,
) -> list[Completion]:
    """One completion a prompt, in their order; temperature 0 is greedy, else the whole distribution is drawn from.

    Other settings the model came with (top-p, penalties) are not applied: they would bend the distribution that
    log-probs speak of. Draws depend on ``seed`` and leave the caller's generators as they were.
    """
    sampler = open_sampler(model, None, stop_ids=stop_ids, rows=batch_size, pad_id=pad_id)
    drawn = sampler.sample(prompts, 1, Sampling(max_new_tokens, temperature), seed, progress)
    return [Completion(prompt, one.tokens, one.finished) for prompt, (one,) in zip(prompts, drawn, strict=True)]


def padding_and_stops(model: nn.Module, tokenizer: Any) -> dict[str, Any]:
    """``pad_id`` and ``stop_ids`` for ``sample``; a tokenizer without padding pads with the first token that stops."""
    stop_ids = stop_token_ids(model, tokenizer)
    pad = tokenizer.pad_token_id
    return {"pad_id": stop_ids[0] if pad is None else pad, "stop_ids": stop_ids}


def stop_token_ids(model: nn.Module, tokenizer: Any) -> list[int]:
    """Every token that ends an answer, by the model's generation settings and the tokenizer."""
    named = getattr(getattr(causal_model(model), "generation_config", None), "eos_token_id", None)
    ids = named if isinstance(named, list) else [named]
    return sorted({i for i in [*ids, tokenizer.eos_token_id] if i is not None})
