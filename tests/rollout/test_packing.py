"""Packed weights give the numbers of the layers they stand for, and go without a trace."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from preftune.models.adapters import add_adapter
from preftune.models.settings import ModelConfig
from preftune.rollout import packing
from preftune.rollout.packing import packed_linears
from tests.models import tiny_models as tiny


def _packed(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if "forward" in vars(module)]


def _hidden(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])).logits


@pytest.mark.parametrize("build", [tiny.llama, tiny.qwen2, tiny.opt, tiny.gpt2], ids=lambda build: build.__name__)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_numbers_stay_and_nothing_is_left_behind(build: Any, dtype: torch.dtype) -> None:
    """OPT's layers have biases, Qwen's some of them; GPT-2 has but one linear layer, the head."""
    model = build().to(dtype)
    expected = _hidden(model)
    with packed_linears(model, rows=8):
        assert len(_packed(model)) == sum(type(module) is nn.Linear for module in model.modules())
        found = _hidden(model)
    assert torch.allclose(found, expected, atol=1e-5 if dtype == torch.float32 else 0.02 * float(expected.abs().max()))
    assert _packed(model) == []
    assert torch.equal(_hidden(model), expected)


def test_siblings_are_one_product() -> None:
    model = tiny.llama()
    products: list[int] = []
    multiply = packing._multiply

    def counted(*arguments: Any) -> torch.Tensor:
        products.append(1)
        return multiply(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "_multiply", counted)
        with packed_linears(model, rows=8):
            _hidden(model)
    assert len(products) == 2 * 4 + 1  # qkv, o, gate and up, down; the head


def test_a_sibling_asked_alone_or_twice_gives_its_own_product() -> None:
    attention: Any = tiny.llama().model.layers[0].self_attn  # type: ignore[union-attr]
    x, y = torch.randn(2, 3, 32, generator=torch.Generator().manual_seed(0)).unbind()
    with torch.no_grad():
        expected = {name: [getattr(attention, name)(one) for one in (x, y)] for name in ("q_proj", "k_proj", "v_proj")}
        with packed_linears(attention, rows=3):
            for name, number in [("v_proj", 0), ("v_proj", 0), ("q_proj", 0), ("q_proj", 1), ("k_proj", 0)]:
                found = getattr(attention, name)((x, y)[number])
                assert torch.allclose(found, expected[name][number], atol=1e-6)
            attention.q_proj(x)
            kept = x.clone()
            x.mul_(2)
            attention.q_proj(x)
            assert torch.allclose(
                attention.k_proj(x), 2 * nn.functional.linear(kept, attention.k_proj.weight), atol=1e-5
            )


def test_layers_come_back_after_an_error() -> None:
    model = tiny.llama()
    with pytest.raises(KeyError), packed_linears(model, rows=8):
        raise KeyError
    assert _packed(model) == []


def test_adapters_stay_in_effect() -> None:
    model = add_adapter(tiny.llama(), ModelConfig(model="unused", use_peft=True))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.5, generator=torch.Generator().manual_seed(0))
    expected = _hidden(model)
    with packed_linears(model, rows=8):
        assert any("base_layer" in name for name in _packed(model))
        assert torch.allclose(_hidden(model), expected, atol=1e-5)


def test_memory_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.llama()
    size = sum(module.weight.nbytes for module in model.modules() if type(module) is nn.Linear)
    monkeypatch.setattr(packing, "PACKED_BYTES", size // 2)
    expected = _hidden(model)
    with packed_linears(model, rows=8):
        assert 0 < sum(model.get_submodule(name).weight.nbytes for name in _packed(model)) <= size // 2  # type: ignore[union-attr]
        assert torch.allclose(_hidden(model), expected, atol=1e-5)


def test_layers_of_other_kinds_are_left_alone() -> None:
    class Special(nn.Linear):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return super().forward(input) + 1

    model = nn.Sequential(Special(4, 4), nn.Linear(4, 4).half(), nn.Linear(4, 4, dtype=torch.float64))
    with packed_linears(model, rows=8):
        assert _packed(model) == []
