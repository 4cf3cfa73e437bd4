"""How much of a step's gradient is signal: its two halves compared, on a fixed part of the weights.

The gradient of a step is a mean over its items. Of two means over its halves A and B, with shares f and 1 - f of the
items, E <g_A, g_B> = |g|^2, the power of the true gradient, and E f (1 - f) |g_A - g_B|^2 is the power of the noise in
the step's own mean (the trace of its covariance; McCandlish et al. 2018, arXiv:1812.06162, appendix A.1, in other
words). Their ratio is ``grad_snr``: 1 means that half of the step's gradient is signal; batches of 1/grad_snr times
the size would bring it there. Both powers are summed over the steps of a log line before they are divided, so that no
step whose halves happen to agree rules it; it may be negative where there is no signal to be seen.

Two reads of at most 65,536 numbers a step are what it costs. Data-parallel runs do without it: there a half's
gradient is nowhere as a whole.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from preftune.training.optimizer import MasterAdamW

NAME = "grad_snr"
PARAMETERS, NUMBERS = 8, 8192  # weights looked at, and numbers of each
_OF_TOKENS = re.compile(r"embed|wte|wpe|lm_head|word_emb", re.IGNORECASE)  # mostly rows that no token of a batch moves


class GradientHalves:
    """Remembers a part of the gradient at the half of a step, and compares it with what the other half adds."""

    def __init__(self, module: nn.Module, optimizer: MasterAdamW) -> None:
        self._optimizer = optimizer
        self._parameters = watched(module)
        self._first: list[Tensor | None] = []

    def half(self) -> None:
        """To be called when the first half's gradients are there."""
        self._first = [self._part(parameter, copy=True) for parameter in self._parameters]

    def compare(self, share: float) -> tuple[Tensor, Tensor] | None:
        """Powers of signal and noise once the whole gradient is there; ``share`` of the step's items came first."""
        firsts, self._first = self._first, []
        signal, noise = [], []
        for parameter, first in zip(self._parameters, firsts, strict=False):
            whole = self._part(parameter, copy=False)
            if whole is None or first is None:
                continue
            one, other = first / share, (whole.float() - first) / (1 - share)
            signal.append(torch.dot(one, other))
            noise.append((one - other).square().sum())
        if not signal:
            return None
        return torch.stack(signal).sum(), share * (1 - share) * torch.stack(noise).sum()

    def _part(self, parameter: Tensor, *, copy: bool) -> Tensor | None:
        gradient = self._optimizer.gradient(parameter)
        if gradient is None or not gradient.is_contiguous():
            return None
        begin = max(0, (gradient.numel() - NUMBERS) // 2)
        part = gradient.view(-1)[begin : begin + NUMBERS].detach()
        return part.to(torch.float32, copy=copy)


def watched(module: nn.Module) -> Sequence[Tensor]:
    """Trained matrices spread evenly over the depth, those of tokens left out where there are others."""
    matrices = [(name, p) for name, p in module.named_parameters() if p.requires_grad and p.ndim >= 2]
    inner = [(name, p) for name, p in matrices if not _OF_TOKENS.search(name)] or matrices
    step = max(1, len(inner) / PARAMETERS)
    return [inner[int(i * step)][1] for i in range(min(PARAMETERS, len(inner)))]
