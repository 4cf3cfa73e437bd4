"""A regression on random numbers as work for the loop, with dropout, so that it draws as it goes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from preftune.data.batches import BatchPlan
from preftune.training.loop import Computed, TrainingResult, Watch, Work, train
from preftune.training.metrics import read_metrics
from preftune.training.settings import TrainingConfig

N = 21  # with eight to a step, the third and last step of an epoch has five
RATE = 1e-2


class Toy:
    """Module, data and plan of a run; ``poison`` says which (step, example) has a loss that is not a number."""

    def __init__(
        self,
        *,
        batch: int = 8,
        accumulation: int = 1,
        n: int = N,
        dropout: float = 0.0,
        dtype: torch.dtype = torch.float32,
        poison: Sequence[tuple[int, int]] = (),
        before_step: Callable[[int], object] = lambda step: None,
        identity: dict[str, Any] | None = None,
        rehearses: bool = False,
    ) -> None:
        torch.manual_seed(0)
        layers = (nn.Linear(5, 8), nn.Tanh(), nn.Dropout(dropout), nn.LayerNorm(8), nn.Linear(8, 1))
        self.module = nn.Sequential(*layers).to(dtype)
        self.inputs, self.targets = torch.randn(n, 5).to(dtype), torch.randn(n)
        self.plan = BatchPlan((1,) * n, batch, accumulation)
        self.poison, self.before_step = set(poison), before_step
        self.identity = identity or {"data": "toy"}
        self.largest = list(range(batch)) if rehearses else None
        self.step = 0
        self.notes: list[str] = []
        self.losses: list[float] = []

    def train(self, folder: Path, **settings: Any) -> TrainingResult:
        """Runs the loop into ``folder``: two epochs, every step logged, unless ``settings`` say otherwise."""
        given = {"output_dir": str(folder), "num_train_epochs": 2, "logging_steps": 1, "save_strategy": "no"}
        folder.mkdir(parents=True, exist_ok=True)
        watch = Watch(lambda step, figures: self.losses.append(figures["loss"]), self.notes.append)
        config = TrainingConfig(**given | settings)
        return train(self.work(), config, config.learning_rate or RATE, folder, Accelerator(cpu=True), watch)

    def work(self) -> Work[list[int]]:
        """What the loop is given."""
        return Work(
            module=self.module,
            micro_batches=self._micro_batches,
            items=lambda step: len(self.plan.members(step)),
            compute=self._compute,
            name=lambda batch: ", ".join(f"pair-{i}" for i in batch),
            evaluate=lambda step: {"eval_weight": float(next(self.module.parameters()).detach().double().sum())},
            steps_per_epoch=self.plan.steps_per_epoch,
            identity=self.identity,
            largest=self.largest,
        )

    def parameters(self) -> list[Tensor]:
        """Copies of the parameters as they are."""
        return [parameter.detach().clone() for parameter in self.module.parameters()]

    def _micro_batches(self, step: int) -> list[list[int]]:
        self.step = step
        self.before_step(step)
        return self.plan.micro_batches(step)

    def _compute(self, module: nn.Module, batch: list[int]) -> Computed:
        output = module(self.inputs[batch])[:, 0].float()
        factors = torch.tensor([float("nan") if (self.step, i) in self.poison else 1.0 for i in batch])
        losses = factors * (output - self.targets[batch]).square()
        return Computed(losses.sum(), len(batch), 10 * len(batch), {"output": (output.sum().detach(), len(batch))})


def curves(folder: Path) -> list[dict[str, Any]]:
    """The rows of ``metrics.jsonl`` without what the clock says."""
    clock = {"time", "pairs_per_second", "tokens_per_second", "memory/rss_mib"}
    return [
        {name: value for name, value in row.items() if name not in clock}
        for row in read_metrics(folder / "metrics.jsonl")
    ]
