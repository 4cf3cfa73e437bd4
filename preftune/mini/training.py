"""Drives the one training loop with a small model: epochs in, their mean figures out, nothing left on the disk."""

from __future__ import annotations

import math
import signal
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeAlias

from accelerate import Accelerator
from torch import nn

from preftune.data.batches import BatchPlan
from preftune.errors import PreftuneError
from preftune.training.loop import Computed, Watch, Work, train
from preftune.training.metrics import read_metrics
from preftune.training.settings import TrainingConfig

Progress: TypeAlias = Callable[[int, Mapping[str, float]], object]


@dataclass(frozen=True)
class Recipe:
    """How long and how fast; ``progress(step, figures)`` hears of each step, counted from 1."""

    num_epochs: int
    lr: float
    batch_size: int
    seed: int
    progress: Progress | None = None

    def __post_init__(self) -> None:
        for name in ("num_epochs", "lr", "batch_size"):
            require_positive(name, getattr(self, name))


def require_positive(name: str, value: float) -> None:
    """Raises ``PreftuneError`` unless ``value`` is a finite number above zero."""
    if not (math.isfinite(value) and value > 0):
        raise PreftuneError(f"{name} is {value}.", where=name, mend="It must be above zero.")


def train_epochs(
    module: nn.Module,
    lengths: Sequence[int],
    compute: Callable[[nn.Module, list[int]], Computed],
    recipe: Recipe,
    *,
    after_epoch: Callable[[], object] = lambda: None,
    weight: Callable[[int], float] = lambda item: 1.0,
) -> list[Mapping[str, float]]:
    """Trains ``module`` in place; one row of means over the items of each epoch, as they came, ``loss`` among them.

    ``compute(module, items)`` is given numbers of items, ``lengths`` their tokens, ``weight(item)`` what each counts
    for in the loss. The learning rate is constant and gradients are clipped to norm 1.
    """
    if not any(parameter.requires_grad for parameter in module.parameters()):
        raise PreftuneError("The model has no weights to train.", mend="Call model.requires_grad_(True) first.")
    plan = BatchPlan(tuple(lengths), recipe.batch_size, seed=recipe.seed)

    def at_evaluation(step: int) -> dict[str, float]:
        after_epoch()
        return {}

    work = Work(
        module=module,
        micro_batches=plan.micro_batches,
        items=lambda step: sum(weight(item) for item in plan.members(step)),
        compute=compute,
        name=lambda items: ", ".join(f"row {item + 1}" for item in items),
        evaluate=at_evaluation,
        steps_per_epoch=plan.steps_per_epoch,
    )
    with TemporaryDirectory(prefix="preftune-mini-") as folder:
        _run(work, recipe, Path(folder))
        rows = read_metrics(Path(folder) / "metrics.jsonl")
    return [{name: math.nan if value is None else value for name, value in row.items()} for row in rows]


def curve(rows: Sequence[Mapping[str, float]], name: str) -> list[float]:
    """A figure by epoch, NaN for an epoch none of whose steps counted."""
    return [row.get(name, math.nan) for row in rows]


def _run(work: Work[list[int]], recipe: Recipe, folder: Path) -> None:
    settings = TrainingConfig(
        output_dir=str(folder),
        seed=recipe.seed,
        num_train_epochs=recipe.num_epochs,
        per_device_train_batch_size=recipe.batch_size,
        learning_rate=recipe.lr,
        lr_scheduler_type="constant",
        logging_steps=work.steps_per_epoch,
        eval_strategy="epoch",
        save_strategy="no",
    )
    watch = Watch(recipe.progress or (lambda step, figures: None), lambda text: warnings.warn(text, stacklevel=2))
    # Not Accelerator(cpu=True): accelerate would then keep every later run of this process on the CPU too. In one
    # process the loop leaves the model where it is.
    result = train(work, settings, recipe.lr, folder, Accelerator(), watch)
    if result.stopped:  # the loop turned the signal into an orderly end; nobody is told of it here but the caller
        signal.raise_signal(signal.Signals[result.stopped])
