"""Tiny models of many architectures, with random weights so large that context changes what they predict."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers as tf
from torch import nn

VOCAB = 97
SHAPE = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GATED = SHAPE | {"intermediate_size": 48, "num_key_value_heads": 2, "tie_word_embeddings": False}
# Freshly initialised weights (0.02) give nearly uniform predictions, which no wrong mask would move.
SPREAD = 0.3


def llama(**changes: Any) -> nn.Module:
    return _build(tf.LlamaConfig, tf.LlamaForCausalLM, GATED | changes)


def llama_tied() -> nn.Module:
    return llama(tie_word_embeddings=True)


def gpt2() -> nn.Module:
    shape = {"vocab_size": VOCAB, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
    no_dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    return _build(tf.GPT2Config, tf.GPT2LMHeadModel, shape | no_dropout | SPECIAL)


def gpt2_with_dropout() -> nn.Module:
    shape = {"vocab_size": VOCAB, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
    return _build(tf.GPT2Config, tf.GPT2LMHeadModel, shape | SPECIAL)


def gemma2() -> nn.Module:
    extras = {
        "head_dim": 8,
        "sliding_window": 6,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 5.0,
    }
    return _build(tf.Gemma2Config, tf.Gemma2ForCausalLM, GATED | extras | {"tie_word_embeddings": True})


def gemma3(window: int = 6) -> nn.Module:
    extras = {
        "head_dim": 8,
        "sliding_window": window,
        "sliding_window_pattern": 2,
        "tie_word_embeddings": True,
    }
    return _build(tf.Gemma3TextConfig, tf.Gemma3ForCausalLM, GATED | extras)


def mistral(window: int = 6) -> nn.Module:
    return _build(tf.MistralConfig, tf.MistralForCausalLM, GATED | {"sliding_window": window})


def qwen2() -> nn.Module:
    return _build(tf.Qwen2Config, tf.Qwen2ForCausalLM, GATED)


def qwen3() -> nn.Module:
    return _build(tf.Qwen3Config, tf.Qwen3ForCausalLM, GATED | {"head_dim": 8})


def gpt_neox() -> nn.Module:
    return _build(tf.GPTNeoXConfig, tf.GPTNeoXForCausalLM, SHAPE | {"intermediate_size": 48})


def phi() -> nn.Module:
    return _build(tf.PhiConfig, tf.PhiForCausalLM, GATED)


def opt() -> nn.Module:
    shape = SHAPE | {"ffn_dim": 48, "word_embed_proj_dim": 32, "dropout": 0.0}
    return _build(tf.OPTConfig, tf.OPTForCausalLM, shape)


def bloom() -> nn.Module:
    shape = {"vocab_size": VOCAB, "hidden_size": 32, "n_layer": 2, "n_head": 4}
    return _build(tf.BloomConfig, tf.BloomForCausalLM, shape | SPECIAL)


def falcon() -> nn.Module:
    return _build(tf.FalconConfig, tf.FalconForCausalLM, SHAPE | {"alibi": False})


def falcon_alibi() -> nn.Module:
    return _build(tf.FalconConfig, tf.FalconForCausalLM, SHAPE | {"alibi": True})


def gpt_neo(window: int = 4) -> nn.Module:
    """Local attention under a name of its own (``window_size``)."""
    shape = {"vocab_size": VOCAB, "hidden_size": 32, "num_layers": 2, "num_heads": 4, "window_size": window}
    types = {"attention_types": [[["global", "local"], 1]], "max_position_embeddings": 128}
    return _build(tf.GPTNeoConfig, tf.GPTNeoForCausalLM, shape | types | SPECIAL)


def granite() -> nn.Module:
    """Divides its logits."""
    return _build(tf.GraniteConfig, tf.GraniteForCausalLM, GATED | {"logits_scaling": 4.0})


def cohere() -> nn.Module:
    """Multiplies its logits."""
    return _build(tf.CohereConfig, tf.CohereForCausalLM, GATED | {"logit_scale": 0.25, "tie_word_embeddings": True})


def mixtral() -> nn.Module:
    return _build(tf.MixtralConfig, tf.MixtralForCausalLM, GATED | {"num_local_experts": 4, "sliding_window": None})


def phimoe(window: int = 6) -> nn.Module:
    """A window that is in the mask only: its layers do not pass it to the attention function."""
    extras = {"num_local_experts": 4, "sliding_window": window}
    return _build(tf.PhimoeConfig, tf.PhimoeForCausalLM, GATED | extras)


def gpt_oss() -> nn.Module:
    """Attention sinks."""
    extras = {"head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 6}
    return _build(tf.GptOssConfig, tf.GptOssForCausalLM, GATED | extras)


def mamba() -> nn.Module:
    shape = {"vocab_size": VOCAB, "hidden_size": 32, "state_size": 8, "num_hidden_layers": 2}
    return _build(tf.MambaConfig, tf.MambaForCausalLM, shape | SPECIAL)


def t5() -> nn.Module:
    shape = {"vocab_size": VOCAB, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
    return _build(tf.T5Config, tf.T5ForConditionalGeneration, shape)


SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def _build(config: Callable[..., Any], model: Callable[[Any], nn.Module], arguments: dict[str, Any]) -> nn.Module:
    torch.manual_seed(0)
    built = model(config(**arguments)).eval()
    if hasattr(built.config, "_experts_implementation"):
        built.set_experts_implementation("eager")  # type: ignore[operator]  # the grouped kernel has no float64
    with torch.no_grad():
        for name, parameter in built.named_parameters():
            if parameter.dim() > 1 and "A_log" not in name:
                parameter.normal_(0.0, SPREAD)
            elif parameter.dim() == 1 and name.endswith("bias"):
                parameter.normal_(0.0, 0.1)
    return built
