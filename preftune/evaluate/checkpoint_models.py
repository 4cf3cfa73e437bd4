"""The checkpoints of a run as models, one after the other in the same memory, and its start among them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from preftune.config import load_config
from preftune.errors import PreftuneError
from preftune.evaluate.entrants import run_config
from preftune.evaluate.model import OpenModel
from preftune.methods.registry import find_method
from preftune.methods.settings import RunConfig
from preftune.models.adapters import add_adapter
from preftune.models.lean_modules import make_lean
from preftune.models.loading import load_tokenizer
from preftune.models.logprobs import LogProbEngine
from preftune.models.merging import load_base
from preftune.training.checkpoints import list_checkpoints, load_tensors

CHECKPOINTS = "checkpoints"


@dataclass(frozen=True)
class CheckpointedRun:
    """A run's model in memory, which can be set to its start (step 0) and to each of its checkpoints."""

    name: str
    model: OpenModel
    steps: tuple[int, ...]
    _folder: Path
    _start: Mapping[str, Tensor]

    def set_to(self, step: int) -> None:
        """Gives the model the weights after so many steps."""
        weights = self._start if step == 0 else _weights(self._folder, step)
        trained = _trained(self.model.engine)
        wrong = sorted(trained.keys() ^ weights.keys())
        wrong += [name for name in trained.keys() & weights.keys() if trained[name].shape != weights[name].shape]
        if wrong:
            raise PreftuneError(
                f"The checkpoint is of another model: {len(wrong)} weights differ, such as {wrong[0]}.",
                where=str(self._folder / f"step-{step}"),
                mend="The start that config.yaml names must still be what it was.",
            )
        with torch.no_grad():
            for name, parameter in trained.items():
                parameter.copy_(weights[name])


def open_checkpoints(
    run: str, name: str, overrides: Mapping[str, Any], note: Callable[[str], object]
) -> CheckpointedRun:
    """The run at folder ``run`` with its checkpoints; ``overrides`` are settings of the model to change.

    PreftuneError where it is no run of a policy.
    """
    folder = Path(run).expanduser()
    steps = list_checkpoints(folder / CHECKPOINTS)
    config = read_run_config(folder).model_copy(update=dict(overrides))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = load_base(config, device).model.requires_grad_(not config.use_peft)
    if config.use_peft:
        model = add_adapter(model, config)  # new, so without effect: the start
    make_lean(model)
    engine = LogProbEngine(model, note=note).eval()
    start = {key: parameter.detach().cpu().clone() for key, parameter in _trained(engine).items()}
    return CheckpointedRun(
        name, OpenModel(name, engine, load_tokenizer(config), None), tuple(steps), folder / CHECKPOINTS, start
    )


def read_run_config(folder: Path) -> RunConfig:
    """The settings of the run; PreftuneError where it is none, or trained no policy."""
    file = folder / "config.yaml"
    method = run_config(str(folder)).get("method")
    if not isinstance(method, str):
        raise PreftuneError(
            "This folder holds no run with a config.yaml.", where=str(folder), mend="Name a run's folder."
        )
    if method == "reward":
        raise PreftuneError("This run trained a reward model, which writes no answers.", where=str(folder))
    return load_config(find_method(_command(method)).config_class(), file=file, values={}).config


def _command(method: str) -> str:
    """The command of a method as ``config.yaml`` writes it."""
    return {"cpo": "simpo"}.get(method, method)


def _trained(engine: LogProbEngine) -> dict[str, torch.nn.Parameter]:
    return {name: parameter for name, parameter in engine.named_parameters() if parameter.requires_grad}


def _weights(folder: Path, step: int) -> dict[str, Tensor]:
    """The policy's weights in a checkpoint; PPO's are beside those of its value model."""
    found = load_tensors(folder, step, "trainable")
    if not any(name.startswith("policy.") for name in found):
        return found
    return {name.removeprefix("policy."): one for name, one in found.items() if name.startswith("policy.")}
