"""Items and tokens a second of training alone: evaluation and saving do not count."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Throughput:
    """Counts between two logged steps."""

    def __init__(self) -> None:
        self._items = self._tokens = 0
        self._since = time.perf_counter()

    def count(self, items: int, tokens: int) -> None:
        """Adds what a micro-batch held."""
        self._items += items
        self._tokens += tokens

    def take(self, processes: int = 1) -> dict[str, float]:
        """Rates since the last call, for all processes together; starts anew."""
        now = time.perf_counter()
        seconds = max(now - self._since, 1e-9)
        rates = {"pairs_per_second": self._items, "tokens_per_second": self._tokens}
        self._items, self._tokens, self._since = 0, 0, now
        return {name: processes * count / seconds for name, count in rates.items()}

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time inside the block does not count."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self._since += time.perf_counter() - begun
