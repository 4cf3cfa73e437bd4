"""Policies and tokenizers from a folder, an adapter folder, a hub name or a GGUF file."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn

from preftune.errors import PreftuneError
from preftune.models.adapters import attach_adapter, is_adapter, saved_adapter
from preftune.models.cache import cache_folder
from preftune.models.quantised import quantisation_arguments, settle
from preftune.models.settings import ModelConfig


def load_tokenizer(config: ModelConfig) -> Any:
    """The tokenizer, with the template of ``chat_template_path`` where one is named."""
    from transformers import AutoTokenizer

    source = config.tokenizer or _tokenizer_source(config.model)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            resolve_source(source), revision=config.revision, trust_remote_code=config.trust_remote_code
        )
    except (OSError, ValueError, KeyError) as error:
        raise PreftuneError(
            f"No tokenizer can be loaded ({_first_line(error)}).",
            where=source,
            mend="Name one by --tokenizer.",
        ) from error
    if config.chat_template_path is not None:
        tokenizer.chat_template = _read_template(Path(config.chat_template_path))
    if tokenizer.pad_token_id is None and tokenizer.eos_token_id is None:
        raise PreftuneError("The tokenizer has no EOS token.", where=source, mend="Set eos_token in its files.")
    return tokenizer


def load_model(config: ModelConfig, device: torch.device, *, trainable_adapter: bool = False) -> nn.Module:
    """The causal language model in its training precision, on ``device``, in evaluation mode.

    An adapter folder gives the base model with its adapter, frozen unless ``trainable_adapter``. Raises
    ``PreftuneError`` for what is not there or is no causal language model.
    """
    has_adapter = is_adapter(config.model)
    model = _load_with_adapter(config, trainable_adapter) if has_adapter else _load_plain(config, config.model)
    if config.disable_dropout:
        disable_dropout(model)
    return model.to(device).eval()


def weight_dtype(config: ModelConfig, device: torch.device) -> torch.dtype:
    """The precision asked for; ``auto`` is bfloat16 where the device multiplies in it."""
    if config.bf16 is not None:
        return torch.bfloat16 if config.bf16 else torch.float32
    if config.dtype != "auto":
        return getattr(torch, config.dtype)
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    fast_on_cpu = device.type == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.bfloat16 if fast_on_cpu and torch.cpu._is_avx512_bf16_supported() else torch.float32


def convert_gguf(file: Path) -> Path:
    """A folder with the GGUF file's model as safetensors and its tokenizer; made once and kept in the cache."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    folder = cache_folder("gguf") / f"{file.stem}-{_hash_file(file)[:16]}"
    if (folder / "config.json").is_file():
        return folder
    aside = folder.with_name(f".{folder.name}-{os.getpid()}")
    try:
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        model = AutoModelForCausalLM.from_pretrained(
            file.parent,
            gguf_file=file.name,
            dtype=torch.float32,
            quantization_config=GgufConfig(dequantize=True),
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise PreftuneError(
            f"The GGUF file cannot be converted ({_first_line(error)}).",
            where=str(file),
            mend="Give a file whose architecture transformers reads, or the original model folder.",
        ) from error
    model.save_pretrained(aside)
    tokenizer.save_pretrained(aside)
    try:
        aside.rename(folder)
    except OSError:  # another process was first
        shutil.rmtree(aside, ignore_errors=True)
    return folder


def _load_plain(config: ModelConfig, source: str) -> nn.Module:
    from transformers import AutoModelForCausalLM

    place = resolve_source(source)
    _require_causal(place, config)
    return load_weights(AutoModelForCausalLM, place, config)[0]


def load_weights(auto_class: Any, place: str, config: ModelConfig, **settings: Any) -> tuple[Any, list[str]]:
    """What ``auto_class`` makes of the folder or hub name ``place``, in its training precision; safetensors only.

    The names are of weights that were not there and are new.
    """
    extra = {} if config.attn_implementation is None else {"attn_implementation": config.attn_implementation}
    device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    dtype = weight_dtype(config, device)
    if getattr(find_config(place, config), "quantization_config", None) is None:  # else it is stored quantised
        extra |= quantisation_arguments(config, device, dtype)
    try:
        model, loaded = auto_class.from_pretrained(
            place,
            revision=config.revision,
            trust_remote_code=config.trust_remote_code,
            use_safetensors=True,  # never a pickle
            dtype=dtype,
            output_loading_info=True,
            **extra,
            **settings,
        )
        return settle(model), sorted(loaded["missing_keys"])
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise PreftuneError(
            f"The model cannot be loaded ({_first_line(error)}).",
            where=place,
            mend="It must be a model that transformers loads, saved as safetensors.",
        ) from error


def _load_with_adapter(config: ModelConfig, trainable: bool) -> nn.Module:
    folder = Path(config.model).expanduser()
    adapter = saved_adapter(folder)
    if adapter.task_type == "SEQ_CLS":
        raise _reward_model("The adapter", config.model, f"its base, {adapter.base_model_name_or_path}")
    require_base(adapter.base_model_name_or_path, config)
    model = _load_plain(config, adapter.base_model_name_or_path)
    return attach_adapter(model, folder, trainable=trainable)


def require_base(base: str, config: ModelConfig) -> None:
    """Raises where the model is not there that the adapter folder ``config.model`` names as its ``base``."""
    try:
        find_config(resolve_source(base), config)
    except PreftuneError as error:
        mend = "Put it there, or set base_model_name_or_path in adapter_config.json to where it is now."
        if Path(base).parent == cache_folder("gguf"):
            mend = f"It was made from {Path(base).name.rpartition('-')[0]}.gguf, and is again when that file is loaded."
        what = f"The adapter's base model is not there: {base}."
        raise PreftuneError(what, where=config.model, mend=mend) from error


def _require_causal(place: str, config: ModelConfig) -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    found = find_config(place, config)
    names = architectures(found)
    is_remote = bool(getattr(found, "auto_map", None)) and config.trust_remote_code
    is_known = found.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or is_remote
    says_other = names and not any(
        "CausalLM" in name or "LMHead" in name or "ConditionalGeneration" in name for name in names
    )
    if getattr(found, "is_encoder_decoder", False) or not is_known or says_other:
        what = names[0] if names else found.model_type
        if "SequenceClassification" in what and found.num_labels == 1:
            raise _reward_model(what, config.model, "the language model it was made from")
        raise PreftuneError(
            f"{what} is not a causal language model.",
            where=config.model,
            mend="Give one that continues text, such as a Llama, Qwen or Gemma.",
        )


def _reward_model(what: str, where: str, instead: str) -> PreftuneError:
    return PreftuneError(
        f"{what} is not a causal language model but a reward model: it scores answers and writes none.",
        where=where,
        mend=f"Give {instead}; answers are scored with a reward model by preftune.rewards.score.",
    )


def find_config(place: str, config: ModelConfig) -> Any:
    """transformers' config of the folder or hub name ``place``."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(place, revision=config.revision, trust_remote_code=config.trust_remote_code)
    except (OSError, ValueError, KeyError) as error:
        raise PreftuneError(
            f"No model is found here ({_first_line(error)}).",
            where=config.model,
            mend="Give a model folder, an adapter folder, a GGUF file or a hub name (which needs the network).",
        ) from error


def architectures(found: Any) -> list[str]:
    """The class names that a config says its weights were saved from."""
    return [name for name in (getattr(found, "architectures", None) or []) if name]


def resolve_source(source: str) -> str:
    """The folder to load: of a GGUF file its converted copy, of an adapter itself; hub names stay."""
    path = Path(source).expanduser()
    if source.endswith(".gguf"):
        if not path.is_file():
            raise PreftuneError("There is no such GGUF file.", where=source, mend="Check the path.")
        return str(convert_gguf(path))
    if path.exists():
        if path.is_file():
            raise PreftuneError("A model is a folder or a GGUF file.", where=source, mend="Give the folder it lies in.")
        return str(path)
    if source.startswith(("/", "./", "../", "~")) or source.count("/") > 1:
        raise PreftuneError("There is no such model folder.", where=source, mend="Check the path.")
    return source


def _tokenizer_source(model: str) -> str:
    """An adapter folder may lack a tokenizer: its base model then has it."""
    adapter = Path(model) / "adapter_config.json"
    if adapter.is_file() and not (Path(model) / "tokenizer_config.json").is_file():
        from peft import PeftConfig

        return PeftConfig.from_pretrained(model).base_model_name_or_path or model
    return model


def _read_template(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise PreftuneError(f"The chat template cannot be read ({error.strerror}).", where=str(path)) from error


def disable_dropout(model: nn.Module) -> None:
    """Of dropout modules, and of the rates that OPT and others hand to the function."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():
            if isinstance(value, float) and ("dropout" in name or name.endswith("_pdrop")):
                setattr(module, name, 0.0)


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200].rstrip(".") if lines else type(error).__name__
