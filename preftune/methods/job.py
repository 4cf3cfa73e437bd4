"""What a method hands to the run: the module it trains, the items, a step, and how the outcome is measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch
from accelerate import Accelerator
from torch import nn

from preftune.methods.moments import Moments
from preftune.methods.reporting import Reporter
from preftune.methods.settings import RunConfig
from preftune.models.reference import ReferenceGuard
from preftune.training.loop import Computed


class TrainingItem(Protocol):
    """What batches are made of: ``length`` counts its tokens."""

    @property
    def id(self) -> str: ...

    @property
    def length(self) -> int: ...


T = TypeVar("T", bound=TrainingItem)
Config = TypeVar("Config", bound=RunConfig)


@dataclass(frozen=True)
class Given:
    """Objects that Python code hands over in the place of what the config names.

    ``start`` is a copy of ``model`` as it was, for a run that trains all its weights in place.
    """

    model: nn.Module | None = None
    start: nn.Module | None = None
    ref_model: nn.Module | None = None
    tokenizer: Any = None
    train: Any = None
    evaluation: Any = None


@dataclass(frozen=True)
class Context(Generic[Config]):
    """What every part of a run needs."""

    config: Config
    accelerator: Accelerator
    folder: Path
    reporter: Reporter
    given: Given = Given()

    @property
    def reference_is_start(self) -> bool:
        """True unless another model than the one the run starts from is the reference."""
        return getattr(self.config, "ref_model", None) is None and self.given.ref_model is None

    @property
    def device(self) -> torch.device:
        return self.accelerator.device

    @property
    def owned_folder(self) -> Path | None:
        """The run's folder where this process writes it."""
        return self.folder if self.accelerator.is_main_process else None


@dataclass(frozen=True)
class Job(Generic[T]):
    """A method made ready to train.

    ``weight(item)`` is what an item counts for in the mean of the loss (1, or its tokens). ``fingerprint`` hashes
    the items, ``data_fingerprint`` the records behind them. ``during(step)`` gives figures for the metrics log;
    ``answer(step)`` writes answers to read; ``measure(step)`` gives what ``eval.json`` holds;
    ``write_audit`` and ``save`` write into the run's folder and the model's.
    """

    method: str
    engine: nn.Module
    items: Sequence[T]
    compute: Callable[[nn.Module, Sequence[T]], Computed]
    fingerprint: str
    data_fingerprint: str
    during: Callable[[int], Mapping[str, float]]
    answer: Callable[[int], None]
    measure: Callable[[int], Moments]
    write_audit: Callable[[Path], Mapping[str, Any]]
    save: Callable[[Path], None]
    guard: ReferenceGuard | None = None
    weight: Callable[[T], float] = lambda item: 1.0
