"""The same run twice: one model, the same rows in the same order and the same settings, in TRL's trainer and here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from preftune.models.reward_models import load_scorer
from preftune.models.settings import ModelConfig
from tests.methods.tiny_runs import curves, run
from tests.tiny_world import World, make_tokenizer, pair_rows, write_rows

STEPS, ROWS, BATCH = 50, 60, 4
# transformers' names, which are also ours.
SHARED: dict[str, Any] = {
    "learning_rate": 1e-3,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 5,
    "weight_decay": 0.01,
    "max_grad_norm": 1.0,
    "per_device_train_batch_size": BATCH,
    "logging_steps": 1,
    "save_strategy": "no",
    "seed": 0,
    "max_length": None,
    "train_sampling_strategy": "sequential",
}
OURS: dict[str, Any] = {"eval_fraction": 0.0, "num_samples": 0, "num_completions": 0, "eval_strategy": "no"}
THEIRS: dict[str, Any] = {
    "use_cpu": True,
    "bf16": False,
    "report_to": [],
    "disable_tqdm": True,
    "gradient_checkpointing": False,
}
NOT_FIGURES = {"step", "epoch"}
WITHIN = {"loss": 1e-5, "learning_rate": 1e-12, "grad_norm": 1e-3}
OTHERS_WITHIN = 1e-4

Curves = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Case:
    """A method with settings: those of both sides by the names they share, then what either is told alone.

    ``shape`` names the rows, of which there are ``rows``; ``trainer`` is TRL's where it is not named as ours.
    ``replaces`` stands in for a part of ours while it runs. ``aside`` are figures both log under one name for
    different things. ``note`` says what is told apart, or in which way the two differ and why.
    """

    name: str
    method: str
    both: dict[str, Any] = field(default_factory=dict)
    ours: dict[str, Any] = field(default_factory=dict)
    theirs: dict[str, Any] = field(default_factory=dict)
    trainer: str = ""
    shape: str = "pairs"
    rows: int = ROWS
    replaces: Callable[[], AbstractContextManager[Any]] = nullcontext
    aside: frozenset[str] = frozenset()
    note: str = ""


@dataclass(frozen=True)
class Start:
    """The language model and the reward model that both sides begin from, as folders."""

    world: World
    scorer: Path


def make_start(world: World, folder: Path) -> Start:
    """``world`` with a reward model whose new head is drawn once, so that both sides have the same."""
    torch.manual_seed(0)
    scorer: Any = load_scorer(ModelConfig(model=str(world.model), dtype="float32"), torch.device("cpu"))
    scorer.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return Start(world, folder)


def both_curves(case: Case, start: Start, folder: Path, steps: int = STEPS) -> tuple[Curves, Curves]:
    """Ours and TRL's: a row of figures each step."""
    ours, theirs = our_curves(case, start, folder / "ours", steps), trl_curves(case, start, folder / "theirs", steps)
    if not len(ours) == len(theirs) == steps:
        raise ValueError(f"{case.name}: {len(ours)} rows here, {len(theirs)} of TRL, {steps} steps asked for")
    return ours, theirs


def our_curves(case: Case, start: Start, folder: Path, steps: int = STEPS) -> Curves:
    """The run through `methods/run.py`, as the command line starts it."""
    data = write_rows(folder.with_name(f"{folder.name}.jsonl"), rows_of(case))
    places = {"data": str(data), "model": str(start.scorer if case.method == "reward" else start.world.model)}
    with case.replaces():
        run(start.world, folder, method=case.method, **OURS | SHARED | places | case.both | case.ours, max_steps=steps)
    return [row for row in curves(folder) if "loss" in row]


def trl_curves(case: Case, start: Start, folder: Path, steps: int = STEPS, model: nn.Module | None = None) -> Curves:
    """The run of TRL's trainer on ``model``, or else on the one that ours begins from."""
    from datasets import Dataset

    config, trainer_class = _trl_classes(case.trainer or case.method)
    arguments = config(output_dir=str(folder), max_steps=steps, **THEIRS | SHARED | case.both | case.theirs)
    trainer = trainer_class(
        model=model or _load(case, start),
        args=arguments,
        processing_class=make_tokenizer(),
        train_dataset=Dataset.from_list(rows_of(case)),
    )
    trainer.train()
    return [row for row in trainer.state.log_history if "loss" in row]


def furthest(ours: Curves, theirs: Curves, aside: frozenset[str] = frozenset()) -> dict[str, float]:
    """The largest difference over all steps of each figure that both log; relative where TRL's is above 1."""
    names = [name for name in theirs[0] if name in ours[0] and name not in NOT_FIGURES | aside]
    return {name: max(_gaps(name, ours, theirs)) for name in names}


def beyond(found: Mapping[str, float]) -> dict[str, float]:
    """The figures of ``furthest`` that differ by more than rounding."""
    return {name: gap for name, gap in found.items() if not gap <= WITHIN.get(name, OTHERS_WITHIN)}


def rows_of(case: Case) -> list[dict[str, Any]]:
    """The rows of the case, as both sides read them."""
    return _SHAPES[case.shape](pair_rows(case.rows))


def _gaps(name: str, ours: Curves, theirs: Curves) -> list[float]:
    return [
        abs(one[name] - other[name]) / max(1.0, abs(other[name]))
        for one, other in zip(ours, theirs, strict=True)
        if name in one and name in other
    ]


def _load(case: Case, start: Start) -> nn.Module:
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    if case.method == "reward":
        return AutoModelForSequenceClassification.from_pretrained(start.scorer, dtype=torch.float32)
    return AutoModelForCausalLM.from_pretrained(start.world.model, dtype=torch.float32)


@cache
def _trl_classes(name: str) -> tuple[Any, Any]:
    import trl
    from trl.experimental import cpo, orpo

    return {
        "sft": (trl.SFTConfig, trl.SFTTrainer),
        "reward": (trl.RewardConfig, trl.RewardTrainer),
        "dpo": (trl.DPOConfig, trl.DPOTrainer),
        "kto": (trl.KTOConfig, trl.KTOTrainer),
        "orpo": (orpo.ORPOConfig, orpo.ORPOTrainer),
        "cpo": (cpo.CPOConfig, cpo.CPOTrainer),
    }[name]


def _pairs(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{name: row[name] for name in ("prompt", "chosen", "rejected")} for row in rows]


def _pairs_with_margins(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [pair | {"margin": 0.25 * (number % 3)} for number, pair in enumerate(_pairs(rows))]


def _demonstrations(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{"prompt": row["prompt"], "completion": row["chosen"]} for row in rows]


def _labels(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Good and bad in turn, a prompt once."""
    sides = ("chosen", "rejected")
    return [
        {"prompt": row["prompt"], "completion": row[sides[number % 2]], "label": number % 2 == 0}
        for number, row in enumerate(rows)
    ]


_SHAPES: dict[str, Callable[[Sequence[Mapping[str, Any]]], list[dict[str, Any]]]] = {
    "pairs": _pairs,
    "pairs with margins": _pairs_with_margins,
    "demonstrations": _demonstrations,
    "labels": _labels,
}
