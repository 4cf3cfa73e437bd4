"""Runs on the tiny world, each under a second."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from preftune.methods import run as method_run
from preftune.methods.registry import METHODS
from preftune.methods.reporting import Reporter
from tests.tiny_world import World, read_rows

FULL: dict[str, Any] = {"learning_rate": 3e-3}
LORA: dict[str, Any] = {"learning_rate": 2e-2, "use_peft": True, "lora_r": 4}
WAYS = {"full": FULL, "lora": LORA}
CLOCK = {"time", "pairs_per_second", "tokens_per_second", "memory/rss_mib"}
# 45 pairs, 8 to a step: six steps an epoch, the last of five.
DEFAULTS: dict[str, Any] = {
    "dtype": "float32",
    "num_train_epochs": 2,
    "per_device_train_batch_size": 8,
    "logging_steps": 1,
    "eval_fraction": 0.25,
    "save_strategy": "no",
    "max_new_tokens": 4,
    "num_completions": 4,
    "num_samples": 2,
}


def config_of(world: World, folder: Path, method: str = "dpo", **settings: Any) -> Any:
    """The settings of a run of ``method`` into ``folder``."""
    places = {"model": str(world.model), "data": str(world.standard), "output_dir": str(folder)}
    return METHODS[method].config_class()(**DEFAULTS | places | settings)


def run(
    world: World, folder: Path, reporter: Reporter | None = None, method: str = "dpo", **settings: Any
) -> method_run.RunSummary:
    """A run into ``folder``."""
    config = config_of(world, folder, method, **settings)
    return method_run.run(config, METHODS[method].prepare(), reporter or listener([]))


def listener(notes: list[str], after_step: Callable[[int], object] = lambda step: None) -> Reporter:
    """A reporter that keeps notes and calls ``after_step`` with the number of steps done."""

    @contextmanager
    def progress(description: str, total: float | None) -> Iterator[_Bar]:
        yield _Bar(after_step if description == "training" else lambda step: None)

    return Reporter(note=notes.append, progress=progress)


def stopping_at(step: int) -> Reporter:
    """A reporter that sends SIGTERM once ``step`` steps are done."""
    return listener([], lambda now: os.kill(os.getpid(), signal.SIGTERM) if now == step else None)


def curves(folder: Path) -> list[dict[str, Any]]:
    """The rows of ``metrics.jsonl`` without what the clock says."""
    rows = read_rows(folder / "metrics.jsonl")
    return [{name: value for name, value in row.items() if name not in CLOCK} for row in rows]


def losses(folder: Path) -> list[float]:
    """The training loss of each logged step."""
    return [row["loss"] for row in curves(folder) if "loss" in row]


def saved_weights(folder: Path) -> dict[str, Tensor]:
    """The tensors of the run's model folder."""
    (file,) = (folder / "model").glob("*.safetensors")
    return load_file(file)


class _Bar:
    def __init__(self, after_step: Callable[[int], object]) -> None:
        self._after_step, self._done = after_step, 0

    def advance(self, n: float = 1, **figures: Any) -> None:
        self._done += int(n)
        self._after_step(self._done)
