"""A token from logits: temperature, truncation, and the log-prob of what was drawn."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from preftune.rollout.protocol import Sampling

# Sums of blocks are searched first, then one block: a running sum over the vocabulary is never made.
BLOCK = 256
# Candidates that top-p looks at to begin with; a flat distribution makes it look at more.
NUCLEUS = 256


def draw(
    logits: Float[Tensor, "rows vocab"], sampling: Sampling, uniforms: Float[Tensor, "rows"]
) -> tuple[Int[Tensor, "rows"], Float[Tensor, "rows"]]:
    """A token a row and its log-prob (nats, float32) in the distribution it was drawn from.

    The token is the one at which the cumulative distribution passes the row's uniform number, so that a row's
    draw depends on nothing but its logits and that number. Temperature 0 takes the likeliest token, whose
    log-prob is then that of temperature 1. Log-probs of logits that are not finite are nan.
    """
    if sampling.temperature == 0:
        # Not argmax, which is three times slower in bfloat16 on a CPU.
        return logits.max(-1).indices, torch.softmax(logits, -1, dtype=torch.float32).amax(-1).log()
    if sampling.temperature != 1:
        logits = logits.float() / sampling.temperature
    probabilities = truncated(torch.softmax(logits, -1, dtype=torch.float32), sampling)
    tokens, total = _passed(probabilities, uniforms)
    chosen = probabilities.gather(1, tokens[:, None])[:, 0]
    return tokens, (chosen / total).log().float()


def truncated(probabilities: Float[Tensor, "rows vocab"], sampling: Sampling) -> Float[Tensor, "rows vocab"]:
    """Zero outside the ``top_k`` likeliest tokens, the smallest set that holds ``top_p`` of what these hold, and
    those at least ``min_p`` times as likely as the likeliest; not normalised. Tokens as likely as the last one
    kept are kept too.
    """
    floor = None
    if 0 < sampling.top_k < probabilities.shape[1]:
        floor = probabilities.topk(sampling.top_k, sorted=False).values.amin(-1)
    if sampling.top_p < 1:
        kept = probabilities if floor is None else _above(probabilities, floor)
        floor = _nucleus_floor(kept, sampling.top_p)
    if sampling.min_p > 0:
        least = probabilities.amax(-1) * sampling.min_p
        floor = least if floor is None else torch.maximum(floor, least)
    return probabilities if floor is None else _above(probabilities, floor)


def _above(probabilities: Tensor, floor: Tensor) -> Tensor:
    return probabilities.masked_fill(probabilities < floor[:, None], 0.0)


def _nucleus_floor(probabilities: Tensor, top_p: float) -> Tensor:
    """The probability of the last token in the nucleus (Holtzman et al. 2020, arXiv:1904.09751).

    Only the likeliest tokens are sorted; rows whose nucleus is larger take another, wider look.
    """
    wanted = top_p * probabilities.sum(-1)
    floor = torch.zeros_like(wanted)
    rows, width = torch.arange(len(wanted), device=wanted.device), NUCLEUS
    while len(rows):
        width = min(width, probabilities.shape[1])
        ordered = probabilities[rows].topk(width, sorted=True).values
        before = ordered.cumsum(-1) - ordered
        size = (before < wanted[rows, None]).sum(-1).clamp_(min=1)  # nan is below nothing
        found = (size < width) | (width == probabilities.shape[1])
        floor[rows[found]] = ordered[found].gather(1, size[found, None] - 1)[:, 0]
        rows, width = rows[~found], 8 * width
    return floor


def _passed(weights: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """The index at which the running sum of each row passes its share of the whole, and the whole."""
    missing = -weights.shape[1] % BLOCK
    blocks = (F.pad(weights, (0, missing)) if missing else weights).unflatten(1, (-1, BLOCK))  # rows, blocks, BLOCK
    sums = blocks.sum(-1).double()
    block, share = _search(sums, uniforms.double())
    inside = blocks[torch.arange(len(block), device=block.device), block].double()
    return block * BLOCK + _search(inside, share)[0], sums.sum(-1)


def _search(weights: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
    """Where the running sum passes ``shares`` of the whole, and how far into that weight it does, 0 to 1."""
    running = weights.cumsum(-1)
    whole = running[:, -1:]
    target = shares[:, None] * whole
    # A share that rounds up to the whole still ends at the last weight that is not zero.
    index = torch.minimum((running <= target).sum(-1), (running < whole).sum(-1))[:, None]
    weight = weights.gather(1, index)
    into = (target - (running.gather(1, index) - weight)) / weight
    return index[:, 0], into[:, 0].clamp_(0, 1)
