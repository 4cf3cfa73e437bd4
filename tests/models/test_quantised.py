"""Weights in 4 and 8 bits: the same numbers everywhere, adapters that learn on them, and nothing lost in merging."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from pydantic import ValidationError
from torch import Tensor, nn

from preftune.errors import PreftuneError
from preftune.models.adapters import add_adapter, save_model
from preftune.models.head import find_head
from preftune.models.layout import Group
from preftune.models.lean_modules import make_lean
from preftune.models.loading import load_model
from preftune.models.logprobs import LogProbEngine
from preftune.models.merging import load_base, merged_copy
from preftune.models.paths import cheapest_path
from preftune.models.quantised import dequantise, is_quantised
from preftune.models.reference import ReferenceGuard, adapter_off, live, separate_model
from preftune.models.settings import ModelConfig
from preftune.models.weights import all_parameters, count_weights, fingerprint_weights
from tests.tiny_world import make_model, make_tokenizer

bnb = pytest.importorskip("bitsandbytes")

CPU = torch.device("cpu")
TOKENIZER = make_tokenizer()
WIDTH = 64
GROUPS = [
    Group([1, 80, 90, 100], ([110, 120, 2], [130, 140, 150, 2])),
    Group([1, 85, 95, 105, 115, 125], ([200, 2], [210, 220, 230])),
]
WAYS: dict[str, dict[str, Any]] = {
    "nf4": {"load_in_4bit": True},
    "fp4": {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4"},
    "nested": {"load_in_4bit": True, "use_bnb_nested_quant": True},
    "int8": {"load_in_8bit": True},
}
EVERY = pytest.mark.parametrize("way", WAYS)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    make_model(len(TOKENIZER), width=WIDTH).save_pretrained(tmp_path / "base")
    return tmp_path / "base"


# --- what is refused ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["load_in_4bit", "load_in_8bit"])
def test_quantised_weights_are_not_trained_whole(name: str) -> None:
    settings: dict[str, Any] = {name: True}
    with pytest.raises(ValidationError, match=rf"{name}: quantised weights cannot be trained whole; add --use_peft"):
        ModelConfig(model="any", **settings)
    assert getattr(ModelConfig(model="any", use_peft=True, **settings), name)


def test_four_and_eight_bits_exclude_each_other() -> None:
    with pytest.raises(ValidationError, match="exclude each other"):
        ModelConfig(model="any", use_peft=True, load_in_4bit=True, load_in_8bit=True)


def test_folder_stored_quantised_is_not_trained_whole(base: Path, tmp_path: Path) -> None:
    """Under an adapter it is, and gives the numbers it had."""
    model: Any = load_model(_config(base, "nf4"), CPU)
    model.save_pretrained(tmp_path / "stored")
    config = ModelConfig(model=str(tmp_path / "stored"), dtype="float32")
    with pytest.raises(PreftuneError, match=r"stored quantised.*Add --use_peft"):
        load_base(config, CPU)
    expected = LogProbEngine(model)(GROUPS).per_token
    for settings in ({}, {"load_in_4bit": True}):
        start = load_base(config.model_copy(update={"use_peft": True, **settings}), CPU)
        assert torch.equal(LogProbEngine(start.model)(GROUPS).per_token, expected)


def test_missing_bitsandbytes_is_named_with_its_mend(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(PreftuneError, match=r"pip install 'preftune\[quantised\]'"):
        load_model(_config(base, "nf4"), CPU)


# --- what is loaded -------------------------------------------------------------------------------------


@EVERY
def test_matrices_are_quantised_and_the_rest_is_not(way: str, base: Path) -> None:
    model: Any = load_model(_config(base, way), CPU)
    kind = bnb.nn.Linear8bitLt if way == "int8" else bnb.nn.Linear4bit
    assert sum(isinstance(module, kind) for module in model.modules()) == 14
    assert type(model.lm_head) is nn.Linear and find_head(model) is not None
    rest = {name: p.dtype for name, p in model.named_parameters() if "proj" not in name}
    assert set(rest.values()) == {torch.float32}
    assert count_weights(model)[1] == sum(p.numel() for p in make_model(len(TOKENIZER), width=WIDTH).parameters())


@EVERY
def test_weights_are_within_half_a_step_of_the_originals(way: str, base: Path) -> None:
    """Of their block's, or with 8 bits of their row's, values."""
    whole = make_model(len(TOKENIZER), width=WIDTH).state_dict()
    gaps = {"nf4": 0.16, "fp4": 0.17, "nested": 0.17, "int8": 0.5 / 127 + 1e-3}  # half the widest, of the largest value
    plain = dequantise(load_model(_config(base, way), CPU)).state_dict()
    assert plain.keys() == whole.keys()
    for name, original in whole.items():
        size = original.shape[-1] if way == "int8" or "proj" not in name else 64
        blocks, found = original.reshape(-1, size), plain[name].reshape(-1, size)
        largest = blocks.abs().amax(1, keepdim=True)
        allowed = gaps[way] * largest if "proj" in name else 0 * largest
        assert ((blocks - found).abs() <= allowed).all(), name


@EVERY
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_engine_takes_its_cheapest_path(way: str, tied: bool, tmp_path: Path) -> None:
    make_model(len(TOKENIZER), width=WIDTH, tie_word_embeddings=tied).save_pretrained(tmp_path)
    model = load_model(_config(tmp_path, way), CPU)
    notes: list[str] = []
    engine = LogProbEngine(model, note=notes.append)
    assert (engine.path, notes) == ("packed", [])
    truth = LogProbEngine(dequantise(load_model(_config(tmp_path, way), CPU)), path="logits")
    assert torch.allclose(engine(GROUPS).per_token, truth(GROUPS).per_token, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize(
    ("dtype", "off", "path"),
    [(torch.bfloat16, 2, "packed"), (torch.bfloat16, 15, "logits"), (torch.float32, 2, "logits")],
)
def test_tokens_that_amplify_rounding_cost_no_path(dtype: torch.dtype, off: int, path: str) -> None:
    """Below float32, and as long as they are few: a wrong mask moves nearly all."""
    model, truth = make_model(len(TOKENIZER)).to(dtype), torch.linspace(-25, -10, 15)
    moved = truth + 4.0 * (torch.arange(15) < off)
    numbers = {"packed": moved, "logits": truth}
    found = cheapest_path(model, ("packed", "logits"), numbers.__getitem__, what="log-probs", note=lambda _: None)
    assert found == path


@EVERY
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_training_and_evaluation_give_the_same_numbers(way: str, dtype: str, base: Path) -> None:
    """bitsandbytes alone would repack or round what it is given in evaluation."""
    engine = _engine(_config(base, way, dtype))
    engine.train()
    first = engine(GROUPS).per_token
    engine.eval()
    with torch.no_grad():
        evaluated = engine(GROUPS).per_token
    engine.train()
    again = engine(GROUPS).per_token
    assert again.requires_grad
    assert torch.equal(first, evaluated) and torch.equal(first, again)


@EVERY
def test_log_probs_depend_on_no_other_sequence(way: str, base: Path) -> None:
    engine = LogProbEngine(load_model(_config(base, way), CPU))
    alone = torch.cat([engine([group]).per_token for group in GROUPS])
    assert torch.allclose(engine(GROUPS).per_token, alone, rtol=1e-5, atol=1e-5)


@EVERY
def test_lean_modules_take_the_place_of_the_same_modules(way: str, base: Path) -> None:
    whole, model = load_model(ModelConfig(model=str(base), dtype="float32"), CPU), load_model(_config(base, way), CPU)
    before = LogProbEngine(model)(GROUPS).per_token
    assert make_lean(model) == make_lean(whole) > 0
    assert torch.allclose(LogProbEngine(model)(GROUPS).per_token, before, rtol=1e-5, atol=1e-5)


# --- what is guarded ------------------------------------------------------------------------------------


def _edit_code(model: Any) -> None:
    model.model.layers[1].mlp.up_proj.weight.data.view(-1)[5] += 1


def _edit_scale(model: Any) -> None:
    weight = model.model.layers[1].mlp.up_proj.weight
    scales = weight.SCB if hasattr(weight, "SCB") else weight.quant_state.absmax
    scales.view(-1)[1] += 1 if scales.dtype == torch.uint8 else 1e-6


def _edit_nested_scale(model: Any) -> None:
    model.model.layers[1].mlp.up_proj.weight.quant_state.state2.absmax[0] += 1e-6


@pytest.mark.parametrize(
    ("way", "edit"),
    [(way, edit) for way in WAYS for edit in (_edit_code, _edit_scale)] + [("nested", _edit_nested_scale)],
)
def test_reference_whose_quantised_weights_move_is_found(way: str, edit: Any, base: Path) -> None:
    """Scales count: without them the bytes are no weights."""
    engine = LogProbEngine(load_model(_config(base, way), CPU))
    guard = ReferenceGuard(live(separate_model(engine)))
    engine(GROUPS)
    guard.check("step 1")
    edit(engine.model)
    with pytest.raises(PreftuneError, match="has moved: at step 2"):
        guard.check("step 2")


@EVERY
def test_two_loads_have_the_same_fingerprint(way: str, base: Path) -> None:
    """So that a run resumes, and finds its reference in the cache."""
    one, other = (fingerprint_weights(all_parameters(load_model(_config(base, way), CPU))) for _ in range(2))
    assert one == other


# --- what is trained ------------------------------------------------------------------------------------


@EVERY
@pytest.mark.parametrize("extra", [{}, {"use_dora": True}], ids=["lora", "dora"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_adapter_learns_and_its_base_stays(way: str, extra: dict[str, Any], dtype: str, base: Path) -> None:
    engine = _engine(_config(base, way, dtype, **extra))
    assert {p.dtype for p in engine.parameters() if p.requires_grad} == {getattr(torch, dtype)}
    reference = adapter_off(engine)
    start, guard = reference.log_probs(GROUPS).per_token, ReferenceGuard(live(reference))
    assert torch.allclose(engine(GROUPS).per_token, start, atol=1e-6 if dtype == "float32" else 2e-2)
    losses = _train(engine)
    assert losses[-1] < losses[0] - 0.5
    assert torch.equal(reference.log_probs(GROUPS).per_token, start)
    guard.check("the end")


@EVERY
@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_are_those_of_the_same_weights_unquantised(way: str, checkpointing: bool, base: Path) -> None:
    quantised, plain = _engine(_config(base, way)), _engine(_config(base, way), whole=True)
    _copy_trained(quantised, plain)
    for engine in (quantised, plain):
        if checkpointing:
            engine.model.gradient_checkpointing_enable({"use_reentrant": False})  # type: ignore[operator]
        engine.train()
        engine(GROUPS).per_token.sum().backward()
    for (name, one), other in zip(_trained(quantised).items(), _trained(plain).values(), strict=True):
        assert one.grad is not None and other.grad is not None, name
        assert torch.allclose(one.grad, other.grad, rtol=1e-4, atol=1e-4 * float(other.grad.abs().max())), name


# --- what is saved, and started from --------------------------------------------------------------------


@EVERY
@pytest.mark.parametrize("extra", [{}, {"use_dora": True}, {"lora_modules_to_save": ("lm_head",)}])
def test_saved_adapter_and_merged_model_are_the_policy(
    way: str, extra: dict[str, Any], base: Path, tmp_path: Path
) -> None:
    """The one on the base quantised again, the other by itself, in full precision."""
    config = _config(base, way, **extra)
    engine = _engine(config)
    _train(engine)
    expected = engine(GROUPS).per_token
    save_model(engine.model, TOKENIZER, tmp_path / "adapter")
    save_model(merged_copy(engine.model), TOKENIZER, tmp_path / "merged")
    assert torch.equal(engine(GROUPS).per_token, expected)
    adapted = load_model(config.model_copy(update={"model": str(tmp_path / "adapter")}), CPU)
    assert is_quantised(adapted)
    assert torch.allclose(LogProbEngine(adapted)(GROUPS).per_token, expected, rtol=1e-5, atol=1e-5)
    merged: Any = tf.AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert not is_quantised(merged)
    assert torch.allclose(LogProbEngine(merged)(GROUPS).per_token, expected, rtol=1e-5, atol=5e-5)


@EVERY
def test_adapter_at_the_start_is_merged_before_quantising(way: str, base: Path, tmp_path: Path) -> None:
    """The start has the bits of the merged model quantised once."""
    plain = ModelConfig(model=str(base), dtype="float32", use_peft=True, lora_r=4)
    engine = LogProbEngine(add_adapter(load_model(plain, CPU).requires_grad_(False), plain))
    _train(engine, steps=1)
    save_model(engine.model, TOKENIZER, tmp_path / "adapter")
    save_model(merged_copy(engine.model), TOKENIZER, tmp_path / "merged")
    start = load_base(_config(tmp_path / "adapter", way), CPU)
    assert start.unsaved is not None and is_quantised(start.model)
    expected: Any = load_model(_config(tmp_path / "merged", way), CPU)
    assert _tensors(start.model).keys() == _tensors(expected).keys()
    assert all(torch.equal(value, _tensors(expected)[name]) for name, value in _tensors(start.model).items())
    policy = LogProbEngine(add_adapter(start.model.requires_grad_(False), _config(base, way)))
    assert _train(policy)[-1] < 10
    whole: Any = merged_copy(policy.model)
    assert torch.allclose(LogProbEngine(whole)(GROUPS).per_token, policy(GROUPS).per_token, rtol=1e-5, atol=5e-5)


# --- what the tests are made of -------------------------------------------------------------------------


def _config(model: Path, way: str, dtype: Any = "float32", **settings: Any) -> ModelConfig:
    return ModelConfig(model=str(model), dtype=dtype, use_peft=True, lora_r=4, **WAYS[way], **settings)


def _engine(config: ModelConfig, *, whole: bool = False) -> LogProbEngine:
    """The model under a new adapter; ``whole``: quantised and turned back."""
    model = load_model(config, CPU)
    model = add_adapter((dequantise(model) if whole else model).requires_grad_(False), config)
    make_lean(model)
    return LogProbEngine(model)


def _train(engine: nn.Module, steps: int = 8) -> list[float]:
    """Steps towards likelier completions; the loss before each."""
    optimizer = torch.optim.AdamW(_trained(engine).values(), lr=0.02)
    engine.train()
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = -engine(GROUPS).per_token.mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    engine.eval()
    return losses


def _trained(engine: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in engine.named_parameters() if parameter.requires_grad}


@torch.no_grad()
def _copy_trained(source: nn.Module, target: nn.Module) -> None:
    """With B shaken, or A would have no gradient."""
    draw = torch.Generator().manual_seed(0)
    for name, parameter in _trained(source).items():
        parameter.add_(0.05 * torch.randn(parameter.shape, generator=draw))
        _trained(target)[name].copy_(parameter)


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return dict(all_parameters(model))
