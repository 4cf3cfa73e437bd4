"""Scores of answers by a reward model on disk, in batches."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from pydantic import ValidationError

from preftune.data.records import Label, Message
from preftune.data.tokens import Dropped, tokenize_labels
from preftune.errors import PreftuneError
from preftune.models.lean_modules import make_lean
from preftune.models.loading import load_tokenizer
from preftune.models.reward_models import load_scorer
from preftune.models.scores import ScoreEngine, score_items
from preftune.models.settings import ModelConfig

Content: TypeAlias = str | Sequence[Message | Mapping[str, Any]]
CALIBRATION_FILE = "reward.json"


@dataclass(frozen=True)
class Calibration:
    """What is taken off a raw score and what the rest is divided by, so that sigmoid(margin) is a probability."""

    mean: float = 0.0
    temperature: float = 1.0


@dataclass(frozen=True)
class Scorer:
    """A reward model ready to be asked."""

    name: str
    engine: ScoreEngine
    tokenizer: Any
    calibration: Calibration = Calibration()


@dataclass(frozen=True)
class Scores:
    """A score for each answer, in the order asked; NaN for those that cannot be scored, each with its reason.

    The ``id`` of a dropped one is its number, from 0.
    """

    values: Float[np.ndarray, "completions"]
    dropped: tuple[Dropped, ...]


def score(
    model: str | Path | Scorer,
    prompts: Sequence[Content],
    completions: Sequence[Content],
    batch_size: int = 16,
    max_length: int | None = None,
) -> Float[np.ndarray, "completions"]:
    """The reward model's score of each completion as the answer to its prompt; higher is better.

    Prompts and completions are text or chat messages, read as in training. An answer that cannot be scored gets
    NaN. ``model`` is a folder, or a ``Scorer`` opened once for many calls.
    """
    scorer = model if isinstance(model, Scorer) else open_scorer(ModelConfig.model_validate({"model": str(model)}))
    return score_texts(scorer, prompts, completions, batch_size=batch_size, max_length=max_length).values


def open_scorer(config: ModelConfig, note: Callable[[str], object] | None = None) -> Scorer:
    """The trained reward model of ``config`` with its tokenizer and, where it has one, its calibration."""
    calibration = read_calibration(Path(config.model).expanduser())
    tokenizer = load_tokenizer(config)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = load_scorer(config, device, needs_head=True).requires_grad_(False)
    make_lean(model)
    return Scorer(config.model, ScoreEngine(model, note=note).eval(), tokenizer, calibration)


def score_texts(
    scorer: Scorer,
    prompts: Sequence[Content],
    completions: Sequence[Content],
    *,
    batch_size: int = 16,
    max_length: int | None = None,
    progress: Callable[[int], object] | None = None,
) -> Scores:
    """Each completion's calibrated score; ``progress`` is told how many were done, in batches of like length.

    Boundary, EOS and truncation are those of training. Raises ``PreftuneError`` where none can be scored.
    """
    if len(prompts) != len(completions):
        raise PreftuneError(
            f"There are {len(prompts)} prompts and {len(completions)} completions.",
            mend="Give one prompt a completion; repeat it where it has several.",
        )
    records, misshapen = _records(prompts, completions)
    if misshapen and not records:
        raise PreftuneError(f"No answer can be scored ({misshapen[0].reason}).", mend=misshapen[0].mend)
    tokens = tokenize_labels(records, scorer.tokenizer, max_length=max_length)
    raw = score_items(scorer.engine, tokens.records, batch_size, progress)
    values = np.full(len(prompts), np.nan)
    values[[int(item.id) for item in tokens.records]] = raw.reshape(-1)
    values = (values - scorer.calibration.mean) / scorer.calibration.temperature
    return Scores(values, (*misshapen, *tokens.dropped))


def read_calibration(folder: Path) -> Calibration:
    """The calibration beside a reward model; none where there is no such file."""
    file = folder / CALIBRATION_FILE
    if not file.is_file():
        return Calibration()
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        found = Calibration(float(content.get("mean", 0.0)), float(content.get("temperature", 1.0)))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise PreftuneError(
            f"The calibration cannot be read ({error}).",
            where=str(file),
            mend='It holds {"mean": number, "temperature": number}; without the file scores are given raw.',
        ) from error
    if not (math.isfinite(found.mean) and math.isfinite(found.temperature) and found.temperature > 0):
        raise PreftuneError(
            f"The calibration has mean {found.mean} and temperature {found.temperature}.",
            where=str(file),
            mend="Both must be finite and the temperature above 0; without the file scores are given raw.",
        )
    return found


def _records(prompts: Sequence[Content], completions: Sequence[Content]) -> tuple[list[Label], list[Dropped]]:
    """The answers as records whose id is their number, and those that are none."""
    records: list[Label] = []
    misshapen: list[Dropped] = []
    for number, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        fields = {"prompt": prompt, "completion": completion, "label": True, "id": str(number)}
        try:
            records.append(Label.model_validate(fields))
        except ValidationError:
            mend = "Prompt and completion are both text, or both lists of messages with role and content."
            misshapen.append(Dropped(str(number), "not-an-answer", mend))
    return records, misshapen
