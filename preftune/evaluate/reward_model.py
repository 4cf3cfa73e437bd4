"""What a reward model's scores are worth on pairs: accuracy, calibration, and what length alone would give."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from preftune.data.records import Pair
from preftune.data.tokens import TokenPair, tokenize_pairs
from preftune.evaluate.calibration import expected_calibration_error, fit_temperature, longer_wins
from preftune.evaluate.measures import Measure, mean, share_of
from preftune.models.scores import score_items
from preftune.rewards.scoring import Scorer

ACCURACY, TEMPERATURE = "accuracy", "temperature"
CALIBRATION_PAIRS = 100  # fewer pairs say nothing of calibration
PairScores = Float[np.ndarray, "pairs 2"]


@dataclass(frozen=True)
class ExaminedScorer:
    """A reward model's measures, and how many pairs could not be scored."""

    name: str
    measures: dict[str, Measure]
    left_out: int


def examine_scorer(
    scorer: Scorer,
    pairs: Sequence[Pair],
    *,
    max_length: int | None,
    batch_size: int,
    progress: Callable[[str, int], Any],
) -> ExaminedScorer:
    """The measures of an open reward model on ``pairs``; margins are divided by its saved temperature."""
    tokens = tokenize_pairs(pairs, scorer.tokenizer, max_length=max_length)
    with progress(f"scoring pairs with {scorer.name}", len(tokens.records)) as bar:
        scores = score_items(scorer.engine, tokens.records, batch_size, bar.advance)
    scores = (scores - scorer.calibration.mean) / scorer.calibration.temperature
    return ExaminedScorer(scorer.name, score_measures(scores, tokens.records), len(tokens.dropped))


def score_measures(scores: PairScores, pairs: Sequence[TokenPair]) -> dict[str, Measure]:
    """Of the scores of each pair's sides, chosen first."""
    found, prompts = margins(scores), [pair.prompt.tobytes() for pair in pairs]
    measures = {
        ACCURACY: score_accuracy(scores, pairs),
        "margin": mean(found, "", "Score margin", "Mean of chosen minus rejected score.", prompts),
        "mean_reward": mean(scores.mean(1), "", "Mean score", "Over both sides.", prompts),
    }
    if len(pairs) >= CALIBRATION_PAIRS:
        measures["calibration_error"] = expected_calibration_error(found, prompts)
        measures[TEMPERATURE] = fit_temperature(found, prompts)
    return measures | {"longer_wins": longer_wins(length_differences(pairs), prompts)}


def score_accuracy(scores: PairScores, pairs: Sequence[TokenPair]) -> Measure:
    """How often the chosen side has the higher score; a tie counts half."""
    what = "How often the model scores the answer people preferred higher; a new head, before training, is a coin."
    return share_of(right(scores), [pair.prompt.tobytes() for pair in pairs], "Held-out accuracy", what)


def margins(scores: PairScores) -> Float[np.ndarray, "pairs"]:
    """Chosen minus rejected."""
    return scores[:, 0] - scores[:, 1]


def right(scores: PairScores) -> Float[np.ndarray, "pairs"]:
    """1 where the chosen side has the higher score, 0 where the lower, one half for a tie."""
    return (np.sign(margins(scores)) + 1) / 2


def length_differences(pairs: Sequence[TokenPair]) -> np.ndarray:
    """Tokens that the chosen side has more than the rejected one."""
    return np.array([len(pair.chosen) - len(pair.rejected) for pair in pairs])
