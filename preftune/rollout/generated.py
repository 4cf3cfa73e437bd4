"""Completions by transformers' generate, for models whose cache or attention is not ours to replace.

It runs the model; which token comes next, and when a completion ends, is decided as on the other path.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, StoppingCriteria

from preftune.models.layout import Tokens
from preftune.rollout.batching import Choose, Request
from preftune.rollout.growing import Growing


def grow_by_generate(
    inner: Any,
    requests: Sequence[Request],
    rows_at_once: int,
    choose: Choose,
    pad_id: int,
    progress: Callable[[int], object] | None = None,
) -> None:
    """Lets every completion grow until it has ended, ``rows_at_once`` after ``rows_at_once``, in this order."""
    rows = [(request.prompt, growing) for request in requests for growing in request.completions]
    for begin in range(0, len(rows), rows_at_once):
        prompts, growing = zip(*rows[begin : begin + rows_at_once], strict=True)
        _generate(inner, prompts, growing, choose, pad_id)
        if progress is not None:
            progress(len(growing))


def _generate(inner: Any, prompts: Sequence[Tokens], growing: Sequence[Growing], choose: Choose, pad_id: int) -> None:
    width = max(len(prompt) for prompt in prompts)
    ids = torch.full((len(prompts), width), pad_id)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    settings = GenerationConfig(
        max_new_tokens=max(one.limit for one in growing), do_sample=False, pad_token_id=pad_id, eos_token_id=None
    )
    # The settings a model was saved with would fill in what ours leave open.
    before, inner.generation_config = inner.generation_config, settings
    try:
        inner.generate(
            input_ids=ids.to(inner.device),
            attention_mask=mask.to(inner.device),
            generation_config=settings,
            logits_processor=[_Chosen(growing, choose)],
            stopping_criteria=[_AllEnded(growing)],
        )
    finally:
        inner.generation_config = before


class _Chosen(LogitsProcessor):
    """Chooses each row's next token; generate, which takes the likeliest, is left no other."""

    def __init__(self, growing: Sequence[Growing], choose: Choose) -> None:
        self._growing, self._choose = growing, choose

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        going = [row for row, one in enumerate(self._growing) if not one.has_ended]
        forced = torch.full_like(scores, float("-inf"))
        forced[:, 0] = 0.0  # what follows the end of a row is read by nobody
        tokens, log_probs = self._choose(scores[going], [self._growing[row] for row in going])
        forced[going, 0] = float("-inf")
        forced[going, tokens] = 0.0
        for row, token, log_prob in zip(going, tokens.tolist(), log_probs.tolist(), strict=True):
            self._growing[row].add(token, log_prob)
        return forced


class _AllEnded(StoppingCriteria):
    """Ends when no row takes another token."""

    def __init__(self, growing: Sequence[Growing]) -> None:
        self._growing = growing

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Any:
        return torch.tensor([one.has_ended for one in self._growing], device=input_ids.device)
