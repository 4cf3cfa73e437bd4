"""What a kind of work keeps beside the loop, figures it adds, and steps it leaves out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from preftune.training.loop import TrainingResult, Watch, train
from preftune.training.settings import TrainingConfig
from tests.training.toy import RATE, Toy, curves


class Counter:
    """Counts what it is told, and keeps a tensor."""

    def __init__(self) -> None:
        self.told: list[int] = []
        self.kept = torch.zeros(2)

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        return {"kept": self.kept}, {"told": list(self.told)}

    def load_state(self, tensors: Mapping[str, torch.Tensor], values: Mapping[str, Any]) -> None:
        self.kept, self.told = tensors["kept"], list(values["told"])


def run(toy: Toy, folder: Path, counter: Counter, left_out: set[int] | None = None, **settings: Any) -> TrainingResult:
    """The loop with a counter beside it; steps ``left_out`` have no micro-batches."""
    work = toy.work()
    whole = work.micro_batches

    def told(step: int, computed: Any) -> None:
        counter.told.append(len(computed))
        counter.kept = counter.kept + 1

    work = replace(
        work,
        micro_batches=lambda step: [] if step in (left_out or ()) else whole(step),
        figures=lambda step: {"window": (2.0 * step, 2.0)},
        told=told,
        carried=counter,
    )
    folder.mkdir(parents=True, exist_ok=True)
    given = {"output_dir": str(folder), "num_train_epochs": 2, "logging_steps": 1, "save_strategy": "no"} | settings
    config = TrainingConfig(**given)
    return train(work, config, RATE, folder, Accelerator(cpu=True), Watch())


def test_figures_of_the_step_are_logged(tmp_path: Path) -> None:
    run(Toy(), tmp_path, Counter())
    assert [row["window"] for row in curves(tmp_path) if "window" in row] == [0, 1, 2, 3, 4, 5]


def test_a_step_without_micro_batches_changes_nothing_and_counts(tmp_path: Path) -> None:
    counter, toy = Counter(), Toy()
    before = toy.parameters()
    result = run(toy, tmp_path, counter, left_out=set(range(6)))
    assert result.steps == 6
    assert counter.told == [0] * 6
    assert all(torch.equal(one, other) for one, other in zip(before, toy.parameters(), strict=True))
    assert all("grad_norm" not in row for row in curves(tmp_path))


def test_what_is_carried_comes_back_with_the_checkpoint(tmp_path: Path) -> None:
    whole, cut = Counter(), Counter()
    run(Toy(dropout=0.1), tmp_path / "whole", whole, left_out={2})
    settings = {"save_strategy": "steps", "save_steps": 4}
    run(Toy(dropout=0.1), tmp_path / "cut", Counter(), left_out={2}, **settings)
    toy = Toy(dropout=0.1)
    run(toy, tmp_path / "cut", cut, left_out={2}, resume=True, **settings)
    assert cut.told == whole.told
    assert torch.equal(cut.kept, whole.kept)
    assert curves(tmp_path / "whole") == curves(tmp_path / "cut")
