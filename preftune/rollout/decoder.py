"""A causal model as a decoder: prompts in once, then one token a row and step, and the logits of what comes next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from preftune.models.head import Head
from preftune.models.layout import Group, Tokens, lay_out
from preftune.rollout.attending import Company, Decode, Pass, Prefill
from preftune.rollout.cache import KeyValueCache

# Tokens of prompts in one pass: more are not faster, and take memory.
PREFILL_TOKENS = 2048


class Decoder:
    """Runs ``inner`` over ``cache``; its attention has to be the one of ``attending``."""

    def __init__(self, inner: Any, head: Head, cache: KeyValueCache) -> None:
        self._inner, self._head, self.cache = inner, head, cache
        self._prompt_lengths: list[int] = []
        self._prompt_of_row: list[int] = []
        self._company: Company | None = None

    def prefill(self, prompts: Sequence[Tokens]) -> Float[Tensor, "prompts width"]:
        """Puts prompts into the next free slots; the hidden state that predicts what follows each of them."""
        found = []
        for some in _portions(prompts):
            slots = range(len(self._prompt_lengths), len(self._prompt_lengths) + len(some))
            # A completion of one token is no input: the segment is the prompt.
            layout = lay_out([Group(tokens, ([0],)) for tokens in some], share_prompt=True, pad_to_rows=False)
            prefill = Prefill(self.cache, layout, slots, self._like())
            hidden = self._run(layout.input_ids, layout.position_ids, prefill)
            found.append(hidden[layout.predicted_from.to(hidden.device)])
            self._prompt_lengths += [len(tokens) for tokens in some]
        return torch.cat(found)

    def step(
        self, tokens: Sequence[int], lengths: Sequence[int], prompt_of_row: Sequence[int]
    ) -> Float[Tensor, "rows width"]:
        """Takes a token a row, of which the cache has ``lengths`` so far; the hidden states that predict the next.

        ``prompt_of_row`` is the slot of each row's prompt.
        """
        if self._company is None or self._prompt_of_row != prompt_of_row:
            self._prompt_of_row = list(prompt_of_row)
            self._company = Company(prompt_of_row, self._inner.device)
        own = torch.tensor(lengths)
        prompt_lengths = torch.tensor([self._prompt_lengths[slot] for slot in prompt_of_row])
        decode = Decode(self.cache, self._company, prompt_lengths, own, self._like())
        return self._run(torch.tensor([tokens]), (prompt_lengths + own)[None], decode)

    def logits(self, hidden: Float[Tensor, "rows width"]) -> Float[Tensor, "rows vocab"]:
        """In the model's dtype, scaled and capped as the model does it."""
        head = self._head
        logits = head.module(hidden.to(head.module.weight.dtype))
        if head.scale == 1.0 and head.softcap is None:
            return logits
        logits = logits.float() * head.scale
        return logits if head.softcap is None else torch.tanh(logits / head.softcap) * head.softcap

    def drop_prompt(self, slot: int) -> None:
        """Frees the slot of a prompt that no row needs; the last one moves there."""
        last = len(self._prompt_lengths) - 1
        length = self._prompt_lengths.pop()
        if slot != last:
            self.cache.move_prompt(last, slot, length)
            self._prompt_lengths[slot] = length

    def _like(self) -> Tensor:
        return torch.empty(0, dtype=self._inner.dtype, device=self._inner.device)

    def _run(self, ids: Tensor, positions: Tensor, rollout: Pass) -> Float[Tensor, "tokens width"]:
        device = self._inner.device
        outputs = self._inner.base_model(
            input_ids=ids.to(device),
            position_ids=positions.to(device),
            # A ready 4-D mask keeps transformers from building one; the pass says what is seen.
            attention_mask=torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device),
            use_cache=False,
            rollout=rollout,
        )
        return outputs.last_hidden_state[0]


def _portions(prompts: Sequence[Tokens]) -> list[list[Tokens]]:
    portions: list[list[Tokens]] = []
    room = 0
    for tokens in prompts:
        if len(tokens) > room:
            portions.append([])
            room = max(PREFILL_TOKENS, len(tokens))
        portions[-1].append(tokens)
        room -= len(tokens)
    return portions
