"""What a run must remember to go on as if it had never stopped."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from preftune.errors import PreftuneError
from preftune.training import rng
from preftune.training.checkpoints import load_newest, save_checkpoint
from preftune.training.metrics import Averages
from preftune.training.optimizer import MasterAdamW


@dataclass
class LoopState:
    """Counters of the loop; ``step`` is the number of steps done."""

    step: int = 0
    nan_steps: int = 0
    nan_in_a_row: int = 0
    learning_rate: float = 0.0
    averages: Averages = field(default_factory=Averages)


class Carried(Protocol):
    """What a kind of work must remember beside the loop: tensors by name, and values that JSON can say.

    Every process is asked for its state and given the whole back.
    """

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]: ...

    def load_state(self, tensors: Mapping[str, torch.Tensor], values: Mapping[str, Any]) -> None: ...


def save_state(
    folder: Path,
    state: LoopState,
    module: nn.Module,
    optimizer: MasterAdamW,
    identity: Mapping[str, Any],
    keep: int | None,
    carried: tuple[Mapping[str, torch.Tensor], Mapping[str, Any]] | None = None,
) -> Path:
    """Writes ``checkpoints/step-N`` of the run folder: trained parameters, optimiser, generators, counters."""
    rng_values, rng_tensors = rng.capture()
    tensors = {
        "trainable": {name: p.detach() for name, p in module.named_parameters() if p.requires_grad},
        "optimizer": optimizer.tensors(),
        "rng": rng_tensors,
    }
    values = {
        "nan_steps": state.nan_steps,
        "nan_in_a_row": state.nan_in_a_row,
        "learning_rate": state.learning_rate,
        "averages": state.averages.state(),
        "rng": rng_values,
        "identity": dict(identity),
    }
    if carried is not None:
        tensors["carried"], values["carried"] = map(dict, carried)
    return save_checkpoint(folder / "checkpoints", state.step, tensors, values, keep)


def restore_state(
    folder: Path,
    module: nn.Module,
    optimizer: MasterAdamW,
    identity: Mapping[str, Any],
    note: Callable[[str], object],
    carried: Carried | None = None,
) -> LoopState:
    """The state of the newest valid checkpoint, module and optimiser set to it; a fresh one where there is none.

    Raises ``PreftuneError`` where the run was begun with another ``identity`` (data, batch size, schedule).
    """
    checkpoint = load_newest(folder / "checkpoints")
    if checkpoint is None:
        note("no checkpoint to resume from: the run starts at its first step")
        return LoopState()
    for skipped in checkpoint.skipped:
        note(skipped)
    _require_same(checkpoint.values["identity"], identity, checkpoint.path)
    _set_parameters(module, checkpoint.tensors["trainable"], checkpoint.path)
    optimizer.load_tensors(checkpoint.tensors.get("optimizer", {}))
    for missing in rng.restore(checkpoint.values["rng"], checkpoint.tensors["rng"]):
        note(missing)
    if carried is not None:
        carried.load_state(checkpoint.tensors["carried"], checkpoint.values["carried"])
    averages = Averages()
    averages.load_state(checkpoint.values["averages"])
    note(f"resumed from {checkpoint.path} at step {checkpoint.step}")
    kept = {name: checkpoint.values[name] for name in ("nan_steps", "nan_in_a_row", "learning_rate")}
    return LoopState(step=checkpoint.step, averages=averages, **kept)


def _require_same(saved: Mapping[str, Any], now: Mapping[str, Any], path: Path) -> None:
    changed = [name for name in sorted({*saved, *now}) if saved.get(name) != now.get(name)]
    if changed:
        words = "; ".join(f"{name} was {saved.get(name)!r}, is {now.get(name)!r}" for name in changed)
        raise PreftuneError(
            f"The run was begun with other settings: {words}.",
            where=str(path),
            mend="Resume with the same ones, or start anew with another --output_dir.",
        )


@torch.no_grad()
def _set_parameters(module: nn.Module, saved: Mapping[str, torch.Tensor], path: Path) -> None:
    trainable = {name: p for name, p in module.named_parameters() if p.requires_grad}
    wrong = sorted(trainable.keys() ^ saved.keys())
    wrong += [name for name, p in trainable.items() if name in saved and saved[name].shape != p.shape]
    if wrong:
        raise PreftuneError(
            f"The checkpoint is of another model: {len(wrong)} parameters differ, such as {wrong[0]}.",
            where=str(path),
            mend="Resume with the model and adapter settings of the run.",
        )
    for name, parameter in trainable.items():
        parameter.copy_(saved[name])
