"""LoRA adapters by peft: new ones for training, saved ones put on their base, and the model folder at the end."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any, Literal, TypeAlias

from torch import nn

from preftune.durable import explained_errors
from preftune.errors import PreftuneError
from preftune.models.quantised import match_precision
from preftune.models.settings import ModelConfig

Task: TypeAlias = Literal["CAUSAL_LM", "SEQ_CLS"]
Shapes: TypeAlias = dict[str, tuple[int, ...]]
_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def add_adapter(model: nn.Module, config: ModelConfig, task: Task = "CAUSAL_LM") -> nn.Module:
    """``model`` with a new LoRA adapter, which alone is trained (Hu et al. 2021, arXiv:2106.09685).

    For ``SEQ_CLS`` the score head is trained whole beside it and saved with it. The adapter has the model's
    precision; the optimiser holds its float32 master copy.
    """
    from peft import LoraConfig, get_peft_model

    targets: Any = list(config.lora_target_modules)
    settings = LoraConfig(
        r=config.lora_r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules="all-linear" if targets == ["all-linear"] else targets,
        modules_to_save=list(config.lora_modules_to_save) or None,  # peft adds the head of SEQ_CLS itself
        use_rslora=config.use_rslora,
        use_dora=config.use_dora,
        task_type=task,
    )
    try:
        return match_precision(get_peft_model(model, settings, autocast_adapter_dtype=False))  # type: ignore[arg-type]
    except ValueError as error:
        raise PreftuneError(
            f"The adapter does not fit the model ({str(error).splitlines()[0]}).",
            where="--lora_target_modules",
            mend="Name modules of this model, or leave it at all-linear.",
        ) from error


def has_adapter(model: nn.Module) -> bool:
    """True for a model inside a peft wrapper."""
    return hasattr(model, "peft_config")


def is_adapter(source: str) -> bool:
    """True for a folder that peft saved an adapter in."""
    return (Path(source).expanduser() / _CONFIG).is_file()


def saved_adapter(folder: Path) -> Any:
    """The peft config of an adapter folder that says its base and holds its weights as safetensors."""
    from peft import PeftConfig

    if not (folder / _WEIGHTS).is_file():  # peft would fall back on a pickle
        raise PreftuneError(
            "The adapter's weights are not saved as safetensors.",
            where=str(folder),
            mend="Save it again with peft's save_pretrained.",
        )
    adapter = PeftConfig.from_pretrained(str(folder))
    if not adapter.base_model_name_or_path:
        raise PreftuneError("The adapter does not say what model it belongs to.", where=str(folder))
    return adapter


def saved_shapes(folder: Path) -> Shapes:
    """The shape of each tensor in an adapter folder, by the name it is saved under."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(folder / _WEIGHTS, "pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise PreftuneError(f"The adapter's weights cannot be read ({error}).", where=str(folder / _WEIGHTS)) from error


def attach_adapter(model: nn.Module, folder: Path, *, trainable: bool = False, body_only: bool = False) -> nn.Module:
    """``model`` with the adapter of ``folder``; ``body_only`` takes one of a language model for another task.

    Raises ``PreftuneError`` where the adapter belongs to another model than its base is now.
    """
    from peft import PeftConfig, PeftModel

    adapter: Any = PeftConfig.from_pretrained(str(folder))
    if body_only:
        adapter.task_type = None
    try:
        adapted: Any = PeftModel.from_pretrained(
            model,  # type: ignore[arg-type]
            folder,
            is_trainable=trainable,
            autocast_adapter_dtype=False,
            config=adapter,
        )
    except (RuntimeError, ValueError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        found = next((line for line in lines if "size mismatch" in line), lines[0] if lines else type(error).__name__)
        raise _belongs_elsewhere(folder, adapter, found[:160].rstrip(".")) from error
    stray = _stray_weights(adapted, folder, body_only)
    if stray is not None:
        raise _belongs_elsewhere(folder, adapter, stray)
    return match_precision(adapted)


def save_model(model: nn.Module, tokenizer: Any, folder: Path) -> None:
    """A folder that loads with transformers, or with peft for an adapter; tokenizer and template with it.

    It appears whole: written aside and renamed, in the place of an earlier one.
    """
    aside, former = folder.with_name(f".{folder.name}-new"), folder.with_name(f".{folder.name}-former")
    for leftover in (aside, former):
        shutil.rmtree(leftover, ignore_errors=True)
    with explained_errors(folder):
        model.save_pretrained(aside)  # type: ignore[operator]
        _padding_like(model, tokenizer).save_pretrained(aside)
        if folder.exists():
            folder.rename(former)
        aside.rename(folder)
    shutil.rmtree(former, ignore_errors=True)


def _stray_weights(adapted: nn.Module, folder: Path, body_only: bool) -> str | None:
    """The first LoRA weight that is saved but not in the model, or the other way round, in words."""
    from peft import get_peft_model_state_dict

    held = get_peft_model_state_dict(adapted, save_embedding_layers=False)  # type: ignore[arg-type]
    ours, saved = ({name for name in names if ".lora_A." in name} for names in (held, saved_shapes(folder)))
    if body_only:
        saved = {name for name in saved if ".lm_head." not in name}
    if saved - ours:
        return f"it has weights for {min(saved - ours)}, which this model lacks"
    return f"it has no weights for {min(ours - saved)}" if ours - saved else None


def _belongs_elsewhere(folder: Path, adapter: Any, found: str) -> PreftuneError:
    return PreftuneError(
        f"The adapter belongs to another model than its base {adapter.base_model_name_or_path} is now ({found}).",
        where=str(folder),
        mend=f"Put the model it was trained on back, or set base_model_name_or_path in {_CONFIG}.",
    )


def _padding_like(model: nn.Module, tokenizer: Any) -> Any:
    """The tokenizer, or a copy that pads as a reward model's own forward pass, told by the padding's id, expects."""
    inner: Any = model.get_base_model() if has_adapter(model) else model  # type: ignore[operator]
    pad = inner.config.get_text_config().pad_token_id
    is_scorer = type(inner).__name__.endswith("ForSequenceClassification")
    if not is_scorer or pad is None or pad == tokenizer.pad_token_id:
        return tokenizer
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(pad)
    return tokenizer
