"""What every part of a run needs: its config, where it runs, its folder, who listens, and what Python handed over."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from accelerate import Accelerator
from torch import nn

from preftune.methods.reporting import Reporter
from preftune.methods.settings import RunConfig

Config = TypeVar("Config", bound=RunConfig)


@dataclass(frozen=True)
class Given:
    """Objects that Python code hands over in the place of what the config names.

    ``start`` is a copy of ``model`` as it was, for a run that trains all its weights in place. ``rewards`` are
    functions, beside those the config names.
    """

    model: nn.Module | None = None
    start: nn.Module | None = None
    ref_model: nn.Module | None = None
    tokenizer: Any = None
    train: Any = None
    evaluation: Any = None
    rewards: Sequence[Callable[..., Any]] = ()


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
