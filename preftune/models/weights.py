"""A fingerprint of weights that is cheap where they lie, so that it can be taken often."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor, nn

_PIECE = 2**22
_MULTIPLIER = 6364136223846793005 - 2**63  # an odd 64-bit constant; products wrap around


@torch.no_grad()
def fingerprint_weights(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """A hash of names, shapes and every bit of the tensors.

    Each tensor is reduced on its own device to two 64-bit sums of its 16-bit words, one weighted by position:
    a changed or moved value changes them. It guards against mistakes, not against forgers.
    """
    digest = hashlib.sha256()
    for name, tensor in tensors:
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(repr(_sums(tensor)).encode())
    return digest.hexdigest()


def frozen_parameters(module: nn.Module) -> list[tuple[str, Tensor]]:
    """Parameters that are not trained, and buffers, by name."""
    named = [(name, p) for name, p in module.named_parameters() if not p.requires_grad]
    return named + list(module.named_buffers())


def all_parameters(module: nn.Module) -> list[tuple[str, Tensor]]:
    """Every parameter and buffer by name."""
    return [*module.named_parameters(), *module.named_buffers()]


def _sums(tensor: Tensor) -> tuple[int, int]:
    flat = tensor.detach().contiguous().reshape(-1)
    words = flat.view(torch.int16) if flat.element_size() % 2 == 0 else flat.view(torch.uint8)
    plain = weighted = torch.zeros((), dtype=torch.int64, device=words.device)
    for begin in range(0, words.numel(), _PIECE):
        piece = words[begin : begin + _PIECE].to(torch.int64)
        place = torch.arange(begin, begin + piece.numel(), device=words.device)
        plain = plain + piece.sum()
        weighted = weighted + (piece * ((place * 2 + 1) * _MULTIPLIER)).sum()
    return int(plain), int(weighted)
