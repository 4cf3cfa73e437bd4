"""Supervised fine-tuning: the model learns to give the answers it is shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from preftune.mini.log_probs import answer_log_probs
from preftune.mini.model import MiniGPT
from preftune.mini.pairs import read_answers
from preftune.mini.tokenizer import encode_answers
from preftune.mini.training import Progress, Recipe, curve, train_epochs
from preftune.training.loop import Computed


def sft_train(
    model: MiniGPT,
    texts_or_pairs: Sequence[str | Mapping[str, Any]],
    num_epochs: int = 10,
    lr: float = 1e-3,
    *,
    batch_size: int = 8,
    seed: int = 0,
    progress: Progress | None = None,
) -> tuple[MiniGPT, list[float]]:
    """``model``, trained in place, and the loss of each epoch: the mean of -log p of an answer's token, in nats.

    A row is a text, or a mapping with ``prompt`` and ``preferred`` (or ``chosen``), whose prompt is not learned.
    Raises ``PreftuneError`` for a row without them.
    """
    examples = encode_answers(read_answers(texts_or_pairs), model.max_seq_len)
    scored = [len(example.answer) for example in examples]

    def compute(module: nn.Module, batch: list[int]) -> Computed:
        log_probs = answer_log_probs(module, [examples[i] for i in batch])
        weight = float(sum(scored[i] for i in batch))
        return Computed(-log_probs.sum(), len(batch), sum(examples[i].length for i in batch), {}, weight)

    recipe = Recipe(num_epochs, lr, batch_size, seed, progress)
    rows = train_epochs(
        model, [example.length for example in examples], compute, recipe, weight=lambda item: float(scored[item])
    )
    return model, curve(rows, "loss")
