"""A fingerprint of weights that is cheap where they lie, so that it can be taken often."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn

_PIECE = 2**20


@torch.no_grad()
def fingerprint_weights(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """A hash of names, shapes and every bit of the tensors.

    Each stretch of ``_PIECE`` words of 16 bits is reduced, where it lies, to two 64-bit sums, plain and with a
    random factor for each place: a changed or moved word changes them. It guards against mistakes, not forgers.
    """
    digest = hashlib.sha256()
    for name, tensor in tensors:
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(_sums(tensor).cpu().numpy().astype("<i8").tobytes())
    return digest.hexdigest()


def frozen_parameters(module: nn.Module) -> list[tuple[str, Tensor]]:
    """Parameters that are not trained, with the scales of quantised ones, and buffers, by name."""
    named = [(name, p) for name, p in module.named_parameters() if not p.requires_grad]
    return [*_with_scales(named), *module.named_buffers()]


def all_parameters(module: nn.Module) -> list[tuple[str, Tensor]]:
    """Every parameter, with the scales of quantised ones, and buffer by name."""
    return [*_with_scales(module.named_parameters()), *module.named_buffers()]


def count_weights(module: nn.Module) -> tuple[int, int]:
    """How many numbers are trained, and how many there are; a byte of 4-bit weights holds two."""
    trained = whole = 0
    for parameter in module.parameters():
        state = getattr(parameter, "quant_state", None)
        n = parameter.numel() if state is None else state.shape.numel()
        trained, whole = trained + n * parameter.requires_grad, whole + n
    return trained, whole


def _with_scales(parameters: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """The parameters, and after a quantised one what bitsandbytes keeps beside it: without it, it is no weight."""
    for name, parameter in parameters:
        yield name, parameter
        state = getattr(parameter, "quant_state", None)  # 4 bits
        if state is not None:
            yield from ((f"{name}.{key}", value) for key, value in state.as_dict(packed=True).items())
        scales = getattr(parameter, "SCB", None)  # 8 bits
        if scales is not None:
            yield f"{name}.SCB", scales


def _sums(tensor: Tensor) -> Tensor:
    """Of each piece its plain and its weighted sum, shape (pieces, 2)."""
    flat = tensor.detach().contiguous().reshape(-1)
    words = flat.view(torch.int16) if flat.element_size() % 2 == 0 else flat.view(torch.uint8)
    factors = _factors(words.device)
    sums = torch.zeros(-(-words.numel() // _PIECE), 2, dtype=torch.int64, device=words.device)
    for number, begin in enumerate(range(0, words.numel(), _PIECE)):
        piece = words[begin : begin + _PIECE].to(torch.int64)
        sums[number, 0] = piece.sum()
        sums[number, 1] = piece.mul_(factors[: piece.numel()]).sum()
    return sums


@lru_cache(maxsize=8)
def _factors(device: torch.device) -> Tensor:
    """A factor a place within a piece, from a fixed seed; products with it wrap around at 64 bits."""
    draw = np.random.default_rng(0).integers(-(2**63), 2**63, _PIECE, dtype=np.int64)
    return torch.from_numpy(draw).to(device)
