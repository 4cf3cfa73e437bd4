"""Reward models from language models, reward model folders, adapters and GGUF files; clear words for the rest."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from safetensors.torch import load_file, save_file

from preftune.errors import PreftuneError
from preftune.models.adapters import add_adapter, has_adapter, save_model
from preftune.models.layout import Group
from preftune.models.loading import load_model, load_tokenizer
from preftune.models.reward_models import load_scorer, padding_token
from preftune.models.scores import ScoreEngine
from preftune.models.settings import ModelConfig
from tests.models import tiny_models
from tests.models.tiny_gguf import write_gguf
from tests.tiny_world import World, make_model, make_tokenizer

CPU = torch.device("cpu")
IDS = torch.tensor([[1, 80, 90, 100, 110]])


def _config(model: Path | str, **settings: Any) -> ModelConfig:
    return ModelConfig(**{"model": str(model), "dtype": "float32"} | settings)


# --- from a language model ------------------------------------------------------------------------------


def test_a_language_model_keeps_its_body_and_gets_a_head(world: World) -> None:
    torch.manual_seed(7)
    model: Any = load_scorer(_config(world.model), CPU)
    causal: Any = load_model(_config(world.model), CPU)
    assert torch.equal(model.base_model(IDS).last_hidden_state, causal.base_model(IDS).last_hidden_state)
    assert model.score.weight.shape == (1, 32) and model.score.bias is None
    assert not model.training and model.config.num_labels == 1


def test_a_new_heads_deviation_is_that_of_stiennon_et_al(tmp_path: Path) -> None:
    width = 512
    make_model(64, width=width, num_hidden_layers=1).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    torch.manual_seed(0)
    weight = load_scorer(_config(tmp_path), CPU).score.weight  # type: ignore[union-attr]
    assert weight.std().item() == pytest.approx(1 / math.sqrt(width + 1), rel=4 / math.sqrt(2 * width))
    assert abs(weight.mean().item()) < 4 / width


def test_a_new_head_is_the_seeds_alone(world: World) -> None:
    """Neither random numbers drawn before nor the precision change it."""
    heads = []
    for seed, dtype in [(1, "float32"), (1, "bfloat16"), (2, "float32")]:
        torch.manual_seed(seed)
        torch.rand(len(heads))
        heads.append(load_scorer(_config(world.model, dtype=dtype), CPU).score.weight)  # type: ignore[union-attr]
    assert torch.equal(heads[0].bfloat16(), heads[1])
    assert not torch.equal(heads[0], heads[2])


def test_a_gguf_file_gets_a_head_too(tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    causal = make_model(len(tokenizer), head_dim=8)
    model: Any = load_scorer(_config(write_gguf(tmp_path / "tiny.gguf", causal, tokenizer)), CPU)
    ours, truth = (each.base_model(IDS).last_hidden_state for each in (model, causal))
    assert torch.allclose(ours, truth, rtol=1e-5, atol=1e-5)


def test_an_adapter_of_a_language_model_stays_in_effect_under_the_new_head(world: World, tmp_path: Path) -> None:
    adapted: Any = _perturbed(add_adapter(load_model(_config(world.model), CPU), _config(world.model, use_peft=True)))
    adapted.save_pretrained(tmp_path / "sft")
    model: Any = load_scorer(_config(tmp_path / "sft"), CPU)
    ours, truth = (each.get_base_model().base_model(IDS).last_hidden_state for each in (model, adapted))
    assert torch.allclose(ours, truth, rtol=1e-6)
    assert ScoreEngine(model)([Group([1, 2], ([3],))]).shape == (1,)


def test_dropout_is_off_unless_it_is_wanted(tmp_path: Path) -> None:
    tf.GPT2LMHeadModel(tf.GPT2Config(vocab_size=400, n_embd=16, n_layer=1, n_head=2)).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    quiet, noisy = (load_scorer(_config(tmp_path, disable_dropout=off), CPU).train() for off in (True, False))
    assert torch.equal(quiet(IDS).logits, quiet(IDS).logits)
    assert not torch.equal(noisy(IDS).logits, noisy(IDS).logits)


# --- trained ones ---------------------------------------------------------------------------------------


def test_a_reward_model_keeps_its_head(world: World, tmp_path: Path) -> None:
    saved = _save_scorer(world, tmp_path / "reward")
    torch.manual_seed(99)
    assert torch.equal(load_scorer(_config(tmp_path / "reward"), CPU)(IDS).logits, saved(IDS).logits)


@pytest.mark.parametrize("base", ["language model", "reward model"])
def test_a_reward_adapter_keeps_the_head_it_was_trained_with(world: World, tmp_path: Path, base: str) -> None:
    source = world.model
    if base == "reward model":
        source = tmp_path / "reward"
        _save_scorer(world, source)
    torch.manual_seed(1)
    settings = _config(source, use_peft=True, lora_r=4)
    adapted: Any = _perturbed(add_adapter(load_scorer(settings, CPU), settings, task="SEQ_CLS"))
    save_model(adapted, make_tokenizer(), tmp_path / "adapter")
    torch.manual_seed(2)
    model = load_scorer(_config(tmp_path / "adapter"), CPU)
    assert has_adapter(model)
    assert torch.allclose(model(IDS).logits, adapted(IDS).logits, rtol=1e-6)


# --- padding --------------------------------------------------------------------------------------------


def test_the_config_pads_with_the_tokenizers_padding(world: World) -> None:
    model: Any = load_scorer(_config(world.model), CPU)
    assert model.config.pad_token_id == make_tokenizer().pad_token_id
    rows = torch.tensor([[1, 80, 90, 2], [1, 80, 2, model.config.pad_token_id]])
    with torch.no_grad():
        padded = model(rows, attention_mask=(rows != model.config.pad_token_id).long()).logits
        alone = model(rows[1:, :3]).logits
    assert torch.allclose(padded[1:], alone, rtol=1e-5, atol=1e-6)


def test_eos_never_pads_a_reward_model(world: World, tmp_path: Path) -> None:
    """transformers' own forward pass would read the token before EOS; the saved tokenizer pads like the model."""
    tokenizer = make_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    load_model(_config(world.model), CPU).save_pretrained(tmp_path / "base")  # type: ignore[operator]
    tokenizer.save_pretrained(tmp_path / "base")
    model: Any = load_scorer(_config(tmp_path / "base"), CPU)
    assert model.config.pad_token_id not in (None, tokenizer.eos_token_id)
    save_model(model, load_tokenizer(_config(tmp_path / "base")), tmp_path / "reward")
    again: Any = tf.AutoModelForSequenceClassification.from_pretrained(tmp_path / "reward")
    saved_tokenizer = tf.AutoTokenizer.from_pretrained(tmp_path / "reward")
    assert saved_tokenizer.pad_token_id == again.config.pad_token_id
    rows = [[1, 80, 90, 100, 2], [1, 80, 2]]
    batch = saved_tokenizer.pad({"input_ids": rows}, return_tensors="pt")
    engine = ScoreEngine(model)
    with torch.no_grad():
        ours = engine([Group(row[:2], (row[2:],)) for row in rows])
        assert torch.allclose(again(**batch).logits[:, 0], ours, rtol=1e-5, atol=1e-6)
    text = "Could you find the river? <unk> certainly"
    assert saved_tokenizer(text)["input_ids"] == tokenizer(text)["input_ids"]


def test_a_tokenizer_with_eos_alone_leaves_the_model_without_padding() -> None:
    """Its own forward pass then takes single sequences and refuses padded ones, instead of reading a wrong token."""
    tokenizer = make_tokenizer()
    only = _OnlyEOS(tokenizer)
    assert padding_token(only, 400) is None
    assert padding_token(tokenizer, 400) == tokenizer.pad_token_id
    assert padding_token(tokenizer, 0) is None


class _OnlyEOS:
    """A tokenizer like GPT-2's: begin, end and unknown are one token."""

    def __init__(self, tokenizer: Any) -> None:
        self.eos_token_id = self.bos_token_id = self.unk_token_id = tokenizer.eos_token_id
        self.pad_token_id = None
        self.all_special_ids = [self.eos_token_id]
        self.added_tokens_decoder: dict[int, Any] = {}
        self.convert_ids_to_tokens = tokenizer.convert_ids_to_tokens


# --- what is refused ------------------------------------------------------------------------------------

SMALL = {"vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
NO_DECODERS = {
    "T5": lambda: tf.T5ForConditionalGeneration(
        tf.T5Config(vocab_size=60, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    ),
    "BertForMaskedLM": lambda: tf.BertForMaskedLM(tf.BertConfig(**SMALL)),
    "BertForSequenceClassification": lambda: tf.BertForSequenceClassification(tf.BertConfig(**SMALL, num_labels=1)),
}


@pytest.mark.parametrize("name", NO_DECODERS)
def test_models_that_read_in_both_directions_are_refused(name: str, tmp_path: Path) -> None:
    NO_DECODERS[name]().save_pretrained(tmp_path)
    with pytest.raises(PreftuneError, match=rf"{name}\w* is not a decoder"):
        load_scorer(_config(tmp_path), CPU)


def test_an_architecture_without_a_class_for_scores_is_named(tmp_path: Path) -> None:
    tiny_models.mamba().save_pretrained(tmp_path)  # type: ignore[operator]
    with pytest.raises(PreftuneError, match="no sequence classification class for MambaForCausalLM"):
        load_scorer(_config(tmp_path), CPU)


def test_a_checkpoint_of_three_labels_is_refused(tmp_path: Path) -> None:
    config = tf.LlamaConfig(**SMALL, num_key_value_heads=2, num_labels=3)
    tf.LlamaForSequenceClassification(config).save_pretrained(tmp_path)
    with pytest.raises(PreftuneError, match="has 3 labels"):
        load_scorer(_config(tmp_path), CPU)


def test_a_reward_model_without_its_head_is_refused(world: World, tmp_path: Path) -> None:
    _save_scorer(world, tmp_path)
    file = tmp_path / "model.safetensors"
    save_file({n: t for n, t in load_file(file).items() if n != "score.weight"}, file, {"format": "pt"})
    with pytest.raises(PreftuneError, match="head is not among its weights"):
        load_scorer(_config(tmp_path), CPU)


def test_a_language_model_is_no_trained_reward_model(world: World) -> None:
    with pytest.raises(PreftuneError, match=r"language model, not a reward model.*random"):
        load_scorer(_config(world.model), CPU, needs_head=True)


def test_a_reward_model_is_no_policy(world: World, tmp_path: Path) -> None:
    _save_scorer(world, tmp_path)
    with pytest.raises(PreftuneError, match=r"not a causal language model but a reward model.*it was made from"):
        load_model(_config(tmp_path), CPU)


def test_a_reward_adapter_is_no_policy_and_says_its_base(world: World, tmp_path: Path) -> None:
    adapted: Any = add_adapter(load_scorer(_config(world.model), CPU), _config(world.model), task="SEQ_CLS")
    adapted.save_pretrained(tmp_path)
    with pytest.raises(PreftuneError, match=rf"reward model.*{world.model}"):
        load_model(_config(tmp_path), CPU)


CHANGES = {
    "another width": ({"width": 48}, "size mismatch"),
    "more layers": ({"num_hidden_layers": 3}, "no weights for"),
    "fewer layers": ({"num_hidden_layers": 1}, "this model lacks"),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("task", ["CAUSAL_LM", "SEQ_CLS"])
def test_an_adapter_whose_base_was_exchanged_is_refused(task: Any, change: str, tmp_path: Path) -> None:
    load = load_scorer if task == "SEQ_CLS" else load_model
    tokenizer, base = make_tokenizer(), tmp_path / "base"
    save_model(make_model(len(tokenizer)), tokenizer, base)
    settings = _config(base, lora_target_modules=("q_proj", "v_proj"))
    add_adapter(load(settings, CPU), settings, task=task).save_pretrained(tmp_path / "adapter")  # type: ignore[operator]
    save_model(make_model(len(tokenizer), **CHANGES[change][0]), tokenizer, base)
    with pytest.raises(PreftuneError, match=rf"belongs to another model than its base .*base.*{CHANGES[change][1]}"):
        load(_config(tmp_path / "adapter"), CPU)


def test_an_adapter_saved_without_its_head_is_refused(world: World, tmp_path: Path) -> None:
    _save_adapter(world, tmp_path, lambda name, tensor: None if name.endswith("score.weight") else tensor)
    with pytest.raises(PreftuneError, match="without the score head"):
        load_scorer(_config(tmp_path), CPU)


def test_an_adapter_of_two_labels_is_refused(world: World, tmp_path: Path) -> None:
    _save_adapter(world, tmp_path, lambda name, tensor: tensor.repeat(2, 1) if "score.weight" in name else tensor)
    with pytest.raises(PreftuneError, match="head has 2 labels"):
        load_scorer(_config(tmp_path), CPU)


def test_a_pickled_reward_model_is_never_read(world: World, tmp_path: Path) -> None:
    model: Any = load_scorer(_config(world.model), CPU)
    model.config.architectures = ["LlamaForSequenceClassification"]
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(PreftuneError, match="safetensors"):
        load_scorer(_config(tmp_path), CPU)


def _save_scorer(world: World, folder: Path) -> Any:
    torch.manual_seed(4)
    model = load_scorer(_config(world.model), CPU)
    save_model(model, make_tokenizer(), folder)
    assert json.loads((folder / "config.json").read_text())["architectures"] == ["LlamaForSequenceClassification"]
    return model


def _save_adapter(world: World, folder: Path, change: Any) -> None:
    """A reward adapter whose saved tensors went through ``change``, which leaves out those it turns into None."""
    adapted: Any = add_adapter(load_scorer(_config(world.model), CPU), _config(world.model), task="SEQ_CLS")
    adapted.save_pretrained(folder)
    file = folder / "adapter_model.safetensors"
    changed = {name: change(name, tensor) for name, tensor in load_file(file).items()}
    save_file({n: t.contiguous() for n, t in changed.items() if t is not None}, file, {"format": "pt"})


def _perturbed(adapted: Any) -> Any:
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name or "score.modules_to_save" in name:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=draw))
    return adapted.eval()
