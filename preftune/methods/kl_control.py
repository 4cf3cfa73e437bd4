"""The price of the KL: fixed, or raised and lowered to hold a target (Ziegler et al. 2019, arXiv:1909.08593)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from preftune.losses import adapted_kl_coef


class KLControl:
    """``coef`` as it is now; with a target it moves after each window."""

    def __init__(self, coef: float, target: float | None, horizon: float) -> None:
        self.coef, self.target, self.horizon = coef, target, horizon

    def learn(self, kl: float, n: int) -> None:
        """``kl`` is the mean over ``n`` completions, in nats a completion."""
        if self.target is not None:
            self.coef = adapted_kl_coef(self.coef, kl, self.target, n, self.horizon)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The coefficient."""
        return {}, {"coef": self.coef}

    def load_state(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Goes on from what ``state`` gave; a fixed price is what the settings now say."""
        if self.target is not None:
            self.coef = float(values["coef"])
