"""Where each token of a batch lies: rows, positions, segments, and which hidden state predicts which token.

A *group* is a prompt with its completions (two for a preference pair). Shared, it becomes one segment
``[prompt | completion 1 | completion 2 ...]`` in which every completion sees the prompt and itself only, at
the positions it would have alone; so the prompt is computed once. A completion's last token is predicted but
predicts nothing, and is therefore no input; where sequences are scored it is the one that is read, and is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from preftune.errors import PreftuneError

Tokens = Sequence[int]


@dataclass(frozen=True)
class Group:
    """A prompt and the completions that continue it, as token ids."""

    prompt: Tokens
    completions: tuple[Tokens, ...]

    @property
    def input_length(self) -> int:
        """Positions the group takes when its completions share the prompt."""
        return len(self.prompt) + sum(len(completion) - 1 for completion in self.completions)


@dataclass(frozen=True)
class Segment:
    """A stretch of one row whose tokens see nothing outside it."""

    row: int
    start: int
    prompt: int
    completions: tuple[int, ...]

    @property
    def length(self) -> int:
        return self.prompt + sum(self.completions)

    @property
    def stop(self) -> int:
        return self.start + self.length

    def sees(self) -> Bool[Tensor, "queries keys"]:
        """Which key each query may look at: causal, and no completion sees another."""
        allowed = torch.ones(self.length, self.length, dtype=torch.bool).tril_()
        begin = self.prompt
        for length in self.completions:
            allowed[begin + length :, begin : begin + length] = False
            begin += length
        return allowed


@dataclass(frozen=True)
class Layout:
    """A batch of groups as tensors.

    ``input_ids`` and ``position_ids`` are (rows, tokens); ``predicted_from`` holds, for each completion token
    of each sequence in order, the flat index of the hidden state that predicts it; ``targets`` is that token,
    ``sequence`` the sequence it belongs to (group by group, completion by completion). ``last`` is the flat index
    of each sequence's last token that is an input.
    """

    input_ids: Int[Tensor, "rows tokens"]
    position_ids: Int[Tensor, "rows tokens"]
    segments: tuple[Segment, ...]
    predicted_from: Int[Tensor, "targets"]
    targets: Int[Tensor, "targets"]
    sequence: Int[Tensor, "targets"]
    last: Int[Tensor, "sequences"]
    n_sequences: int

    def attention_mask(self) -> Int[Tensor, "rows tokens"]:
        """One where a token is real, zero where it pads."""
        mask = torch.zeros_like(self.input_ids)
        for segment in self.segments:
            mask[segment.row, segment.start : segment.stop] = 1
        return mask

    def attention_mask_4d(self) -> Bool[Tensor, "rows 1 tokens tokens"]:
        """Which tokens each token sees; padding sees itself, so that no softmax is over nothing."""
        rows, width = self.input_ids.shape
        mask = torch.eye(width, dtype=torch.bool).repeat(rows, 1, 1)
        for segment in self.segments:
            inside = slice(segment.start, segment.stop)
            mask[segment.row, inside, inside] = segment.sees()
        return mask[:, None]


def lay_out(
    groups: Sequence[Group], *, share_prompt: bool, pad_to_rows: bool, pad_id: int = 0, keep_last: bool = False
) -> Layout:
    """The layout of ``groups``: prompts shared or repeated, rows padded or packed end to end into one.

    ``keep_last`` makes the completions' last tokens inputs too. Raises ``PreftuneError`` for a prompt or completion
    without tokens: without the one nothing predicts the completion's first token, without the other there is
    nothing to predict.
    """
    _refuse_empty(groups)
    dropped = 0 if keep_last else 1
    pieces: list[list[int]] = []
    positions: list[list[int]] = []
    shapes: list[tuple[int, tuple[int, ...]]] = []
    # Per piece, of each completion: the index of its first token in the piece, and its length.
    offsets: list[list[tuple[int, int]]] = []
    for group in groups:
        branches = (group.completions,) if share_prompt else tuple((one,) for one in group.completions)
        for completions in branches:
            ids, position, where = list(group.prompt), list(range(len(group.prompt))), []
            for completion in completions:
                where.append((len(ids), len(completion)))
                ids += completion[: len(completion) - dropped]
                position += range(len(group.prompt), len(group.prompt) + len(completion) - dropped)
            pieces.append(ids)
            positions.append(position)
            shapes.append((len(group.prompt), tuple(length - dropped for _, length in where)))
            offsets.append(where)
    rows, starts, width = _place(pieces, pad_to_rows)
    segments = tuple(
        Segment(row, start, prompt, completions)
        for row, start, (prompt, completions) in zip(rows, starts, shapes, strict=True)
    )
    predicted_from: list[int] = []
    last: list[int] = []
    for segment, where in zip(segments, offsets, strict=True):
        base = segment.row * width + segment.start
        for first, length in where:
            predicted_from.append(base + segment.prompt - 1)
            predicted_from += range(base + first, base + first + length - 1)
            last.append(base + first + length - 1 if keep_last else predicted_from[-1])
    sequences = [completion for group in groups for completion in group.completions]
    return Layout(
        input_ids=_fill(pieces, segments, width, pad_id),
        position_ids=_fill(positions, segments, width, 0),
        segments=segments,
        predicted_from=torch.tensor(predicted_from),
        targets=torch.tensor([token for completion in sequences for token in completion]),
        sequence=torch.repeat_interleave(torch.tensor([len(completion) for completion in sequences])),
        last=torch.tensor(last),
        n_sequences=len(sequences),
    )


def _refuse_empty(groups: Sequence[Group]) -> None:
    for index, group in enumerate(groups):
        if not (len(group.prompt) and group.completions and all(len(one) for one in group.completions)):
            raise PreftuneError(
                "The prompt or a completion has no tokens.",
                where=f"group {index} of the batch",
                mend="Leave such rows out, or begin prompts with a BOS token.",
            )


def _place(pieces: list[list[int]], pad_to_rows: bool) -> tuple[list[int], list[int], int]:
    lengths = [len(piece) for piece in pieces]
    if pad_to_rows:
        return list(range(len(pieces))), [0] * len(pieces), max(lengths)
    starts = [0]
    for length in lengths[:-1]:
        starts.append(starts[-1] + length)
    return [0] * len(pieces), starts, sum(lengths)


def _fill(
    pieces: list[list[int]], segments: tuple[Segment, ...], width: int, filler: int
) -> Int[Tensor, "rows tokens"]:
    filled = torch.full((segments[-1].row + 1, width), filler)
    for piece, segment in zip(pieces, segments, strict=True):
        filled[segment.row, segment.start : segment.stop] = torch.tensor(piece, dtype=torch.long)
    return filled
