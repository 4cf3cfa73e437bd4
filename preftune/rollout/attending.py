"""The attention of a model that draws completions: prompts are stored as they pass, then one new token a row.

Registered with transformers under one name, so that its own model code runs unchanged. All tokens of a pass lie in
one row of the model's batch; which of them see each other is known here only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from preftune.models.attention import SegmentMasks, segment_attention
from preftune.models.layout import Layout
from preftune.rollout.cache import KeyValueCache

NAME = "preftune_rollout"


class Pass(Protocol):
    """A pass through the model, as its attention sees it."""

    def attend(self, module: Any, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """(1, heads, tokens, width) to (1, tokens, heads, width); keys and values are stored."""
        ...


def register() -> None:
    """Makes the attention known to transformers under ``NAME``."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    AttentionInterface.register(NAME, rollout_attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)


def rollout_attention(
    module: nn.Module,
    query: Float[Tensor, "1 heads tokens width"],
    key: Float[Tensor, "1 groups tokens width"],
    value: Float[Tensor, "1 groups tokens width"],
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    rollout: Pass | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface. Raises ``NotImplementedError`` for variants that it does not compute."""
    if rollout is None:
        raise NotImplementedError("the layers keep arguments from their attention")
    if sliding_window is not None:
        raise NotImplementedError("sliding windows")
    if softcap is not None or s_aux is not None or kwargs.get("position_bias") is not None:
        raise NotImplementedError("score capping, attention sinks or position biases")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return rollout.attend(module, query, key, value, scale), None


class Prefill:
    """Prompts end to end, each into its slot of the cache."""

    def __init__(self, cache: KeyValueCache, layout: Layout, slots: Sequence[int], like: Tensor) -> None:
        self._cache, self._slots, self._segments = cache, slots, layout.segments
        self._masks = SegmentMasks(layout, like.dtype, like.device)

    def attend(self, module: Any, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        layer = self._cache.layer(module.layer_idx, key, value)
        for segment, slot in zip(self._segments, self._slots, strict=True):
            groups = slice(slot * layer.groups, (slot + 1) * layer.groups)
            layer.prompt_keys[groups, : segment.length] = key[0, :, segment.start : segment.stop]
            layer.prompt_values[groups, : segment.length] = value[0, :, segment.start : segment.stop]
        return segment_attention(module, query, key, value, None, scale, segments=self._masks)[0]


@dataclass(frozen=True)
class Index:
    """For layers with so many groups of keys, which group of which row lies at each place, and the other way round.

    Places are in the order of prompts, groups, rows of the prompt; where a place is empty the first row stands in.
    """

    own: Int[Tensor, "rows*groups"]
    row_at: Int[Tensor, "prompts*groups*places"]
    place_of: Int[Tensor, "rows*groups"]


class Company:
    """Which rows share a prompt, told by its slot: every prompt has as many places as the largest of them needs."""

    def __init__(self, prompt_of_row: Sequence[int], device: torch.device) -> None:
        members: list[list[int]] = [[] for _ in range(max(prompt_of_row) + 1)]
        for row, slot in enumerate(prompt_of_row):
            members[slot].append(row)
        self.prompts, self._rows, self._device = len(members), len(prompt_of_row), device
        self._members = members
        self._by_groups: dict[int, Index] = {}

    def index(self, groups: int) -> Index:
        """Made once for each number of groups."""
        if groups not in self._by_groups:
            self._by_groups[groups] = self._index(groups)
        return self._by_groups[groups]

    def _index(self, groups: int) -> Index:
        places = max(map(len, self._members))
        row_at, place_of = [], [0] * (self._rows * groups)
        for rows in self._members:
            for group in range(groups):
                for row in rows:
                    place_of[row * groups + group] = len(row_at)
                    row_at.append(row * groups + group)
                row_at += [0] * (places - len(rows))
        own = torch.arange(self._rows * groups)
        return Index(*(index.to(self._device) for index in (own, torch.tensor(row_at), torch.tensor(place_of))))


class Decode:
    """One new token a row, which sees its prompt and what its row has drawn before.

    The prompt's keys are multiplied with all of its rows at once; they are neither copied nor read once a row.
    """

    def __init__(
        self,
        cache: KeyValueCache,
        company: Company,
        prompt_lengths: Int[Tensor, "rows"],
        lengths: Int[Tensor, "rows"],
        like: Tensor,
    ) -> None:
        self._cache, self._company = cache, company
        self._seen, self._prompt_seen = int(lengths.max()) + 1, int(prompt_lengths.max())
        seen = [_is_within(prompt_lengths, self._prompt_seen), _is_within(lengths + 1, self._seen)]
        bias = torch.zeros(len(lengths), self._prompt_seen + self._seen)
        bias.masked_fill_(~torch.cat(seen, 1), float("-inf"))
        self._bias = bias.to(like)[:, None]  # rows, 1, tokens of the prompt and the row's own
        self._lengths = lengths.to(like.device)
        self._next_by_groups: dict[int, Tensor] = {}
        cache.make_room_for_tokens(self._seen)

    def attend(self, module: Any, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        _, heads, rows, width = query.shape
        groups = key.shape[1]
        places, shared_places = rows * groups, self._company.prompts * groups
        seen, prompt_seen, index = self._seen, self._prompt_seen, self._company.index(groups)
        layer = self._cache.layer(module.layer_idx, key, value)
        layer.keys[index.own, self._next(groups)] = key[0].transpose(0, 1).reshape(places, -1)
        layer.values[index.own, self._next(groups)] = value[0].transpose(0, 1).reshape(places, -1)

        queries = (query[0].transpose(0, 1) * scale).reshape(places, -1)  # heads of a group are neighbours
        shared = queries.index_select(0, index.row_at).view(shared_places, -1, width)
        prompt_scores = _back(torch.bmm(shared, layer.prompt_keys[:shared_places, :prompt_seen].transpose(1, 2)), index)
        # The long side first: two or three times as fast as with the few queries of a group as rows.
        own_scores = torch.bmm(layer.keys[:places, :seen], queries.view(places, -1, width).transpose(1, 2))
        scores = torch.cat([prompt_scores.view(places, -1, prompt_seen), own_scores.transpose(1, 2)], -1)
        weights = scores.view(rows, heads, -1).add_(self._bias).softmax(-1).view_as(scores)

        on_prompt = weights[:, :, :prompt_seen].flatten(1).index_select(0, index.row_at)
        of_prompt = torch.bmm(
            on_prompt.view(shared_places, -1, prompt_seen), layer.prompt_values[:shared_places, :prompt_seen]
        )
        output = torch.bmm(weights[:, :, prompt_seen:], layer.values[:places, :seen])
        return output.view(places, -1).add_(_back(of_prompt, index)).view(1, rows, heads, -1)

    def _next(self, groups: int) -> Int[Tensor, "rows*groups"]:
        """Where the new tokens go."""
        if groups not in self._next_by_groups:
            self._next_by_groups[groups] = self._lengths.repeat_interleave(groups)
        return self._next_by_groups[groups]


def _back(by_place: Tensor, index: Index) -> Tensor:
    """From prompts * groups of places to rows * groups."""
    return by_place.view(len(index.row_at), -1).index_select(0, index.place_of)


def _is_within(lengths: Tensor, width: int) -> Tensor:
    return torch.arange(width) < lengths[:, None]
