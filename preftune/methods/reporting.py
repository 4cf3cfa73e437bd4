"""How a run tells what it does, without knowing who listens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol


class Progress(Protocol):
    """A running task: ``advance`` counts, with figures to show beside the count."""

    def advance(self, n: float = 1, **figures: Any) -> None: ...


@dataclass(frozen=True)
class Reporter:
    """``note`` takes one line; ``progress(description, total)`` opens a task."""

    note: Callable[[str], object]
    progress: Callable[[str, float | None], AbstractContextManager[Progress]]


class _Silent:
    def advance(self, n: float = 1, **figures: Any) -> None:
        """Nobody listens."""


@contextmanager
def _no_progress(description: str, total: float | None) -> Iterator[Progress]:
    yield _Silent()


SILENT = Reporter(note=lambda text: None, progress=_no_progress)
