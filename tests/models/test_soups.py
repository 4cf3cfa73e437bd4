"""Weights between models: exact at the ends, linear between, and refused where models do not fit together."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from preftune.errors import PreftuneError
from preftune.models.soups import interpolate, sweep_weights
from preftune.models.tensor_files import stored_tensors, write_tensors
from tests.tiny_world import World, make_model, make_tokenizer

IDS = torch.tensor([[1, 80, 90, 100, 110, 120]])
TARGETS = ["q_proj", "v_proj", "down_proj"]


def save(folder: Path, seed: int, *, dtype: torch.dtype = torch.float32, **changes: Any) -> Path:
    tokenizer = make_tokenizer()
    make_model(changes.pop("vocab", len(tokenizer)), seed=seed, **changes).to(dtype).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_adapter(base: Path, folder: Path, seed: int, *, rank: int = 4, alpha: float = 8, **more: Any) -> Path:
    torch.manual_seed(seed)
    settings = {"r": rank, "lora_alpha": alpha, "target_modules": TARGETS, "task_type": "CAUSAL_LM"} | more
    auto = AutoModelForCausalLM
    if settings["task_type"] == "SEQ_CLS":
        auto = AutoModelForSequenceClassification
    loaded = auto.from_pretrained(base, **({"num_labels": 1} if auto is not AutoModelForCausalLM else {}))
    model = get_peft_model(loaded, LoraConfig(**settings))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                parameter.normal_(std=0.2)
    model.save_pretrained(folder)
    return folder


def weights_of(folder: Path) -> dict[str, Tensor]:
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


def logits(folder: Path) -> Tensor:
    return AutoModelForCausalLM.from_pretrained(folder)(IDS).logits


def updates(base: Path, folder: Path) -> dict[str, Tensor]:
    """What the adapter adds to each matrix of its base, by peft's own arithmetic."""
    model: Any = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder)
    before = {name: tensor.clone() for name, tensor in AutoModelForCausalLM.from_pretrained(base).named_parameters()}
    merged = model.merge_and_unload()
    return {name: tensor - before[name] for name, tensor in merged.named_parameters()}


# --- whole models ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("models")
    return save(folder / "a", 1), save(folder / "b", 2)


@pytest.mark.parametrize(("weights", "which"), [((1.0, 0.0), 0), ((0.0, 1.0), 1)])
def test_all_weight_on_one_model_gives_its_very_bits(
    weights: tuple[float, float], which: int, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    mixed = weights_of(interpolate(pair, weights, tmp_path / "soup"))
    original = weights_of(pair[which])
    assert mixed.keys() == original.keys()
    assert all(torch.equal(mixed[name], original[name]) for name in original)


def test_a_soup_is_linear_in_its_weights(pair: tuple[Path, Path], tmp_path: Path) -> None:
    first, second = (weights_of(folder) for folder in pair)
    for share in (0.25, 0.7, -0.5):
        mixed = weights_of(interpolate(pair, (1 - share, share), tmp_path / f"soup{share}"))
        for name, tensor in mixed.items():
            torch.testing.assert_close(tensor, first[name] + share * (second[name] - first[name]))


def test_a_soup_loads_with_its_tokenizer_and_says_what_went_in(pair: tuple[Path, Path], tmp_path: Path) -> None:
    soup = interpolate(pair, (0.5, 0.5), tmp_path / "soup")
    assert logits(soup).isfinite().all()
    assert (soup / "tokenizer.json").read_bytes() == (pair[0] / "tokenizer.json").read_bytes()
    assert (soup / "chat_template.jinja").is_file()
    said = json.loads((soup / "soup.json").read_text())["soup_of"]
    assert [entry["weight"] for entry in said] == [0.5, 0.5]


def test_three_models_and_files_in_shards_mix_too(pair: tuple[Path, Path], tmp_path: Path) -> None:
    sharded = tmp_path / "sharded"
    AutoModelForCausalLM.from_pretrained(save(tmp_path / "c", 3)).save_pretrained(sharded, max_shard_size="60KB")
    assert len(list(sharded.glob("*.safetensors"))) > 1
    mixed = weights_of(interpolate([*pair, sharded], (0.2, 0.3, 0.5), tmp_path / "soup"))
    parts = [weights_of(folder) for folder in (*pair, sharded)]
    for name, tensor in mixed.items():
        torch.testing.assert_close(tensor, 0.2 * parts[0][name] + 0.3 * parts[1][name] + 0.5 * parts[2][name])


def test_bfloat16_is_kept_and_the_mean_is_rounded_once(tmp_path: Path) -> None:
    folders = [save(tmp_path / str(seed), seed, dtype=torch.bfloat16) for seed in (1, 2)]
    first, second = (weights_of(folder) for folder in folders)
    for name, tensor in weights_of(interpolate(folders, (0.3, 0.7), tmp_path / "soup")).items():
        assert tensor.dtype == torch.bfloat16
        assert torch.equal(tensor, (0.3 * first[name].float() + 0.7 * second[name].float()).to(torch.bfloat16))


def test_a_model_with_weight_zero_may_hold_anything_finite_or_not(pair: tuple[Path, Path], tmp_path: Path) -> None:
    spoilt = shutil.copytree(pair[1], tmp_path / "spoilt")
    tensors = weights_of(spoilt)
    save_file({name: tensor * float("nan") for name, tensor in tensors.items()}, spoilt / "model.safetensors")
    mixed = weights_of(interpolate([pair[0], spoilt], (1, 0), tmp_path / "soup"))
    assert all(tensor.isfinite().all() for tensor in mixed.values())


def test_one_tensor_at_a_time_is_read(pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from preftune.models import soups

    held: list[int] = []
    real = soups._mean

    def watch(stored: Any, *arguments: Any) -> Tensor:
        held.append(len(stored))
        return real(stored, *arguments)

    monkeypatch.setattr(soups, "_mean", watch)
    interpolate(pair, (0.5, 0.5), tmp_path / "soup")
    assert held == [2] * len(weights_of(pair[0]))


def test_written_tensors_are_what_safetensors_reads(tmp_path: Path) -> None:
    tensors = {
        "a": torch.randn(3, 5),
        "b": torch.randn(7).to(torch.bfloat16),
        "c": torch.arange(4),
        "d": torch.tensor(2.5),
        "e": torch.tensor([True, False]),
        "f": torch.empty(0, 3),
    }
    save_file(tensors, tmp_path / "model.safetensors")
    layout = stored_tensors(tmp_path)
    write_tensors(tmp_path / "again.safetensors", layout, lambda name: layout[name].read())
    again = load_file(tmp_path / "again.safetensors")
    assert again.keys() == tensors.keys()
    assert all(torch.equal(again[name], tensors[name]) and again[name].dtype == tensors[name].dtype for name in tensors)


def test_a_sweep_goes_from_one_model_to_the_other() -> None:
    assert sweep_weights(5) == [(1, 0), (0.75, 0.25), (0.5, 0.5), (0.25, 0.75), (0, 1)]
    with pytest.raises(PreftuneError, match="at least 2"):
        sweep_weights(1)


# --- adapters -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.3, 0.7)])
@pytest.mark.parametrize("other", [{}, {"rank": 2, "alpha": 3}, {"rank": 9, "use_rslora": True}])
def test_the_update_of_adapters_is_the_mean_of_their_updates(
    shares: tuple[float, float], other: dict[str, Any], pair: tuple[Path, Path], tmp_path: Path
) -> None:
    base = pair[0]
    folders = [save_adapter(base, tmp_path / "a", 1), save_adapter(base, tmp_path / "b", 2, **other)]
    soup = interpolate(folders, shares, tmp_path / "soup")
    first, second, mixed = (updates(base, folder) for folder in (*folders, soup))
    assert sum(bool(tensor.any()) for tensor in mixed.values()) == 2 * len(TARGETS)
    for name, tensor in mixed.items():
        torch.testing.assert_close(tensor, shares[0] * first[name] + shares[1] * second[name], rtol=1e-4, atol=1e-6)


def test_all_weight_on_one_adapter_gives_its_very_bits(pair: tuple[Path, Path], tmp_path: Path) -> None:
    folders = [save_adapter(pair[0], tmp_path / "a", 1), save_adapter(pair[0], tmp_path / "b", 2, rank=2)]
    soup = interpolate(folders, (0, 1), tmp_path / "soup")
    mixed, original = weights_of(soup), weights_of(folders[1])
    assert all(torch.equal(mixed[name], original[name]) for name in original)
    assert json.loads((soup / "adapter_config.json").read_text())["r"] == 2


def test_heads_of_reward_adapters_are_mixed_and_their_calibration_left_out(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    more = {"task_type": "SEQ_CLS", "modules_to_save": ["score"]}
    folders = [save_adapter(pair[0], tmp_path / name, seed, **more) for name, seed in (("a", 1), ("b", 2))]
    (folders[0] / "reward.json").write_text('{"mean": 3.0, "temperature": 2.0}')
    soup = interpolate(folders, (0.5, 0.5), tmp_path / "soup")
    assert not (soup / "reward.json").exists()
    first, second, mixed = (weights_of(folder) for folder in (*folders, soup))
    (head,) = [name for name in mixed if "score" in name]
    torch.testing.assert_close(mixed[head], (first[head] + second[head]) / 2)


# --- what does not fit together -------------------------------------------------------------------------


def refusal(folders: list[Path], output: Path, weights: tuple[float, ...] = (0.5, 0.5)) -> str:
    with pytest.raises(PreftuneError) as error:
        interpolate(folders, weights, output)
    assert not output.exists() and not output.with_name(f".{output.name}-new").exists()
    return str(error.value)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"width": 64}, "hidden_size is 64 and there 32"),
        ({"num_key_value_heads": 4}, "num_key_value_heads is 4 and there 2"),
        ({"num_attention_heads": 8}, "num_attention_heads is 8 and there 4"),
        ({"rms_norm_eps": 0.1}, "rms_norm_eps is 0.1 and there"),
    ],
)
def test_another_architecture_is_told(
    changes: dict[str, Any], told: str, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    other = save(tmp_path / "other", 3, **changes)
    message = refusal([pair[0], other], tmp_path / "soup")
    assert told in message and str(other) in message and str(pair[0]) in message


def test_another_vocabulary_is_told_by_its_first_token(pair: tuple[Path, Path], tmp_path: Path) -> None:
    other = shutil.copytree(pair[1], tmp_path / "other")
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    words = tokenizer["model"]["vocab"]
    words["!"], words['"'] = words['"'], words["!"]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert "their vocabularies differ: '!' is number" in refusal([pair[0], other], tmp_path / "soup")


def test_a_missing_tensor_is_named(pair: tuple[Path, Path], tmp_path: Path) -> None:
    other = shutil.copytree(pair[1], tmp_path / "other")
    tensors = weights_of(other)
    del tensors["model.norm.weight"]
    save_file(tensors, other / "model.safetensors")
    assert "it has no model.norm.weight, which the first has" in refusal([pair[0], other], tmp_path / "soup")
    assert "it has model.norm.weight, which the first has not" in refusal([other, pair[0]], tmp_path / "soup")


@pytest.mark.parametrize(
    ("weights", "told"),
    [((0.5, 0.6), "sum to 1.1"), ((1.0,), "2 models and 1 weights"), ((float("nan"), 1.0), "not to 1")],
)
def test_weights_that_are_none_are_told(
    weights: tuple[float, ...], told: str, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    assert told in refusal(list(pair), tmp_path / "soup", weights)


def test_adapters_of_two_bases_and_other_kinds_are_told(pair: tuple[Path, Path], tmp_path: Path) -> None:
    ours = save_adapter(pair[0], tmp_path / "a", 1)
    theirs = save_adapter(pair[1], tmp_path / "b", 2)
    dora = save_adapter(pair[0], tmp_path / "dora", 3, use_dora=True)
    fewer = save_adapter(pair[0], tmp_path / "fewer", 4, target_modules=["q_proj"])
    soup = tmp_path / "soup"
    assert "its base is" in refusal([ours, theirs], soup)
    assert "use_dora is true and there false" in refusal([ours, dora], soup)
    assert "it is DoRA, whose lengths do not add up" in refusal([dora, dora], soup)
    assert "target_modules" in refusal([ours, fewer], soup)
    assert "Whole models and adapters do not mix" in refusal([ours, pair[0]], soup)


def test_what_is_there_is_never_replaced(pair: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "soup").mkdir()
    with pytest.raises(PreftuneError, match="something here already"):
        interpolate(pair, (0.5, 0.5), tmp_path / "soup")


def test_folders_without_weights_and_damaged_weights_are_told(
    world: World, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    empty = shutil.copytree(pair[0], tmp_path / "empty")
    (empty / "model.safetensors").unlink()
    assert "no weights here as safetensors" in refusal([pair[0], empty], tmp_path / "soup")
    (empty / "model.safetensors").write_bytes(b"nothing")
    assert "cannot be read" in refusal([pair[0], empty], tmp_path / "soup")
    assert "There is no such model folder" in refusal([pair[0], tmp_path / "nowhere"], tmp_path / "soup")
