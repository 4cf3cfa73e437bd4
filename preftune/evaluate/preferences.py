"""Does the model prefer what people preferred? Held-out pairs scored by the policy and by the reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float

from preftune.data.batches import by_length
from preftune.data.tokens import TokenPair
from preftune.evaluate.measures import Measure, mean, share
from preftune.models.logprobs import LogProbEngine
from preftune.models.reference import pair_groups

RANKING = "ranking_accuracy"
IMPLICIT = "implicit_reward_accuracy"


@dataclass(frozen=True)
class PairScores:
    """Summed log-probs (nats) and token counts of each pair's sides, chosen first."""

    log_probs: Float[np.ndarray, "pairs 2"]
    lengths: Float[np.ndarray, "pairs 2"]

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
    log_probs, lengths = np.empty((len(pairs), 2)), np.empty((len(pairs), 2))
    was_training = engine.training
    engine.eval()
    try:
        for batch in by_length([pair.length for pair in pairs], batch_size):
            with torch.no_grad():
                sums = engine(pair_groups([pairs[i] for i in batch])).sums()
            log_probs[batch] = sums.view(-1, 2).double().cpu().numpy()
            lengths[batch] = [[len(pairs[i].chosen), len(pairs[i].rejected)] for i in batch]
            if progress is not None:
                progress(len(batch))
    finally:
        engine.train(was_training)
    return PairScores(log_probs, lengths)


def ranking_accuracy(scores: PairScores) -> Measure:
    """How often the preferred answer is the likelier one; it needs no reference."""
    right = scores.ranks_right()
    return share(
        int(right.sum()),
        len(right),
        "Held-out preference accuracy",
        "How often the model gives the answer people preferred the higher likelihood per token.",
    )


def implicit_rewards(
    scores: PairScores, reference: Float[np.ndarray, "pairs 2"], beta: float
) -> Float[np.ndarray, "pairs 2"]:
    """beta * log pi / pi_ref of each side (Rafailov et al. 2023, arXiv:2305.18290, section 4)."""
    return beta * (scores.log_probs - reference)


def implicit_measures(rewards: Float[np.ndarray, "pairs 2"]) -> dict[str, Measure]:
    """Accuracy and mean margin of the implicit reward; both say how the model moved against its reference."""
    margins = rewards[:, 0] - rewards[:, 1]
    return {
        IMPLICIT: share(
            int((margins > 0).sum()),
            len(margins),
            "Implicit reward accuracy",
            "How often training raised the preferred answer more than the other one; the start is even odds.",
        ),
        "reward_margin": mean(
            margins, "nats", "Reward margin", "beta times how much further the preferred answer was raised."
        ),
    }
