"""Adapters that become part of the weights: of the model a run starts from, and of the one it saves."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import nn

from preftune.models.adapters import is_adapter
from preftune.models.loading import find_config, load_model, resolve_source
from preftune.models.quantised import asks_for_quantised, dequantise, is_quantised, quantise, require_whole_weights
from preftune.models.settings import ModelConfig

Load: TypeAlias = Callable[[ModelConfig, torch.device], nn.Module]


@dataclass(frozen=True)
class Base:
    """A model to train. ``unsaved``: why its weights lie nowhere that lasts, so that a new adapter is saved merged."""

    model: nn.Module
    unsaved: str | None


def load_base(config: ModelConfig, device: torch.device, load: Load = load_model) -> Base:
    """What ``load`` gives to train, without an adapter, on ``device``; weights quantised if asked for.

    An adapter that the model comes with is merged, since a new one on top of it would need both to load. It is
    merged in full precision and before quantising: rounded to 4 bits again, weights swallow a change that is
    small beside the distance of two values. Raises ``PreftuneError`` where all weights are to be trained that
    are stored quantised.
    """
    if is_adapter(config.model):
        return Base(_merged_start(config, device, load), "the adapter the model came with is merged into its weights")
    require_whole_weights(find_config(resolve_source(config.model), config), config)
    converted = "the GGUF file's weights are converted into a cache, which may be cleared"
    return Base(load(config, device), converted if config.model.endswith(".gguf") else None)


def merge_adapter(model: Any) -> nn.Module:
    """A model with its adapter as one without, which gives the same log-probs; ``model`` itself is used up.

    Quantised weights become ordinary ones, on the CPU, for the adapter to be added to.
    """
    _untie_adapted_embeddings(model.get_base_model())
    if not is_quantised(model):
        return model.merge_and_unload()
    from peft import get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

    adapter, settings = get_peft_model_state_dict(model), copy.deepcopy(model.active_peft_config)
    whole: Any = get_peft_model(dequantise(model.unload()), settings, autocast_adapter_dtype=False)  # type: ignore[arg-type]
    set_peft_model_state_dict(whole, adapter)
    return whole.merge_and_unload()


def merged_copy(model: nn.Module) -> nn.Module:
    """What ``merge_adapter`` gives, and ``model`` stays as it is."""
    return merge_adapter(copy.deepcopy(model))


def _untie_adapted_embeddings(inner: Any) -> None:
    """What an adapter adds to one of two tied matrices is not for the other; peft then says so in the config."""
    for layer in (inner.get_input_embeddings(), inner.get_output_embeddings()):
        if hasattr(layer, "base_layer"):
            weight = layer.get_base_layer().weight
            layer.get_base_layer().weight = nn.Parameter(weight.detach().clone(), requires_grad=False)


def _merged_start(config: ModelConfig, device: torch.device, load: Load) -> nn.Module:
    if not asks_for_quantised(config):
        return merge_adapter(load(config, device)).to(device)
    whole = config.model_copy(update={"load_in_4bit": False, "load_in_8bit": False})
    return quantise(merge_adapter(load(whole, torch.device("cpu"))), config, device).eval()
