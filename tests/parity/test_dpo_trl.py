"""DPO in TRL's DPOTrainer and here, beyond its losses: accumulation, conservative DPO, an adapter."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from preftune.methods import policy
from preftune.models.adapters import add_adapter
from preftune.models.settings import ModelConfig
from tests.parity.side_by_side import (
    WITHIN,
    Case,
    Curves,
    Start,
    beyond,
    both_curves,
    furthest,
    our_curves,
    trl_curves,
)

pytest.importorskip("trl")
pytestmark = pytest.mark.parity


def test_curves_with_accumulation_are_trls(start: Start, tmp_path: Path) -> None:
    """Each epoch's eighth step has one micro-batch instead of two; TRL's entropy is a mean of their means."""
    case = Case("accumulation", "dpo", {"beta": 0.1, "gradient_accumulation_steps": 2}, aside=frozenset({"entropy"}))
    _compare(case, *both_curves(case, start, tmp_path))


def test_curves_with_label_smoothing_are_trls(start: Start, tmp_path: Path) -> None:
    """TRL's sigmoid loss C leaves e out, but with its robust loss R = ((1-e) C - e F) / (1 - 2e), F flipped,

    conservative DPO is (1-e) C + e F = 2 (1-e) C - (1 - 2e) R.
    """
    e = 0.1
    theirs = {"loss_type": ["sigmoid", "robust"], "loss_weights": [2 * (1 - e), -(1 - 2 * e)]}
    case = Case("smoothing", "dpo", {"beta": 0.1, "label_smoothing": e}, theirs=theirs)
    _compare(case, *both_curves(case, start, tmp_path), ends_below=0.4)


def test_curves_of_an_adapter_are_trls(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both begin with the same adapter."""
    lora = ModelConfig(model="unused", use_peft=True, lora_r=4, lora_alpha=8)
    beginning: dict[str, torch.Tensor] = {}

    def begin(model: nn.Module, config: ModelConfig) -> nn.Module:
        adapted = add_adapter(model, config)
        beginning.update({name: p.detach().clone() for name, p in adapted.named_parameters() if p.requires_grad})
        return adapted

    monkeypatch.setattr(policy, "add_adapter", begin)
    adapter = {"use_peft": True, "lora_r": lora.lora_r, "lora_alpha": lora.lora_alpha}
    case = Case("adapter", "dpo", {"beta": 0.1, "learning_rate": 5e-3}, adapter)
    ours = our_curves(case, start, tmp_path / "ours")
    model = AutoModelForCausalLM.from_pretrained(start.world.model, dtype=torch.float32)
    adapted = add_adapter(model.requires_grad_(False), lora)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if name in beginning:
                parameter.copy_(beginning[name])
    assert beginning
    _compare(case, ours, trl_curves(case, start, tmp_path / "theirs", model=adapted))


def _compare(case: Case, ours: Curves, theirs: Curves, ends_below: float = 0.3) -> None:
    assert theirs[-1]["loss"] < ends_below, "nothing was learnt: the comparison says little"
    found = furthest(ours, theirs, case.aside)
    assert not beyond(found)
    assert found.keys() >= WITHIN.keys() | {"rewards/margins", "rewards/accuracies", "logps/chosen", "logps/rejected"}
