"""A model on disk opened for evaluation, and what it is worth on given pairs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from preftune.data.records import Pair
from preftune.data.tokens import tokenize_pairs
from preftune.errors import PreftuneError
from preftune.evaluate.measures import Measure, mean
from preftune.evaluate.preferences import (
    RANKING,
    PairScores,
    implicit_rewards,
    ranking_accuracy,
    reward_measures,
    score_frozen,
    score_pairs,
)
from preftune.models.adapters import has_adapter
from preftune.models.lean_modules import make_lean
from preftune.models.loading import load_model, load_tokenizer
from preftune.models.logprobs import LogProbEngine
from preftune.models.reference import FrozenModel, adapter_off
from preftune.models.settings import ModelConfig


@dataclass(frozen=True)
class OpenModel:
    """A model ready to be asked; ``frozen`` is its own reference where it is an adapter."""

    name: str
    engine: LogProbEngine
    tokenizer: Any
    frozen: FrozenModel | None


@dataclass(frozen=True)
class Examined:
    """A model's measures on the pairs named by ``ids``, and the values behind them; how many could not be used."""

    measures: Mapping[str, Measure]
    scores: PairScores
    ids: tuple[str, ...]
    left_out: int


def model_folder(source: str) -> str:
    """The model of a run folder; anything else is taken as it is."""
    folder = Path(source)
    if (folder / "config.yaml").is_file() and not (folder / "config.json").is_file():
        if (folder / "model").is_dir():
            return str(folder / "model")
        raise PreftuneError("This run has no model yet.", where=source, mend="Finish it with --resume.")
    return source


def open_model(config: ModelConfig, note: Callable[[str], object]) -> OpenModel:
    """Model and tokenizer of ``config``, ready for inference."""
    tokenizer = load_tokenizer(config)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = load_model(config, device).requires_grad_(False)
    make_lean(model)
    engine = LogProbEngine(model, note=note).eval()
    return OpenModel(config.model, engine, tokenizer, adapter_off(engine) if has_adapter(model) else None)


def examine(
    model: OpenModel,
    pairs: Sequence[Pair],
    *,
    beta: float,
    max_length: int | None,
    batch_size: int,
    progress: Callable[[str, int], Any],
) -> Examined:
    """Preference accuracy on ``pairs`` and, for an adapter, how it moved from its base."""
    tokens = tokenize_pairs(pairs, model.tokenizer, max_length=max_length)
    with progress(f"scoring pairs with {model.name}", len(tokens.pairs)) as bar:
        scores = score_pairs(model.engine, tokens.pairs, batch_size, bar.advance)
    measures = {RANKING: ranking_accuracy(scores), "log_prob_per_token": _likelihood(scores)}
    if model.frozen is not None:
        rewards = implicit_rewards(scores, score_frozen(model.frozen, tokens.pairs, batch_size).log_probs, beta)
        measures = reward_measures(rewards, scores.prompts) | measures
    return Examined(measures, scores, tuple(pair.id for pair in tokens.pairs), len(tokens.dropped))


def _likelihood(scores: PairScores) -> Measure:
    return mean(
        scores.log_probs[:, 0] / scores.lengths[:, 0],
        "nats",
        "Log-prob of preferred answers",
        "Mean per token, over the preferred answers.",
        scores.prompts,
    )
