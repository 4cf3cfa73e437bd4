"""A reward model from preference pairs: scores whose difference says which answer was preferred."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from preftune import losses
from preftune.evaluate.measures import Measure, share_of
from preftune.evaluate.preferences import prefers_right
from preftune.mini.log_probs import device_of, pad, scored_by_length
from preftune.mini.model import RewardModel
from preftune.mini.pairs import read_pairs
from preftune.mini.tokenizer import Example, encode_answers
from preftune.mini.training import Progress, Recipe, curve, train_epochs
from preftune.training.loop import Computed


def train_reward_model(
    model: RewardModel,
    pairs: Sequence[Mapping[str, Any]],
    num_epochs: int = 10,
    lr: float = 1e-4,
    *,
    batch_size: int = 8,
    seed: int = 0,
    progress: Progress | None = None,
) -> tuple[RewardModel, list[float], list[Measure]]:
    """``model``, trained in place; by epoch the mean loss as the pairs came, and the accuracy on them all after it.

    The loss is Bradley and Terry's, -log sigmoid(preferred score - rejected score). A pair has ``prompt``,
    ``preferred`` (or ``chosen``) and ``rejected``; ``PreftuneError`` for one without them.
    """
    recipe = Recipe(num_epochs, lr, batch_size, seed, progress)
    examples = _encode(pairs, model)
    accuracies: list[Measure] = []

    def compute(module: nn.Module, batch: list[int]) -> Computed:
        sides = [side for i in batch for side in examples[2 * i : 2 * i + 2]]
        preferred, rejected = _scores(module, sides).view(-1, 2).unbind(1)
        tokens = sum(side.length for side in sides)
        return Computed(losses.bradley_terry(preferred, rejected).sum(), len(batch), tokens, {})

    rows = train_epochs(
        model,
        [first.length + second.length for first, second in zip(examples[::2], examples[1::2], strict=True)],
        compute,
        recipe,
        after_epoch=lambda: accuracies.append(_accuracy(model, examples)),
    )
    return model, curve(rows, "loss"), accuracies


def evaluate_reward_accuracy(model: RewardModel, pairs: Sequence[Mapping[str, Any]]) -> Measure:
    """How often the preferred answer gets the higher score, with its interval; a tie counts one half."""
    return _accuracy(model, _encode(pairs, model))


def score_answers(model: RewardModel, prompts_and_answers: Sequence[tuple[str, str]]) -> list[float]:
    """The score of each (prompt, answer). Only differences mean something: the zero is the model's own."""
    return _all_scores(model, encode_answers(prompts_and_answers, model.max_seq_len)).tolist()


def _encode(pairs: Sequence[Mapping[str, Any]], model: RewardModel) -> list[Example]:
    """Preferred and rejected side of each pair, one after the other."""
    texts = [(pair.prompt, answer) for pair in read_pairs(pairs) for answer in (pair.preferred, pair.rejected)]
    return encode_answers(texts, model.max_seq_len)


def _accuracy(model: RewardModel, examples: Sequence[Example]) -> Measure:
    scores = _all_scores(model, examples).view(-1, 2).double().numpy()
    prompts = [example.tokens[: example.start] for example in examples[::2]]
    what = "How often the preferred answer gets the higher score; a tie counts one half."
    return share_of(prefers_right(scores), prompts, "Reward accuracy", what)


def _all_scores(model: RewardModel, examples: Sequence[Example]) -> Float[Tensor, "rows"]:
    return scored_by_length(partial(_scores, model), examples)


def _scores(model: nn.Module, examples: Sequence[Example]) -> Float[Tensor, "rows"]:
    batch = pad(examples, device_of(model))
    return model(batch.tokens, batch.lengths)
