"""What a method hands to the run: the module it trains, the items, a step, and how the outcome is measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

from torch import nn

from preftune.methods.moments import Moments
from preftune.methods.supply import Supply, T
from preftune.models.reference import ReferenceGuard
from preftune.training.loop import Computed


@dataclass(frozen=True)
class Job(Generic[T]):
    """A method made ready to train.

    ``supply`` gives the micro-batches. ``fingerprint`` hashes the tokens trained on, ``data_fingerprint`` the records
    behind them. ``during(step)`` gives figures for the metrics log;
    ``answer(step)`` writes answers to read; ``measure(step)`` gives what ``eval.json`` holds;
    ``write_audit`` and ``save`` write into the run's folder and the model's.
    """

    method: str
    engine: nn.Module
    supply: Supply[T]
    compute: Callable[[nn.Module, Sequence[T]], Computed]
    fingerprint: str
    data_fingerprint: str
    during: Callable[[int], Mapping[str, float]]
    answer: Callable[[int], None]
    measure: Callable[[int], Moments]
    write_audit: Callable[[Path], Mapping[str, Any]]
    save: Callable[[Path], None]
    guard: ReferenceGuard | None = None
