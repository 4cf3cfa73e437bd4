"""What a model on disk is worth on given pairs, and what it answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from preftune.data.records import Pair
from preftune.data.tokens import TemplateRefusal, encode_prompt, tokenize_pairs
from preftune.errors import PreftuneError
from preftune.evaluate.answers import KL, answer_lengths, kl_from_reference
from preftune.evaluate.measures import Measure, mean, paired_change
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
from preftune.rollout.sample import Completion, padding_and_stops, sample


@dataclass(frozen=True)
class OpenModel:
    """A model ready to be asked; ``frozen`` is its own reference where it is an adapter."""

    name: str
    engine: LogProbEngine
    tokenizer: Any
    frozen: FrozenModel | None


@dataclass(frozen=True)
class Examined:
    """A model's measures, and the values behind them for comparing models pair by pair."""

    name: str
    measures: Mapping[str, Measure]
    scores: PairScores
    ids: tuple[str, ...]
    left_out: int
    completions: Sequence[Completion] = field(default_factory=tuple)


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
    max_new_tokens: int,
    num_completions: int,
    batch_size: int,
    seed: int,
    progress: Callable[[str, int], Any],
) -> Examined:
    """Preference accuracy on ``pairs``, answer length, and, for an adapter, how it moved from its base."""
    tokens = tokenize_pairs(pairs, model.tokenizer, max_length=max_length)
    with progress(f"scoring pairs with {model.name}", len(tokens.pairs)) as bar:
        scores = score_pairs(model.engine, tokens.pairs, batch_size, bar.advance)
    measures = {RANKING: ranking_accuracy(scores), "log_prob_per_token": _likelihood(scores)}
    if model.frozen is not None:
        rewards = implicit_rewards(scores, score_frozen(model.frozen, tokens.pairs, batch_size).log_probs, beta)
        measures = reward_measures(rewards, scores.prompts) | measures
    prompts = distinct_prompts(pairs, model.tokenizer, num_completions, max_length)
    completions = answer(model, prompts, max_new_tokens=max_new_tokens, temperature=1.0, seed=seed, progress=progress)
    if completions:
        measures |= answer_lengths(completions)
        if model.frozen is not None:
            measures[KL] = kl_from_reference(model.engine, model.frozen.log_probs, completions, batch_size)
    ids = tuple(pair.id for pair in tokens.pairs)
    return Examined(model.name, measures, scores, ids, len(tokens.dropped), completions)


def answer(
    model: OpenModel,
    prompts: Sequence[list[int]],
    *,
    max_new_tokens: int,
    temperature: float,
    seed: int,
    progress: Callable[[str, int], Any],
) -> list[Completion]:
    """The model's answers to prompts given as tokens."""
    if not prompts:
        return []
    with progress(f"answers of {model.name}", len(prompts)) as bar:
        return sample(
            model.engine.model,
            prompts,
            **padding_and_stops(model.engine.model, model.tokenizer),
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seed=seed,
            progress=bar.advance,
        )


def distinct_prompts(pairs: Sequence[Pair], tokenizer: Any, limit: int, longest: int | None) -> list[list[int]]:
    """The first ``limit`` different prompts as tokens, those that leave no room left out."""
    found: dict[tuple[int, ...], list[int]] = {}
    for pair in pairs:
        if len(found) == limit:
            break
        try:
            tokens = encode_prompt(pair, tokenizer)
        except TemplateRefusal:  # counted where the pairs became tokens
            continue
        if tokens and (longest is None or len(tokens) < longest):
            found.setdefault(tuple(tokens), tokens)
    return list(found.values())


def compare_examined(first: Examined, second: Examined) -> Measure | None:
    """Accuracy of the second minus the first on the pairs both could use; None where they share none."""
    place = {name: number for number, name in enumerate(second.ids)}
    shared = [(a, place[name]) for a, name in enumerate(first.ids) if name in place]
    if not shared:
        return None
    ours, theirs = (list(numbers) for numbers in zip(*shared, strict=True))
    return paired_change(
        first.scores.ranks_right()[ours],
        second.scores.ranks_right()[theirs],
        "share",
        "Difference of how often the preferred answer is likelier",
        [first.scores.prompts[number] for number in ours],
    )


def _likelihood(scores: PairScores) -> Measure:
    return mean(
        scores.log_probs[:, 0] / scores.lengths[:, 0],
        "nats",
        "Log-prob of preferred answers",
        "Mean per token, over the preferred answers.",
        scores.prompts,
    )
