"""Continuous batching: a row that has ended makes room for the next at once, and nobody waits for the longest."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from torch import Tensor

from preftune.models.layout import Tokens
from preftune.rollout.decoder import Decoder
from preftune.rollout.growing import Growing

# The next token of each completion, and its log-prob, from a row of logits each.
Choose: TypeAlias = Callable[[Tensor, Sequence[Growing]], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Request:
    """A prompt and the completions to be drawn of it."""

    prompt: Tokens
    completions: Sequence[Growing]


@dataclass
class _Prompt:
    """A prompt in the cache: its slot, the hidden state that its completions begin with, those still to begin."""

    slot: int
    hidden: Tensor
    waiting: deque[Growing]
    running: int = 0


@dataclass(frozen=True)
class _Row:
    prompt: _Prompt
    growing: Growing


@dataclass
class _Batch:
    """Rows and prompts in the order of their slots."""

    rows: list[_Row] = field(default_factory=list)
    prompts: list[_Prompt] = field(default_factory=list)


def grow_all(
    decoder: Decoder,
    requests: Sequence[Request],
    rows_at_once: int,
    choose: Choose,
    progress: Callable[[int], object] | None = None,
) -> None:
    """Lets every completion grow until it has ended, at most ``rows_at_once`` beside each other, in this order."""
    requests = [request for request in requests if request.completions]
    if not requests:
        return
    decoder.cache.make_room(
        prompts=min(len(requests), rows_at_once),
        prompt_tokens=max(len(request.prompt) for request in requests),
        rows=min(sum(len(request.completions) for request in requests), rows_at_once),
    )
    waiting, batch = deque(requests), _Batch()
    hidden: list[Tensor] = []
    while waiting or batch.rows or any(prompt.waiting for prompt in batch.prompts):
        hidden += _begin(decoder, batch, waiting, rows_at_once)
        tokens, log_probs = choose(decoder.logits(torch.cat(hidden)), [row.growing for row in batch.rows])
        ended = [
            place
            for place, (row, token, log_prob) in enumerate(
                zip(batch.rows, tokens.tolist(), log_probs.tolist(), strict=True)
            )
            if row.growing.add(token, log_prob)
        ]
        _remove(decoder, batch, ended)
        if ended and progress is not None:
            progress(len(ended))
        hidden = [_step(decoder, batch.rows)] if batch.rows else []


def _begin(decoder: Decoder, batch: _Batch, waiting: deque[Request], rows_at_once: int) -> list[Tensor]:
    """Fills the free rows; the hidden states that these begin with."""
    free = rows_at_once - len(batch.rows)
    free -= sum(len(prompt.waiting) for prompt in batch.prompts)
    requests: list[Request] = []
    while waiting and free > 0:
        requests.append(waiting.popleft())
        free -= len(requests[-1].completions)
    if requests:
        states = decoder.prefill([request.prompt for request in requests])
        for request, state in zip(requests, states, strict=True):
            batch.prompts.append(_Prompt(len(batch.prompts), state[None], deque(request.completions)))
    hidden = []
    for prompt in batch.prompts:
        while prompt.waiting and len(batch.rows) < rows_at_once:
            batch.rows.append(_Row(prompt, prompt.waiting.popleft()))
            prompt.running += 1
            hidden.append(prompt.hidden)
    return hidden


def _remove(decoder: Decoder, batch: _Batch, ended: Sequence[int]) -> None:
    """The last row takes the place of one that has ended; so do prompts."""
    for place in reversed(ended):
        batch.rows[place].prompt.running -= 1
        last = batch.rows.pop()
        if place < len(batch.rows):
            decoder.cache.move_row(len(batch.rows), place, len(last.growing.tokens) - 1)
            batch.rows[place] = last
    for prompt in reversed(list(batch.prompts)):
        if not prompt.running and not prompt.waiting:
            decoder.drop_prompt(prompt.slot)
            last_prompt = batch.prompts.pop()
            if last_prompt is not prompt:
                last_prompt.slot = prompt.slot
                batch.prompts[prompt.slot] = last_prompt


def _step(decoder: Decoder, rows: Sequence[_Row]) -> Tensor:
    return decoder.step(
        [row.growing.tokens[-1] for row in rows],
        [len(row.growing.tokens) - 1 for row in rows],
        [row.prompt.slot for row in rows],
    )
