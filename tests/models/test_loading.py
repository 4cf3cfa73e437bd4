"""Models and tokenizers from a folder, an adapter folder or a GGUF file; clear words for everything else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from torch import nn

from preftune.errors import PreftuneError
from preftune.models.adapters import add_adapter, has_adapter, save_model
from preftune.models.cache import cache_folder
from preftune.models.loading import load_model, load_tokenizer
from preftune.models.settings import ModelConfig
from tests.models.tiny_gguf import write_gguf
from tests.tiny_world import World, make_model, make_tokenizer

CPU = torch.device("cpu")
IDS = torch.tensor([[1, 80, 90, 100, 110]])


def _config(model: Path | str, **settings: Any) -> ModelConfig:
    return ModelConfig(model=str(model), dtype="float32", **settings)


# --- what can be loaded ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_model_folder_gives_the_model_in_the_precision_asked_for(world: World, dtype: Any) -> None:
    model = load_model(ModelConfig(model=str(world.model), dtype=dtype), CPU)
    assert {parameter.dtype for parameter in model.parameters()} == {getattr(torch, dtype)}
    assert not model.training
    if dtype == "float32":
        expected = make_model(len(make_tokenizer()))
        assert torch.equal(model(IDS).logits, expected(IDS).logits)


@pytest.mark.parametrize(("bf16", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_bf16_says_more_than_dtype(world: World, bf16: bool, dtype: torch.dtype) -> None:
    model = load_model(ModelConfig(model=str(world.model), dtype="float32" if bf16 else "bfloat16", bf16=bf16), CPU)
    assert next(model.parameters()).dtype == dtype


def test_adapter_folder_gives_its_base_with_the_adapter(world: World, tmp_path: Path) -> None:
    """And its base's tokenizer, where it has none of its own."""
    trained = _trained_adapter(world)
    trained.save_pretrained(tmp_path / "adapter")  # type: ignore[operator]
    config = _config(tmp_path / "adapter")
    model = load_model(config, CPU)
    assert has_adapter(model)
    assert torch.equal(model(IDS).logits, trained(IDS).logits)
    assert not any(parameter.requires_grad for name, parameter in model.named_parameters() if "lora" in name)
    assert any(p.requires_grad for p in load_model(config, CPU, trainable_adapter=True).parameters())
    assert load_tokenizer(config).chat_template == make_tokenizer().chat_template


def test_dropout_is_off_also_where_it_is_no_module(tmp_path: Path) -> None:
    """OPT hands its rate to the function."""
    shape = {"vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "ffn_dim": 16}
    tf.OPTForCausalLM(tf.OPTConfig(**shape, word_embed_proj_dim=16, dropout=0.5)).save_pretrained(tmp_path)
    ids = torch.arange(3, 20)[None]
    quiet, noisy = (load_model(_config(tmp_path, disable_dropout=off), CPU).train() for off in (True, False))
    assert torch.equal(quiet(ids).logits, quiet(ids).logits)
    assert not torch.equal(noisy(ids).logits, noisy(ids).logits)


def test_gpt2s_dropout_modules_are_off(tmp_path: Path) -> None:
    tf.GPT2LMHeadModel(tf.GPT2Config(vocab_size=60, n_embd=16, n_layer=1, n_head=2)).save_pretrained(tmp_path)
    model = load_model(_config(tmp_path), CPU).train()
    ids = torch.arange(20)[None]
    assert torch.equal(model(ids).logits, model(ids).logits)


def test_template_file_takes_the_place_of_the_tokenizers(world: World, tmp_path: Path) -> None:
    file = tmp_path / "plain.jinja"
    file.write_text("{% for m in messages %}{{ m['content'] }};{% endfor %}")
    tokenizer = load_tokenizer(_config(world.model, chat_template_path=str(file)))
    assert tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False) == "hi;"
    with pytest.raises(PreftuneError, match="chat template cannot be read"):
        load_tokenizer(_config(world.model, chat_template_path=str(tmp_path / "none")))


# --- what cannot ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["/no/such/folder", "./no/such/folder", "a/b/c", "~/no-such-folder-here"])
def test_missing_folder_is_named(name: str) -> None:
    with pytest.raises(PreftuneError, match="no such model folder") as raised:
        load_model(_config(name), CPU)
    assert raised.value.where == name


def test_hub_name_without_the_network_says_so() -> None:
    with pytest.raises(PreftuneError, match=r"No model is found here.*network"):
        load_model(_config("nobody/no-such-model"), CPU)
    with pytest.raises(PreftuneError, match=r"No tokenizer can be loaded.*--tokenizer"):
        load_tokenizer(_config("nobody/no-such-model"))


def test_missing_gguf_file_is_named(tmp_path: Path) -> None:
    for load in (lambda c: load_model(c, CPU), load_tokenizer):
        with pytest.raises(PreftuneError, match="no such GGUF file"):
            load(_config(tmp_path / "none.gguf"))


def test_gguf_file_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.gguf").write_bytes(b"GGUF is not what this is")
    with pytest.raises(PreftuneError, match="GGUF file cannot be converted"):
        load_model(_config(tmp_path / "bad.gguf"), CPU)


def test_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"")
    with pytest.raises(PreftuneError, match="folder or a GGUF file"):
        load_model(_config(file), CPU)


def test_folder_without_a_tokenizer_is_refused(world: World, tmp_path: Path) -> None:
    make_model(64).save_pretrained(tmp_path)
    with pytest.raises(PreftuneError, match="No tokenizer can be loaded"):
        load_tokenizer(_config(tmp_path))
    assert load_tokenizer(_config(tmp_path, tokenizer=str(world.model))).eos_token == "</s>"


SMALL = {"vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
OTHERS = {
    "T5": lambda: tf.T5ForConditionalGeneration(
        tf.T5Config(vocab_size=60, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    ),
    "BertForMaskedLM": lambda: tf.BertForMaskedLM(tf.BertConfig(**SMALL)),
    "BertForSequenceClassification": lambda: tf.BertForSequenceClassification(tf.BertConfig(**SMALL)),
    "LlamaForSequenceClassification": lambda: tf.LlamaForSequenceClassification(
        tf.LlamaConfig(**SMALL, num_key_value_heads=2)
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_models_that_do_not_continue_text_are_refused(name: str, tmp_path: Path) -> None:
    OTHERS[name]().save_pretrained(tmp_path)
    with pytest.raises(PreftuneError, match=rf"{name}\w* is not a causal language model"):
        load_model(_config(tmp_path), CPU)


def test_pickled_weights_are_never_read(world: World, tmp_path: Path) -> None:
    """Nor those of an adapter, which peft would take."""
    model = make_model(64)
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(PreftuneError, match="safetensors"):
        load_model(_config(tmp_path), CPU)
    adapter = tmp_path / "adapter"
    _trained_adapter(world).save_pretrained(adapter, safe_serialization=False)  # type: ignore[operator]
    (adapter / "adapter_model.safetensors").unlink(missing_ok=True)
    torch.save({}, adapter / "adapter_model.bin")
    with pytest.raises(PreftuneError, match="not saved as safetensors"):
        load_model(_config(adapter), CPU)


def test_adapter_without_a_base_is_refused(world: World, tmp_path: Path) -> None:
    _trained_adapter(world).save_pretrained(tmp_path)  # type: ignore[operator]
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": None}))
    with pytest.raises(PreftuneError, match="does not say what model it belongs to"):
        load_model(_config(tmp_path), CPU)


def test_adapter_for_modules_the_model_lacks_is_refused(world: World) -> None:
    with pytest.raises(PreftuneError, match=r"--lora_target_modules.*does not fit"):
        add_adapter(make_model(64), _config(world.model, lora_target_modules=("no_such_layer",)))


# --- what is saved --------------------------------------------------------------------------------------


def test_saved_folder_replaces_an_earlier_one_whole(world: World, tmp_path: Path) -> None:
    model, tokenizer = load_model(_config(world.model), CPU), make_tokenizer()
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "stale.txt").write_text("from before")
    save_model(model, tokenizer, folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]
    assert not (folder / "stale.txt").exists()
    assert torch.equal(tf.AutoModelForCausalLM.from_pretrained(folder)(IDS).logits, model(IDS).logits)
    assert tf.AutoTokenizer.from_pretrained(folder).chat_template == tokenizer.chat_template


def test_folder_that_cannot_be_written_leaves_the_earlier_model(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, folder = load_model(_config(world.model), CPU), tmp_path / "model"
    save_model(model, make_tokenizer(), folder)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(model, "save_pretrained", full)
    with pytest.raises(PreftuneError, match="no room left"):
        save_model(model, make_tokenizer(), folder)
    assert torch.equal(tf.AutoModelForCausalLM.from_pretrained(folder)(IDS).logits, model(IDS).logits)


def _trained_adapter(world: World) -> nn.Module:
    model = add_adapter(load_model(_config(world.model), CPU), _config(world.model, use_peft=True, lora_r=4))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.1)
    return model.eval()


# --- GGUF -----------------------------------------------------------------------------------------------


def test_gguf_file_is_the_model_it_was_made_of(tmp_path: Path) -> None:
    """Weights, tokens and template; converted once, though asked for twice."""
    tokenizer = make_tokenizer()
    model = make_model(len(tokenizer), head_dim=8)
    file = write_gguf(tmp_path / "tiny.gguf", model, tokenizer)
    loaded = load_model(_config(file), CPU)
    assert torch.allclose(loaded(IDS).logits, model(IDS).logits, rtol=1e-5, atol=1e-5)
    read = load_tokenizer(_config(file))
    text = "Could you find the river number 12? certainly"
    assert read(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert (read.eos_token_id, read.chat_template) == (tokenizer.eos_token_id, tokenizer.chat_template)
    (folder,) = cache_folder("gguf").iterdir()
    made = folder.stat().st_mtime_ns
    load_model(_config(file), CPU)
    assert [path.stat().st_mtime_ns for path in cache_folder("gguf").iterdir()] == [made]


def test_another_gguf_file_of_the_same_name_is_converted_anew(tmp_path: Path) -> None:
    tokenizer, file = make_tokenizer(), tmp_path / "tiny.gguf"
    for seed in (0, 1):
        model = make_model(len(tokenizer), seed=seed, head_dim=8)
        write_gguf(file, model, tokenizer)
        assert torch.allclose(load_model(_config(file), CPU)(IDS).logits, model(IDS).logits, rtol=1e-5, atol=1e-5)
