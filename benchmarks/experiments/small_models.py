"""What the experiments of online methods train: a small Llama, a token a character, and a run that leaves nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch

PAD, EOS, FIRST_CHARACTER = range(3)
# Settings of every trainer here: all prompts are learned from, and nothing is measured or saved beside.
NOTHING_BESIDE: Final[dict[str, Any]] = {
    "save_strategy": "no",
    "eval_strategy": "no",
    "eval_fraction": 0.0,
    "num_samples": 0,
}


def character_tokenizer(characters: Sequence[str]) -> Any:
    """A token a character, numbered from ``FIRST_CHARACTER`` on; what it decodes it reads back as it was."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    names = ("<pad>", "</s>", *characters)
    engine = Tokenizer(models.WordLevel({name: number for number, name in enumerate(names)}, unk_token="<pad>"))
    engine.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    engine.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=engine, pad_token="<pad>", eos_token="</s>")


def small_llama(seed: int, characters: int, width: int, layers: int, spread: float = 0.1) -> Any:
    """A random Llama for so many characters, in float32; ``spread`` is the deviation of its weights."""
    from transformers import LlamaForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM(llama_config(characters, width, layers, spread)).eval()


def llama_config(characters: int, width: int, layers: int, spread: float = 0.1) -> Any:
    """The shape of such a model."""
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=FIRST_CHARACTER + characters,
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=64,
        pad_token_id=PAD,
        bos_token_id=None,
        eos_token_id=EOS,
        initializer_range=spread,
        tie_word_embeddings=False,
    )
