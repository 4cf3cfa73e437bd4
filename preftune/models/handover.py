"""A model's weights as its saved files would name them, adapters merged: what an inference engine takes over."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from preftune.errors import PreftuneError
from preftune.models.paths import causal_model
from preftune.models.quantised import is_quantised


@torch.no_grad()
def checkpoint_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every weight under the name a checkpoint has it by, one layer of the model after the other.

    ``model`` stays as it is, to the bit: adapters are merged into copies, of one matrix at a time, and quantised
    matrices come out in the model's precision. Tensors are the model's own where nothing had to be merged, so they
    are not to be written to. Tied weights come once. Raises ``PreftuneError`` for what no checkpoint could hold.
    """
    inner: Any = causal_model(model)
    _refuse_parted_ties(inner)
    for _, layer in groupby(_weights(inner), key=lambda named: _layer_of(named[0])):
        yield from _renamed(inner, dict(layer)).items()


def _weights(inner: Any) -> Iterator[tuple[str, Tensor]]:
    """By the names that modules in memory have, as if no adapter had been there."""
    own = {id(parameter) for parameter in inner.parameters()}
    given: set[int] = set()
    for name, tensor in _tensors(inner, "", _precision(inner)):
        if id(tensor) not in given:
            yield name, tensor.detach()
        if id(tensor) in own:  # others are of copies, whose ids may come again
            given.add(id(tensor))


def _tensors(module: Any, prefix: str, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    module = _in_effect(module, prefix, dtype)
    yield from ((prefix + name, parameter) for name, parameter in module.named_parameters(recurse=False))
    for name, buffer in module.named_buffers(recurse=False):
        if name not in module._non_persistent_buffers_set:
            yield prefix + name, buffer
    for name, child in module.named_children():
        yield from _tensors(child, f"{prefix}{name}.", dtype)


def _in_effect(module: Any, name: str, dtype: torch.dtype) -> Any:
    """The module without peft's wrapping, the adapter in its weights."""
    if hasattr(module, "modules_to_save"):
        return module.modules_to_save[module.active_adapters[0]]
    if hasattr(module, "base_layer"):
        return _merged(module, name, dtype)
    if _is_quantised_matrix(module):
        return _dequantised(module, name, dtype)
    return module


def _merged(layer: Any, name: str, dtype: torch.dtype) -> nn.Module:
    """Into a copy: merged and taken out again in place, bfloat16 weights would drift with every hand-over."""
    if not _is_quantised_matrix(layer.get_base_layer()):
        copied = copy.deepcopy(layer)
        copied.merge()
        return copied.get_base_layer()
    whole = _dequantised(layer.get_base_layer(), name, dtype)
    for adapter in layer.active_adapters:
        if adapter in getattr(layer, "lora_variant", {}):
            raise PreftuneError(
                "A DoRA adapter on quantised weights cannot be merged for another engine.",
                where=name.rstrip("."),
                mend="Leave out use_dora or load_in_4bit, or draw with the built-in sampler.",
            )
        whole.weight += layer.get_delta_weight(adapter).to(dtype)
    return whole


def _is_quantised_matrix(module: nn.Module) -> bool:
    return next(module.children(), None) is None and is_quantised(module)


def _dequantised(module: Any, name: str, dtype: torch.dtype) -> nn.Linear:
    from peft.utils.integrations import dequantize_module_weight

    if getattr(module, "source_cls", nn.Linear) is not nn.Linear:  # GPT-2's matrices lie the other way round
        raise PreftuneError(
            "The quantised weights of this architecture cannot be turned back.",
            where=name.rstrip("."),
            mend="Leave out load_in_4bit and load_in_8bit.",
        )
    plain = nn.Linear(1, 1, bias=False, device="meta")
    plain.weight = nn.Parameter(dequantize_module_weight(module).to(dtype), requires_grad=False)
    plain.bias = module.bias
    return plain


def _precision(inner: Any) -> torch.dtype:
    """What the model computes in: the type of its embeddings."""
    return inner.get_input_embeddings().weight.dtype


def _refuse_parted_ties(inner: Any) -> None:
    """What is tied by the config is read once, by embeddings and head alike; an adapter on one of them parts them."""
    config = inner.config.get_text_config() if hasattr(inner.config, "get_text_config") else inner.config
    layers = (inner.get_input_embeddings(), inner.get_output_embeddings())
    if not getattr(config, "tie_word_embeddings", False) or None in layers:
        return
    if any(hasattr(layer, "base_layer") for layer in layers) or len({id(_own_weight(layer)) for layer in layers}) > 1:
        raise PreftuneError(
            "The adapter parts the LM head from the embeddings, which this model has tied.",
            where="lora_target_modules or lora_modules_to_save",
            mend="Leave both out of it, or draw with the built-in sampler.",
        )


def _own_weight(layer: Any) -> Tensor:
    return (layer.modules_to_save[layer.active_adapters[0]] if hasattr(layer, "modules_to_save") else layer).weight


def _layer_of(name: str) -> str:
    """The name up to its first number: what belongs together when names or shapes differ from a checkpoint's."""
    parts = name.split(".")
    number = next((place for place, part in enumerate(parts) if part.isdigit()), None)
    return name if number is None else ".".join(parts[: number + 1])


def _renamed(inner: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """As ``save_pretrained`` would name and cut them; experts, for one, lie in one tensor in memory only."""
    from transformers.core_model_loading import revert_weight_conversion

    return revert_weight_conversion(inner, tensors)
