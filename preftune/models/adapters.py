"""LoRA adapters by peft: new ones for training, and the model folder at the end."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from torch import nn

from preftune.durable import explained_errors
from preftune.errors import PreftuneError
from preftune.models.settings import ModelConfig


def add_adapter(model: nn.Module, config: ModelConfig) -> nn.Module:
    """``model`` with a new LoRA adapter, which alone is trained (Hu et al. 2021, arXiv:2106.09685).

    The adapter has the model's precision; the optimiser holds its float32 master copy.
    """
    from peft import LoraConfig, get_peft_model

    targets: Any = list(config.lora_target_modules)
    settings = LoraConfig(
        r=config.lora_r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules="all-linear" if targets == ["all-linear"] else targets,
        modules_to_save=list(config.lora_modules_to_save) or None,
        use_rslora=config.use_rslora,
        use_dora=config.use_dora,
        task_type="CAUSAL_LM",
    )
    try:
        return get_peft_model(model, settings, autocast_adapter_dtype=False)  # type: ignore[arg-type]
    except ValueError as error:
        raise PreftuneError(
            f"The adapter does not fit the model ({str(error).splitlines()[0]}).",
            where="--lora_target_modules",
            mend="Name modules of this model, or leave it at all-linear.",
        ) from error


def has_adapter(model: nn.Module) -> bool:
    """True for a model inside a peft wrapper."""
    return hasattr(model, "peft_config")


def save_model(model: nn.Module, tokenizer: Any, folder: Path) -> None:
    """A folder that loads with transformers, or with peft for an adapter; tokenizer and template with it.

    It appears whole: written aside and renamed, in the place of an earlier one.
    """
    aside, former = folder.with_name(f".{folder.name}-new"), folder.with_name(f".{folder.name}-former")
    for leftover in (aside, former):
        shutil.rmtree(leftover, ignore_errors=True)
    with explained_errors(folder):
        model.save_pretrained(aside)  # type: ignore[operator]
        tokenizer.save_pretrained(aside)
        if folder.exists():
            folder.rename(former)
        aside.rename(folder)
    shutil.rmtree(former, ignore_errors=True)
