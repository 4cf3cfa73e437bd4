"""Attention over segments that lie end to end in one row: no padding, a prompt's completions side by side.

Registered with transformers under one name, so that its own model code runs unchanged; where no segments are
given (generation, a user's own call) it is transformers' SDPA attention.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from preftune.models.layout import Layout, Segment

NAME = "preftune_segments"
# On CPU, batched matrix products with saved probabilities beat the flash kernel's backward for short
# segments; they keep heads * length^2 numbers a layer, which long segments cannot afford.
DENSE_LENGTH = 1024
# A completion sees the prompt and itself. Where that leaves so few of a segment's scores, and so many completions
# share the prompt, they are computed block by block; for fewer one large product is faster.
BLOCKS, WORTH_BLOCKS = 4, 0.6


@dataclass(frozen=True)
class SegmentMask:
    """Where a segment lies in the row, and what is added to its attention scores (0 or minus infinity).

    Where it is computed in blocks, ``parts`` are the lengths of prompt and completions, and ``biases`` what is added
    for each: the prompt's own, then of each completion those of the prompt's keys and its own.
    """

    start: int
    stop: int
    bias: Float[Tensor, "queries keys"]
    parts: tuple[int, ...] = ()
    biases: tuple[Tensor, ...] = ()


class SegmentMasks:
    """The masks of a packed layout, made once for each window that a layer asks for."""

    def __init__(self, layout: Layout, dtype: torch.dtype, device: torch.device) -> None:
        self._layout, self._dtype, self._device = layout, dtype, device
        self.by_window: dict[int | None, tuple[SegmentMask, ...]] = {}

    def within(self, window: int | None) -> tuple[SegmentMask, ...]:
        """The mask of every segment; ``window`` limits how far back a token looks, itself included."""
        if window not in self.by_window:
            self.by_window[window] = tuple(self._mask(segment, window) for segment in self._layout.segments)
        return self.by_window[window]

    def _mask(self, segment: Segment, window: int | None) -> SegmentMask:
        allowed = segment.sees()
        if window is not None and segment.length > window:
            positions = self._layout.position_ids[0, segment.start : segment.stop]
            allowed &= positions[:, None] - positions[None, :] < window
        bias = torch.zeros(allowed.shape, dtype=self._dtype).masked_fill_(~allowed, float("-inf"))
        bias = bias.to(self._device)
        if not _is_worth_blocks(segment):
            return SegmentMask(segment.start, segment.stop, bias)
        parts = (segment.prompt, *segment.completions)
        return SegmentMask(segment.start, segment.stop, bias, parts, tuple(_block_biases(bias, parts)))


def _is_worth_blocks(segment: Segment) -> bool:
    prompt, completions = segment.prompt, segment.completions
    scores = prompt**2 + sum(one * (prompt + one) for one in completions)
    fits = min(completions, default=0) > 0 and prompt + max(completions) <= DENSE_LENGTH
    return len(completions) >= BLOCKS and fits and scores <= WORTH_BLOCKS * segment.length**2


def _block_biases(bias: Tensor, parts: tuple[int, ...]) -> Iterator[Tensor]:
    prompt, begin = parts[0], 0
    for part in parts:
        inside = slice(begin, begin + part)
        yield bias[inside, :prompt] if begin == 0 else torch.cat([bias[inside, :prompt], bias[inside, inside]], 1)
        begin += part


def register() -> None:
    """Makes the attention known to transformers under ``NAME``."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    AttentionInterface.register(NAME, segment_attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)


def segment_attention(
    module: nn.Module,
    query: Float[Tensor, "1 heads tokens width"],
    key: Float[Tensor, "1 groups tokens width"],
    value: Float[Tensor, "1 groups tokens width"],
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    segments: SegmentMasks | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface: (1, tokens, heads, width) out.

    Raises ``NotImplementedError`` for variants it does not compute (score capping, sinks, position biases),
    which the log-prob engine takes as the sign to use another path.
    """
    if softcap is not None or s_aux is not None or kwargs.get("position_bias") is not None:
        raise NotImplementedError("score capping, attention sinks or position biases")
    if segments is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    outputs = []
    for mask in segments.within(sliding_window):
        inside = slice(mask.start, mask.stop)
        q, k, v = query[0, :, inside], key[0, :, inside], value[0, :, inside]
        if mask.parts and q.device.type == "cpu" and not dropout:
            output = _by_blocks(q, k, v, mask, scale)
        elif mask.stop - mask.start <= DENSE_LENGTH and q.device.type == "cpu" and not dropout:
            output = _dense(q, k, v, mask.bias, scale)
        else:
            output = _flash(q, k, v, mask.bias, scale, dropout)
        outputs.append(output.transpose(0, 1))
    return torch.cat(outputs)[None], None


def _flash(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, scale: float, dropout: float = 0.0) -> Tensor:
    return F.scaled_dot_product_attention(
        q[None],
        k[None],
        v[None],
        attn_mask=bias.to(q.dtype),
        dropout_p=dropout,
        scale=scale,
        enable_gqa=q.shape[0] != k.shape[0],
    )[0]


def _by_blocks(q: Tensor, k: Tensor, v: Tensor, mask: SegmentMask, scale: float) -> Tensor:
    with torch.autocast(q.device.type, enabled=False):
        return _BlockAttention.apply(q, k.to(q.dtype), v.to(q.dtype), mask, scale)  # type: ignore[return-value]


def _dense(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, scale: float) -> Tensor:
    # Autocast would give products and softmax different dtypes, which the backward pass could not multiply.
    with torch.autocast(q.device.type, enabled=False):
        return _DenseAttention.apply(q, k.to(q.dtype), v.to(q.dtype), bias, scale)  # type: ignore[return-value]


class _DenseAttention(torch.autograd.Function):
    """softmax(q k^T scale + bias) v of one segment, probabilities saved."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor, scale: float) -> Tensor:
        q, k, v = _folded(q, k, scale), k.contiguous(), v.contiguous()
        probabilities = _probabilities(q, k, bias)
        ctx.save_for_backward(q, k, v, probabilities)
        ctx.scale = scale
        return torch.bmm(probabilities, v).view(-1, *bias.shape[:1], v.shape[2])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        q, k, v, probabilities = ctx.saved_tensors
        return *_gradients(grad, q, k, v, probabilities, ctx.scale), None, None


class _BlockAttention(torch.autograd.Function):
    """The prompt's tokens among themselves, then each completion's with the prompt's keys and their own.

    With many completions the probabilities, and the prompt's keys beside each completion's, are what an update holds
    most of: the backward pass computes them again, a block at a time.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: SegmentMask, scale: float) -> Tensor:
        ctx.save_for_backward(q, k, v)
        ctx.mask, ctx.scale = mask, scale
        output = q.new_empty(q.shape)
        for inside, bias in _blocks(mask):
            keys, values = _seen(k, mask, inside), _seen(v, mask, inside)
            probabilities = _probabilities(_folded(q[:, inside], k, scale), keys, bias)
            output[:, inside] = torch.bmm(probabilities, values).view(q.shape[0], -1, q.shape[2])
        return output

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        q, k, v = ctx.saved_tensors
        mask, prompt = ctx.mask, ctx.mask.parts[0]
        grad_q, grad_k, grad_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for inside, bias in _blocks(mask):
            queries, keys, values = _folded(q[:, inside], k, ctx.scale), _seen(k, mask, inside), _seen(v, mask, inside)
            probabilities = _probabilities(queries, keys, bias)
            grad_q[:, inside], of_keys, of_values = _gradients(
                grad[:, inside], queries, keys, values, probabilities, ctx.scale
            )
            for total, part in ((grad_k, of_keys), (grad_v, of_values)):
                total[:, :prompt] += part[:, :prompt]
                if inside.stop > prompt:
                    total[:, inside] = part[:, prompt:]
        return grad_q, grad_k, grad_v, None, None


def _blocks(mask: SegmentMask) -> Iterator[tuple[slice, Tensor]]:
    """Where each block's queries lie, and what is added to its scores; the prompt's is the first."""
    begin = 0
    for part, bias in zip(mask.parts, mask.biases, strict=True):
        yield slice(begin, begin + part), bias
        begin += part


def _seen(keys: Tensor, mask: SegmentMask, inside: slice) -> Tensor:
    """The keys, or values, that a block's queries see."""
    prompt = keys[:, : mask.parts[0]]
    return prompt.contiguous() if inside.stop <= mask.parts[0] else torch.cat([prompt, keys[:, inside]], 1)


def _folded(q: Tensor, k: Tensor, scale: float) -> Tensor:
    """Scaled queries; heads that share a key are folded into the rows, so grouped keys are never repeated."""
    heads, tokens, width = q.shape
    return (q * scale).reshape(k.shape[0], heads // k.shape[0] * tokens, width)


def _probabilities(q: Tensor, k: Tensor, bias: Tensor) -> Tensor:
    """softmax(q k^T + bias) of folded queries."""
    scores = torch.bmm(q, k.transpose(1, 2)).view(-1, *bias.shape)
    return torch.softmax(scores.add_(bias), -1).view(k.shape[0], -1, k.shape[1])


def _gradients(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, probabilities: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of unfolded queries, keys and values."""
    shape = grad.shape
    grad = grad.reshape(q.shape)
    grad_v = torch.bmm(probabilities.transpose(1, 2), grad)
    grad_probabilities = torch.bmm(grad, v.transpose(1, 2))
    grad_scores = torch.ops.aten._softmax_backward_data(grad_probabilities, probabilities, -1, probabilities.dtype)
    grad_q = torch.bmm(grad_scores, k).mul_(scale).view(shape)
    return grad_q, torch.bmm(grad_scores.transpose(1, 2), q), grad_v
