"""A completion while it grows: the chance it has left, the tokens it has, and when it ends."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import numpy as np

from preftune.errors import PreftuneError
from preftune.rollout.protocol import Drawn
from preftune.rollout.stops import StopText


class Growing:
    """Takes tokens until a stop token, a stop string or ``limit`` ends it; ``uniforms`` holds a number for each."""

    def __init__(
        self,
        limit: int,
        stop_ids: Collection[int] = frozenset(),
        stop_text: StopText | None = None,
        uniforms: Sequence[float] | np.ndarray | None = None,
    ) -> None:
        self.tokens: list[int] = []
        self._log_probs: list[float] = []
        self.limit, self._stop_ids, self._stop_text, self._uniforms = limit, stop_ids, stop_text, uniforms
        self._is_finished = False

    @property
    def uniform(self) -> float:
        """The number that decides the next token."""
        return 0.0 if self._uniforms is None else float(self._uniforms[len(self.tokens)])

    @property
    def has_ended(self) -> bool:
        """Whether it takes no more tokens."""
        return self._is_finished or len(self.tokens) == self.limit

    def add(self, token: int, log_prob: float) -> bool:
        """Takes a token; whether it was the last one. Raises ``PreftuneError`` where the model gave no number."""
        if math.isnan(log_prob):
            raise PreftuneError(
                "The model's predictions are not finite numbers.",
                where=f"token {len(self.tokens)} of a completion",
                mend="Look for the step at which the loss or the gradient norm grew, and lower the learning rate.",
            )
        self.tokens.append(token)
        self._log_probs.append(log_prob)
        self._is_finished = token in self._stop_ids or (
            self._stop_text is not None and self._stop_text.is_complete(self.tokens)
        )
        return self.has_ended

    def drawn(self) -> Drawn:
        """What was drawn."""
        return Drawn(self.tokens, np.array(self._log_probs, dtype=np.float32), self._is_finished)
