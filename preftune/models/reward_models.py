"""Reward models from a folder: a language model with a new score head, a trained reward model, or an adapter."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import nn

from preftune.data.encoding import special_ids
from preftune.errors import PreftuneError
from preftune.models.adapters import attach_adapter, is_adapter, saved_adapter, saved_shapes
from preftune.models.loading import (
    architectures,
    disable_dropout,
    find_config,
    load_tokenizer,
    load_weights,
    require_base,
    resolve_source,
)
from preftune.models.paths import causal_model
from preftune.models.scores import HEAD_NAMES, find_score_head
from preftune.models.settings import ModelConfig


def load_scorer(config: ModelConfig, device: torch.device, *, needs_head: bool = False) -> nn.Module:
    """A model with one score in its training precision, on ``device``, in evaluation mode.

    A reward model keeps its head; a language model, also one with an adapter, gets a new one, drawn by the seed
    that torch was given, unless the model ``needs_head`` of its own. Its config says the padding that transformers'
    own forward pass needs. Raises ``PreftuneError`` for what is not there, is no decoder, or has more than one label.
    """
    if is_adapter(config.model):
        model = _load_with_adapter(config, needs_head)
    else:
        model = _load_with_head(config, config.model, needs_head)
    if config.disable_dropout:
        disable_dropout(model)
    _set_padding(causal_model(model), load_tokenizer(config))
    return model.to(device).eval()


def is_reward_model(config: ModelConfig) -> bool:
    """True for a trained reward model, whole or as an adapter; False for a language model."""
    if is_adapter(config.model):
        return saved_adapter(Path(config.model).expanduser()).task_type == "SEQ_CLS"
    names = architectures(find_config(resolve_source(config.model), config))
    return bool(names) and "SequenceClassification" in names[0]


def padding_token(tokenizer: Any, embeddings: int) -> int | None:
    """A special token to pad with that ends no text, so that the last token that is not padding is the last one.

    transformers' own forward pass looks for that token. None where EOS is the only special token below
    ``embeddings``: it then takes one unpadded sequence at a time and reads its last token.
    """
    special = sorted(special_ids(tokenizer))
    named = [i for i in special if "pad" in str(tokenizer.convert_ids_to_tokens(i)).lower()]
    candidates = [tokenizer.pad_token_id, *named, tokenizer.unk_token_id, tokenizer.bos_token_id]
    return next((i for i in candidates if i is not None and i != tokenizer.eos_token_id and i < embeddings), None)


def _load_with_adapter(config: ModelConfig, needs_head: bool) -> nn.Module:
    folder = Path(config.model).expanduser()
    adapter = saved_adapter(folder)
    is_scorer = adapter.task_type == "SEQ_CLS"
    if is_scorer:
        _require_trained_head(folder)
    require_base(adapter.base_model_name_or_path, config)
    model = _load_with_head(config, adapter.base_model_name_or_path, needs_head and not is_scorer)
    return attach_adapter(model, folder, body_only=not is_scorer)


def _load_with_head(config: ModelConfig, source: str, needs_head: bool) -> nn.Module:
    from transformers import AutoModelForSequenceClassification

    place = resolve_source(source)
    is_trained = _is_reward_model(place, source, config)
    if needs_head and not is_trained:
        raise PreftuneError(
            "This is a language model, not a reward model: a new head's scores would be random.",
            where=source,
            mend="Train a reward model from it by preftune reward, and give that one.",
        )
    model, new = load_weights(AutoModelForSequenceClassification, place, config, num_labels=1)
    missing = [name for name in new if name.startswith(HEAD_NAMES)]
    if not missing:
        return model
    if is_trained:
        raise PreftuneError(
            f"The reward model's head is not among its weights ({missing[0]}).",
            where=source,
            mend="Save it again whole, or give the language model to make a new one from.",
        )
    _draw_head(model, source)
    return model


def _is_reward_model(place: str, source: str, config: ModelConfig) -> bool:
    """True for a reward model, False for a language model to make one from; raises for anything else."""
    from transformers.models.auto import modeling_auto as auto

    found = find_config(place, config)
    names = architectures(found)
    what, kind = names[0] if names else found.model_type, found.model_type
    is_remote = config.trust_remote_code and "AutoModelForSequenceClassification" in (
        getattr(found, "auto_map", None) or {}
    )
    # What fills in masks reads in both directions; some of these have a causal class too.
    fills_in = kind in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    reads_forward = kind in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and not fills_in
    if getattr(found, "is_encoder_decoder", False) or not (reads_forward or is_remote):
        raise PreftuneError(
            f"{what} is not a decoder: a reward model here reads prompt and answer from left to right.",
            where=source,
            mend="Give a causal language model such as a Llama, Qwen or Gemma, or a reward model made from one.",
        )
    if not (kind in auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES or is_remote):
        raise PreftuneError(
            f"transformers has no sequence classification class for {what}, which a reward model needs.",
            where=source,
            mend="Give a model of another architecture, such as a Llama, Qwen, Gemma, Mistral or GPT-2.",
        )
    is_classifier = "SequenceClassification" in what
    if is_classifier and found.num_labels != 1:
        raise PreftuneError(
            f"{what} has {found.num_labels} labels; a reward model has one.",
            where=source,
            mend="Give a reward model, or the language model to make one from.",
        )
    return is_classifier


def _require_trained_head(folder: Path) -> None:
    """Raises where an adapter of a reward model comes without its head, or with one of several labels."""
    endings = tuple(f".{name}.weight" for name in HEAD_NAMES)
    heads = [shape for name, shape in saved_shapes(folder).items() if name.endswith(endings)]
    if not heads:
        raise PreftuneError(
            "The adapter was saved without the score head that was trained with it.",
            where=str(folder),
            mend="Save it again with the head among modules_to_save.",
        )
    if heads[0][0] != 1:
        raise PreftuneError(
            f"The adapter's head has {heads[0][0]} labels; a reward model has one.",
            where=str(folder),
            mend="Give an adapter trained as a reward model, or the language model to make one from.",
        )


@torch.no_grad()
def _draw_head(model: nn.Module, source: str) -> None:
    """Normal with deviation 1 / sqrt(width + 1), no bias (Stiennon et al. 2020, arXiv:2009.01325).

    Drawn in float32 on the CPU from torch's initial seed alone: the same in every precision, on every device.
    """
    head = find_score_head(model)
    if head is None:
        raise PreftuneError(
            f"{type(model).__name__} has no score head of one matrix.",
            where=source,
            mend="Give a model of another architecture, such as a Llama, Qwen, Gemma, Mistral or GPT-2.",
        )
    draw = torch.Generator().manual_seed(torch.initial_seed())
    head.weight.copy_(torch.randn(1, head.in_features, generator=draw) / math.sqrt(head.in_features + 1))
    if head.bias is not None:
        head.bias.zero_()


def _set_padding(inner: Any, tokenizer: Any) -> None:
    """After loading, not before: an embedding built to pad would never learn that token."""
    pad = padding_token(tokenizer, inner.get_input_embeddings().weight.shape[0])
    for part in (inner.config, inner.config.get_text_config()):
        part.pad_token_id = pad
