"""What is handed over is what save_pretrained would write, adapters merged, and the model stays as it is."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from preftune.errors import PreftuneError
from preftune.models import handover
from preftune.models.adapters import add_adapter
from preftune.models.handover import checkpoint_tensors
from preftune.models.lean_modules import make_lean
from preftune.models.merging import merged_copy
from preftune.models.settings import ModelConfig
from tests.models import tiny_models as tiny

WHOLE = [tiny.llama, tiny.llama_tied, tiny.gpt2, tiny.gemma2, tiny.mixtral, tiny.mamba]
ADAPTERS: list[dict[str, Any]] = [
    {},
    {"use_dora": True},
    {"use_rslora": True, "lora_target_modules": ("q_proj", "down_proj")},
    {"lora_modules_to_save": ("lm_head", "embed_tokens")},
    {"lora_target_modules": ("embed_tokens", "lm_head", "v_proj")},
]


def _saved(model: Any, folder: Path) -> dict[str, Tensor]:
    model.save_pretrained(folder)
    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def _adapted(build: Callable[[], nn.Module], **settings: Any) -> Any:
    """A model whose adapter, and what is trained beside it, no longer adds nothing."""
    model = add_adapter(build(), ModelConfig(model="tiny", use_peft=True, lora_r=4, **settings))
    with torch.no_grad():
        for number, parameter in enumerate(p for p in model.parameters() if p.requires_grad):
            torch.manual_seed(number)
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    return model.eval()


def _require_same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize("build", WHOLE)
def test_names_and_values_are_those_of_the_saved_files(build: Callable[[], nn.Module], tmp_path: Path) -> None:
    model = build()
    make_lean(model)
    _require_same(dict(checkpoint_tensors(model)), _saved(model, tmp_path))


@pytest.mark.parametrize("settings", ADAPTERS, ids=str)
def test_adapters_are_in_the_weights_and_the_model_stays_as_it_is(settings: dict[str, Any], tmp_path: Path) -> None:
    model = _adapted(tiny.llama, **settings)
    before = copy.deepcopy(model.state_dict())
    found = {name: tensor.clone() for name, tensor in checkpoint_tensors(model)}
    _require_same(model.state_dict(), before)
    _require_same(found, _saved(merged_copy(model), tmp_path))


def test_conv1d_adapters_are_merged_the_right_way_round(tmp_path: Path) -> None:
    model = _adapted(tiny.gpt2)
    _require_same(dict(checkpoint_tensors(model)), _saved(merged_copy(model), tmp_path))


@pytest.mark.parametrize("bits", ["load_in_4bit", "load_in_8bit"])
def test_quantised_weights_come_whole(bits: str, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    from preftune.models.quantised import quantise

    config = ModelConfig(model="tiny", use_peft=True, lora_r=4, **{bits: True})
    model = _adapted(lambda: quantise(tiny.llama(), config, torch.device("cpu")))
    found = dict(checkpoint_tensors(model))
    wanted = _saved(merged_copy(model), tmp_path)
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor)


def test_dora_on_quantised_weights_is_refused() -> None:
    pytest.importorskip("bitsandbytes")
    from preftune.models.quantised import quantise

    config = ModelConfig(model="tiny", use_peft=True, lora_r=4, load_in_8bit=True)
    model = _adapted(lambda: quantise(tiny.llama(), config, torch.device("cpu")), use_dora=True)
    with pytest.raises(PreftuneError, match=r"layers\.0.*DoRA"):
        list(checkpoint_tensors(model))


@pytest.mark.parametrize("settings", [{"lora_modules_to_save": ("lm_head",)}, {"lora_target_modules": ("lm_head",)}])
def test_an_adapter_that_parts_tied_matrices_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(PreftuneError, match="parts the LM head"):
        list(checkpoint_tensors(_adapted(tiny.llama_tied, **settings)))


def test_no_more_than_a_layer_is_merged_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    merged: list[str] = []
    original = handover._merged
    monkeypatch.setattr(handover, "_merged", lambda *given: merged.append(given[1]) or original(*given))
    found = checkpoint_tensors(_adapted(tiny.llama))
    assert next(found)[0] == "model.embed_tokens.weight"
    assert next(found)[0].startswith("model.layers.0.")
    of_the_first = sum("layers.0." in name for name in merged)
    assert of_the_first == 7 and len(merged) <= of_the_first + 1  # to see where a layer ends, one more is looked at
