"""Does the model prefer what people preferred? Held-out pairs scored by the policy and by the reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float

from preftune.data.batches import by_length
from preftune.data.tokens import TokenPair
from preftune.evaluate.measures import Measure, mean, share_of
from preftune.models.logprobs import LogProbEngine
from preftune.models.reference import FrozenModel, groups_of, item_log_probs

PREFERENCE, RANKING, MARGIN = "preference_accuracy", "ranking_accuracy", "reward_margin"


@dataclass(frozen=True)
class PairScores:
    """Summed log-probs (nats) and token counts of each pair's sides, chosen first; and what prompt it is of."""

    log_probs: Float[np.ndarray, "pairs 2"]
    lengths: Float[np.ndarray, "pairs 2"]
    prompts: Sequence[bytes]

    @classmethod
    def of(cls, pairs: Sequence[TokenPair], log_probs: Float[np.ndarray, "pairs 2"]) -> PairScores:
        """The scores of ``pairs`` whose log-probs are known."""
        lengths = np.array([[len(pair.chosen), len(pair.rejected)] for pair in pairs], dtype=float).reshape(-1, 2)
        return cls(log_probs, lengths, [pair.prompt.tobytes() for pair in pairs])

    def ranks_right(self) -> Bool[np.ndarray, "pairs"]:
        """True where the chosen side is the likelier one a token."""
        per_token = self.log_probs / self.lengths
        return per_token[:, 0] > per_token[:, 1]


def score_pairs(
    engine: LogProbEngine,
    pairs: Sequence[TokenPair],
    batch_size: int,
    progress: Callable[[int], object] | None = None,
) -> PairScores:
    """The policy's scores of ``pairs``, in their order."""
    log_probs = np.empty((len(pairs), 2))
    was_training = engine.training
    engine.eval()
    try:
        for batch in by_length([pair.length for pair in pairs], batch_size):
            with torch.no_grad():
                sums = engine(groups_of([pairs[i] for i in batch])).sums()
            log_probs[batch] = sums.view(-1, 2).double().cpu().numpy()
            if progress is not None:
                progress(len(batch))
    finally:
        engine.train(was_training)
    return PairScores.of(pairs, log_probs)


def score_frozen(
    model: FrozenModel,
    pairs: Sequence[TokenPair],
    batch_size: int,
    progress: Callable[[int], object] | None = None,
) -> PairScores:
    """A frozen model's scores of ``pairs``, in their order."""
    return PairScores.of(pairs, item_log_probs(model, pairs, batch_size, progress).double().numpy())


def ranking_accuracy(scores: PairScores) -> Measure:
    """How often the preferred answer is the likelier one; it needs no reference."""
    return share_of(
        scores.ranks_right(),
        scores.prompts,
        "Preferred answer is the likelier one",
        "How often the model gives the answer people preferred the higher likelihood per token.",
    )


def implicit_rewards(
    scores: PairScores, reference: Float[np.ndarray, "pairs 2"], beta: float
) -> Float[np.ndarray, "pairs 2"]:
    """beta * log pi / pi_ref of each side (Rafailov et al. 2023, arXiv:2305.18290, section 4)."""
    return beta * (scores.log_probs - reference)


def prefers_right(rewards: Float[np.ndarray, "pairs 2"]) -> Float[np.ndarray, "pairs"]:
    """1 where the implicit reward is higher for the preferred answer, 0 where lower, one half for a tie."""
    return (np.sign(rewards[:, 0] - rewards[:, 1]) + 1) / 2


def reward_measures(rewards: Float[np.ndarray, "pairs 2"], prompts: Sequence[bytes]) -> dict[str, Measure]:
    """Accuracy and mean margin of the implicit reward: how the model moved against its reference.

    The reference itself has only ties, so an accuracy of one half.
    """
    margins = rewards[:, 0] - rewards[:, 1]
    return {
        PREFERENCE: _preference_accuracy(rewards, prompts),
        MARGIN: mean(
            margins, "nats", "Reward margin", "beta times how much further the preferred answer was raised.", prompts
        ),
    }


def _preference_accuracy(rewards: Float[np.ndarray, "pairs 2"], prompts: Sequence[bytes]) -> Measure:
    title = "Held-out preference accuracy"
    right = prefers_right(rewards)
    if len(right) and (right == 0.5).all():
        what = "Before training the model has no preference against itself: even odds by construction, for any pairs."
        return Measure(0.5, 0.5, 0.5, len(right), "share", title, what)
    what = "How often the model raised the answer people preferred more than the other one, against its start."
    return share_of(right, prompts, title, what)
