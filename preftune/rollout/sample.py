"""Answers from a model, by transformers' generate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from preftune.models.logprobs import causal_model


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
    batch_size: int = 16,
    progress: Callable[[int], object] | None = None,
) -> list[Completion]:
    """One completion a prompt, in their order; temperature 0 is greedy, else the whole distribution is drawn from.

    Other settings the model came with (top-p, penalties) are not applied: they would bend the distribution that
    log-probs speak of. Draws depend on ``seed`` and leave the caller's generators as they were.
    """
    from transformers import GenerationConfig

    settings = GenerationConfig(
        max_new_tokens=max_new_tokens,
        pad_token_id=pad_id,
        eos_token_id=list(stop_ids),
        do_sample=temperature > 0,
        **({"temperature": temperature, "top_k": 0, "top_p": 1.0} if temperature > 0 else {}),
    )
    was_training = model.training
    model.eval()
    order = sorted(range(len(prompts)), key=lambda i: (-len(prompts[i]), i))
    completions: dict[int, Completion] = {}
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            for begin in range(0, len(order), batch_size):
                batch = order[begin : begin + batch_size]
                outputs = _generate(model, [prompts[i] for i in batch], pad_id, settings)
                for i, tokens in zip(batch, outputs, strict=True):
                    completions[i] = _cut(prompts[i], tokens, set(stop_ids))
                if progress is not None:
                    progress(len(batch))
    finally:
        model.train(was_training)
    return [completions[i] for i in range(len(prompts))]


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


@torch.no_grad()
def _generate(model: nn.Module, prompts: list[list[int]], pad_id: int, settings: Any) -> list[list[int]]:
    width = max(len(prompt) for prompt in prompts)
    device = next(model.parameters()).device
    ids = torch.full((len(prompts), width), pad_id)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    # Adapters stay in effect inside; the settings a model was saved with would fill in what ours leave open.
    inner: Any = causal_model(model)
    before, inner.generation_config = inner.generation_config, settings
    try:
        out = inner.generate(input_ids=ids.to(device), attention_mask=mask.to(device), generation_config=settings)
    finally:
        inner.generation_config = before
    return out[:, width:].tolist()


def _cut(prompt: list[int], tokens: list[int], stops: set[int]) -> Completion:
    for number, token in enumerate(tokens):
        if token in stops:
            return Completion(prompt, tokens[: number + 1], finished=True)
    return Completion(prompt, tokens, finished=False)
