"""With its adapter off a policy is its start, whatever the adapter trains; and what is saved is what was trained."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from preftune.errors import PreftuneError
from preftune.models.adapters import add_adapter, save_model
from preftune.models.cache import cache_folder
from preftune.models.layout import Group
from preftune.models.lean_modules import make_lean
from preftune.models.loading import load_model
from preftune.models.logprobs import LogProbEngine
from preftune.models.merging import load_base, merge_adapter, merged_copy
from preftune.models.reference import ReferenceGuard, adapter_off, live
from preftune.models.settings import ModelConfig
from preftune.models.weights import count_weights, frozen_parameters
from tests.models.tiny_gguf import write_gguf
from tests.tiny_world import make_model, make_tokenizer

CPU = torch.device("cpu")
TOKENIZER = make_tokenizer()
GROUPS = [
    Group([1, 80, 90, 100], ([110, 120, 2], [130, 140, 150, 2])),
    Group([1, 85, 95, 105, 115, 125], ([200, 2], [210, 220, 230])),
]
EMBEDDINGS, HEAD = ("embed_tokens",), ("lm_head",)
ADAPTERS: dict[str, dict[str, Any]] = {
    "lora": {},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "embeddings": {"lora_modules_to_save": EMBEDDINGS},
    "head": {"lora_modules_to_save": HEAD},
    "embeddings and head": {"lora_modules_to_save": EMBEDDINGS + HEAD},
    "dora with both": {"use_dora": True, "lora_modules_to_save": EMBEDDINGS + HEAD},
    "lora of the head": {"lora_target_modules": ("q_proj", "lm_head")},
    "lora of the embeddings": {"lora_target_modules": ("q_proj", "embed_tokens")},
    "norms": {"lora_modules_to_save": ("input_layernorm",)},
}
EVERY = pytest.mark.parametrize("name", ADAPTERS)
TIED = pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])


@EVERY
@TIED
def test_adapter_off_is_the_start_after_training(name: str, tied: bool, tmp_path: Path) -> None:
    """And the guard agrees; the policy itself has moved, and goes on training as before."""
    base, engine = _engines(tmp_path, name, tied)
    start = base(GROUPS).per_token
    assert torch.allclose(engine(GROUPS).per_token, start, rtol=1e-6, atol=1e-6)
    reference = adapter_off(engine)
    guard = ReferenceGuard(live(reference))
    trained = _trained_names(engine)
    _train(engine)
    found = reference.log_probs(GROUPS).per_token
    assert torch.allclose(found, start, rtol=1e-6, atol=1e-6)
    guard.check("step 4")
    assert _trained_names(engine) == trained
    assert (engine(GROUPS).per_token - start).abs().max() > 0.1
    assert engine.path == ("logits" if name == "lora of the head" else "packed")


@EVERY
@TIED
def test_guarded_weights_are_those_of_the_base(name: str, tied: bool, tmp_path: Path) -> None:
    """All of them, and nothing that is trained: a change of any is seen."""
    _, engine = _engines(tmp_path, name, tied)
    base = make_model(len(TOKENIZER), tie_word_embeddings=tied).state_dict()
    guarded = [tensor for _, tensor in frozen_parameters(engine.model)]
    assert all(any(_is_same(tensor, frozen) for frozen in guarded) for tensor in base.values())
    assert not any(parameter is frozen for parameter in _trained(engine) for frozen in guarded)
    guard = ReferenceGuard(live(adapter_off(engine)))
    with torch.no_grad():
        for parameter in _trained(engine):
            parameter.add_(0.1)
    guard.check("a step")
    for frozen in guarded:
        if frozen.is_floating_point():
            kept = frozen.clone()
            with torch.no_grad():
                frozen.view(-1)[-1] += 1e-3
            with pytest.raises(PreftuneError, match="has moved"):
                guard.check("a step")
            frozen.data.copy_(kept)
    guard.check("a step")


@EVERY
@TIED
def test_saved_folder_loads_with_the_same_log_probs(name: str, tied: bool, tmp_path: Path) -> None:
    """As an adapter, and merged into a model of its own."""
    _, engine = _engines(tmp_path, name, tied)
    _train(engine)
    expected = engine(GROUPS).per_token
    save_model(engine.model, TOKENIZER, tmp_path / "adapter")
    save_model(merged_copy(engine.model), TOKENIZER, tmp_path / "merged")
    assert torch.equal(engine(GROUPS).per_token, expected)
    for folder in ("adapter", "merged"):
        loaded = LogProbEngine(load_model(_config(tmp_path / folder), CPU))
        assert torch.allclose(loaded(GROUPS).per_token, expected, rtol=1e-5, atol=2e-5), folder
    assert not (tmp_path / "merged" / "adapter_config.json").exists()


@pytest.mark.parametrize("name", ["lora", "dora"])
def test_bfloat16_policy_starts_as_its_reference(name: str, tmp_path: Path) -> None:
    """DoRA divides by norms it has multiplied by: rounded differently, they would not cancel."""
    base, engine = _engines(tmp_path, name, tied=False, dtype="bfloat16")
    assert {parameter.dtype for parameter in engine.parameters()} == {torch.bfloat16}
    assert torch.allclose(engine(GROUPS).per_token, base(GROUPS).per_token, atol=1e-2)


def test_trained_head_is_taken_without_its_full_logits(tmp_path: Path) -> None:
    """Though peft wraps it: its copy while the adapter is on, the original while it is off."""
    base, engine = _engines(tmp_path, "head", tied=False)
    _train(engine)
    truth = LogProbEngine(engine.model, path="logits")
    assert engine.path == "packed"
    assert torch.allclose(engine(GROUPS).per_token, truth(GROUPS).per_token, rtol=1e-5, atol=1e-5)
    with engine.model.disable_adapter():  # type: ignore[operator]
        assert torch.allclose(engine(GROUPS).per_token, base(GROUPS).per_token, rtol=1e-6, atol=1e-6)


def test_weights_are_counted(tmp_path: Path) -> None:
    _, engine = _engines(tmp_path, "lora", tied=True)
    trained, whole = count_weights(engine.model)
    assert trained == sum(parameter.numel() for parameter in _trained(engine))
    assert whole - trained == sum(p.numel() for p in make_model(len(TOKENIZER), tie_word_embeddings=True).parameters())


# --- starts ---------------------------------------------------------------------------------------------


def test_adapter_at_the_start_is_merged(tmp_path: Path) -> None:
    _, engine = _engines(tmp_path, "dora with both", tied=True)
    _train(engine)
    save_model(engine.model, TOKENIZER, tmp_path / "adapter")
    start = load_base(_config(tmp_path / "adapter", use_peft=True), CPU)
    assert start.unsaved is not None and "merged" in start.unsaved
    assert not hasattr(start.model, "peft_config")
    found = LogProbEngine(start.model)(GROUPS).per_token
    assert torch.allclose(found, engine(GROUPS).per_token, rtol=1e-5, atol=2e-5)


def test_ordinary_start_is_saved_where_it_was(tmp_path: Path) -> None:
    _save_base(tmp_path, tied=False)
    assert load_base(_config(tmp_path / "base"), CPU).unsaved is None


def test_gguf_start_says_that_its_weights_are_in_the_cache_only(tmp_path: Path) -> None:
    """A new adapter that named the cache as its base would not outlive it; saved merged it does."""
    model = make_model(len(TOKENIZER), head_dim=8)
    file = write_gguf(tmp_path / "tiny.gguf", model, TOKENIZER)
    config = _config(file, use_peft=True, lora_r=4)
    start = load_base(config, CPU)
    assert start.unsaved is not None and "cache" in start.unsaved
    adapted = add_adapter(start.model.requires_grad_(False), config)
    engine = LogProbEngine(adapted)
    _train(engine)
    save_model(adapted, TOKENIZER, tmp_path / "adapter")
    save_model(merged_copy(adapted), TOKENIZER, tmp_path / "merged")
    shutil.rmtree(cache_folder("gguf"))
    with pytest.raises(PreftuneError, match=r"base model is not there.*made from tiny\.gguf"):
        load_model(_config(tmp_path / "adapter"), CPU)
    loaded = LogProbEngine(load_model(_config(tmp_path / "merged"), CPU))
    assert torch.allclose(loaded(GROUPS).per_token, engine(GROUPS).per_token, rtol=1e-5, atol=2e-5)
    load_model(_config(file), CPU)
    again = LogProbEngine(load_model(_config(tmp_path / "adapter"), CPU))
    assert torch.equal(again(GROUPS).per_token, engine(GROUPS).per_token)


def test_adapter_whose_base_is_gone_names_it(tmp_path: Path) -> None:
    _, engine = _engines(tmp_path, "lora", tied=False)
    save_model(engine.model, TOKENIZER, tmp_path / "adapter")
    shutil.rmtree(tmp_path / "base")
    with pytest.raises(PreftuneError, match=r"adapter's base model is not there: .*base\.") as raised:
        load_model(_config(tmp_path / "adapter"), CPU)
    assert raised.value.where == str(tmp_path / "adapter")
    assert "base_model_name_or_path" in str(raised.value.mend)


def test_adapter_of_another_width_is_one_sentence(tmp_path: Path) -> None:
    _, engine = _engines(tmp_path, "lora", tied=False)
    save_model(engine.model, TOKENIZER, tmp_path / "adapter")
    make_model(len(TOKENIZER), width=48).save_pretrained(tmp_path / "base")
    with pytest.raises(PreftuneError, match="belongs to another model") as raised:
        load_model(_config(tmp_path / "adapter"), CPU)
    assert "\n" not in str(raised.value)


def test_merging_twice_is_merging_once(tmp_path: Path) -> None:
    """A copy is merged, and the policy stays as it was."""
    _, engine = _engines(tmp_path, "dora", tied=False)
    _train(engine)
    first, second = merged_copy(engine.model), merge_adapter(engine.model)
    same = zip(first.parameters(), second.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in same)


# --- what the tests are made of -------------------------------------------------------------------------


def _engines(folder: Path, name: str, tied: bool, dtype: Any = "float32") -> tuple[LogProbEngine, LogProbEngine]:
    """The base alone, and under a new adapter; the base lies in ``folder / "base"``."""
    _save_base(folder, tied)
    config = _config(folder / "base", use_peft=True, lora_r=4, **ADAPTERS[name]).model_copy(update={"dtype": dtype})
    model = add_adapter(load_model(config, CPU).requires_grad_(False), config)
    make_lean(model)
    return LogProbEngine(load_model(config, CPU)), LogProbEngine(model)


def _save_base(folder: Path, tied: bool) -> None:
    make_model(len(TOKENIZER), tie_word_embeddings=tied).save_pretrained(folder / "base")


def _config(model: Path, **settings: Any) -> ModelConfig:
    return ModelConfig(model=str(model), dtype="float32", **settings)


def _train(engine: nn.Module) -> None:
    """Four steps towards likelier completions, as large as to move every trained number."""
    optimizer = torch.optim.AdamW(_trained(engine), lr=0.02)
    engine.train()
    for _ in range(4):
        optimizer.zero_grad()
        (-engine(GROUPS).per_token.mean()).backward()
        optimizer.step()
    engine.eval()


def _trained(engine: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in engine.parameters() if parameter.requires_grad]


def _trained_names(engine: nn.Module) -> set[str]:
    return {name for name, parameter in engine.named_parameters() if parameter.requires_grad}


def _is_same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one, other)
