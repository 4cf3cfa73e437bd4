"""The same model, pairs, order and settings in TRL's DPOTrainer and here: the same curves, step by step."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from preftune.methods import run as run_module
from preftune.models.adapters import add_adapter
from preftune.models.settings import ModelConfig
from tests.methods.tiny_runs import curves, run
from tests.tiny_world import World, make_tokenizer, pair_rows

trl = pytest.importorskip("trl")
pytestmark = pytest.mark.parity

STEPS, PAIRS = 50, 60
# transformers' names, which are also ours.
SHARED: dict[str, Any] = {
    "max_steps": STEPS,
    "learning_rate": 1e-3,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 5,
    "weight_decay": 0.01,
    "max_grad_norm": 1.0,
    "per_device_train_batch_size": 4,
    "logging_steps": 1,
    "save_strategy": "no",
    "seed": 0,
    "beta": 0.1,
    "max_length": None,
    "train_sampling_strategy": "sequential",
}
WITHIN = {
    "loss": 1e-5,
    "rewards/chosen": 1e-4,
    "rewards/rejected": 1e-4,
    "rewards/margins": 1e-4,
    "learning_rate": 1e-12,
}


@pytest.mark.parametrize("settings", [{}, {"gradient_accumulation_steps": 2}], ids=["plain", "accumulation"])
def test_curves_are_trls(settings: dict[str, Any], world: World, tmp_path: Path) -> None:
    """With accumulation, each epoch's eighth step has one micro-batch instead of two."""
    run(world, tmp_path / "ours", **OURS | SHARED | settings)
    _compare(curves(tmp_path / "ours"), _trl_curves(_model(world), tmp_path / "theirs", settings))


def test_curves_with_label_smoothing_are_trls(world: World, tmp_path: Path) -> None:
    """TRL's sigmoid loss C leaves e out, but with its robust loss R = ((1-e) C - e F) / (1 - 2e), F flipped,

    conservative DPO is (1-e) C + e F = 2 (1-e) C - (1 - 2e) R.
    """
    e = 0.1
    run(world, tmp_path / "ours", **OURS | SHARED, label_smoothing=e)
    theirs = {"loss_type": ["sigmoid", "robust"], "loss_weights": [2 * (1 - e), -(1 - 2 * e)], "label_smoothing": e}
    _compare(curves(tmp_path / "ours"), _trl_curves(_model(world), tmp_path / "theirs", theirs), ends_below=0.4)


def test_curves_of_an_adapter_are_trls(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both begin with the same adapter."""
    lora = ModelConfig(model="unused", use_peft=True, lora_r=4, lora_alpha=8)
    beginning: dict[str, torch.Tensor] = {}

    def begin(model: nn.Module, config: ModelConfig) -> nn.Module:
        adapted = add_adapter(model, config)
        beginning.update({name: p.detach().clone() for name, p in adapted.named_parameters() if p.requires_grad})
        return adapted

    monkeypatch.setattr(run_module, "add_adapter", begin)
    settings = {"learning_rate": 5e-3}
    adapter = {"use_peft": True, "lora_r": lora.lora_r, "lora_alpha": lora.lora_alpha}
    run(world, tmp_path / "ours", **OURS | SHARED | settings | adapter)
    theirs = add_adapter(_model(world).requires_grad_(False), lora)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if name in beginning:
                parameter.copy_(beginning[name])
    assert beginning
    _compare(curves(tmp_path / "ours"), _trl_curves(theirs, tmp_path / "theirs", settings))


OURS: dict[str, Any] = {"eval_fraction": 0.0, "num_samples": 0, "num_completions": 0}


def _compare(ours: list[dict[str, Any]], theirs: list[dict[str, Any]], ends_below: float = 0.3) -> None:
    assert len(ours) == len(theirs) == STEPS
    assert theirs[-1]["loss"] < ends_below, "nothing was learnt: the comparison says little"
    for name, within in WITHIN.items():
        furthest = max(abs(one[name] - other[name]) for one, other in zip(ours, theirs, strict=True))
        assert furthest < within, f"{name} differs by {furthest:.2g}"
    for one, other in zip(ours, theirs, strict=True):
        assert one["rewards/accuracies"] == pytest.approx(other["rewards/accuracies"], abs=1e-6)
        assert one["logps/chosen"] == pytest.approx(other["logps/chosen"], rel=1e-5)
        assert one["logps/rejected"] == pytest.approx(other["logps/rejected"], rel=1e-5)
        assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-3, abs=1e-4)


def _model(world: World) -> Any:
    return AutoModelForCausalLM.from_pretrained(world.model, dtype=torch.float32)


def _trl_curves(model: nn.Module, folder: Path, settings: dict[str, Any]) -> list[dict[str, Any]]:
    from datasets import Dataset

    arguments = trl.DPOConfig(
        output_dir=str(folder), use_cpu=True, bf16=False, report_to=[], disable_tqdm=True, **SHARED | settings
    )
    trainer = trl.DPOTrainer(
        model=model,
        args=arguments,
        processing_class=make_tokenizer(),
        train_dataset=Dataset.from_list(_texts(pair_rows(PAIRS))),
    )
    trainer.train()
    return [row for row in trainer.state.log_history if "loss" in row]


def _texts(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: row[name] for name in ("prompt", "chosen", "rejected")} for row in rows]
