"""A world that trains in seconds: a byte-level tokenizer, two-layer Llamas, and pairs with a pattern to learn."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

BOS, EOS, PAD = "<s>", "</s>", "<pad>"
TURNS = ("<|system|>", "<|user|>", "<|assistant|>")
NOUNS = ("river", "apple", "stone", "garden", "letter", "window", "bridge", "candle", "forest", "mirror")
VERBS = ("paint", "carry", "find", "open", "break", "follow", "count", "build")
GOOD = ("certainly the {noun} can be done", "certainly, {verb} the {noun} gently", "certainly a {noun} is fine")
BAD = ("never mind the {noun} at all", "never, {verb} no {noun} today", "never a {noun} in here")
# Turns open with a token of their own and close with EOS and a line break, as Zephyr's do.
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


@dataclass(frozen=True)
class World:
    """A saved model with its tokenizer, and files of pairs in TRL's standard and conversational formats."""

    model: Path
    standard: Path
    conversational: Path


def make_world(folder: Path) -> World:
    """The world as files under ``folder``."""
    tokenizer = make_tokenizer()
    model = folder / "model"
    make_model(len(tokenizer)).save_pretrained(model)
    tokenizer.save_pretrained(model)
    return World(
        model,
        write_rows(folder / "standard.jsonl", pair_rows()),
        write_rows(folder / "conversational.jsonl", pair_rows(conversational=True)),
    )


def make_tokenizer(
    *,
    adds_bos: bool = True,
    adds_eos: bool = False,
    chat_template: str | None = CHAT_TEMPLATE,
    merges_letters: bool = True,
    merges_spaces: bool = False,
) -> Any:
    """A byte-level BPE tokenizer; ``merges_spaces`` lets tokens reach over white space, so over boundaries too."""
    from transformers import PreTrainedTokenizerFast

    engine = Tokenizer(models.BPE(unk_token=None))
    if not merges_spaces:
        engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    else:
        engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    engine.decoder = decoders.ByteLevel()
    special = [AddedToken(token, special=True, normalized=False) for token in (PAD, BOS, EOS, *TURNS)]
    trainer = trainers.BpeTrainer(
        vocab_size=340 if merges_letters else 0,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    engine.train_from_iterator(_sentences(), trainer)
    ids = [(token, engine.token_to_id(token)) for token in (BOS, EOS)]
    template = f"{BOS} " * adds_bos + "$A" + f" {EOS}" * adds_eos
    engine.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(single=template, special_tokens=ids),
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=engine,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        chat_template=chat_template,
        clean_up_tokenization_spaces=False,
    )


def make_model(vocab_size: int, *, seed: int = 0, width: int = 32, spread: float = 0.1, **changes: Any) -> Any:
    """A two-layer Llama in float32; ``spread`` is the deviation of its weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = {
        "vocab_size": vocab_size,
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "initializer_range": spread,
        "tie_word_embeddings": False,
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM(LlamaConfig(**config | changes)).eval()


def pair_rows(n: int = 60, *, conversational: bool = False, seed: int = 0) -> list[dict[str, Any]]:
    """Pairs whose chosen side says "certainly" and whose rejected side says "never"; no prompt occurs twice."""
    draw = random.Random(seed)
    return [_row(number, draw, conversational) for number in range(n)]


def write_rows(path: Path, rows: Iterable[Any]) -> Path:
    """The rows as JSON lines; text is written as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a file of JSON lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _row(number: int, draw: random.Random, conversational: bool) -> dict[str, Any]:
    noun, verb = draw.choice(NOUNS), draw.choice(VERBS)
    prompt = f"Could you {verb} the {noun} number {number}?"
    chosen, rejected = (draw.choice(kind).format(noun=noun, verb=verb) for kind in (GOOD, BAD))
    if not conversational:
        return {"id": f"pair-{number}", "prompt": prompt, "chosen": f" {chosen}", "rejected": f" {rejected}"}
    return {
        "id": f"pair-{number}",
        "prompt": [{"role": "user", "content": prompt}],
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": rejected}],
    }


def _sentences() -> Sequence[str]:
    return [row[name] for row in pair_rows(200, seed=1) for name in ("prompt", "chosen", "rejected")]
