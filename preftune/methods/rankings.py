"""A step on ranked answers: all pairs of a prompt together, each answer scored once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from preftune.data.tokens import TokenIds, TokenPair
from preftune.models.reference import groups_of
from preftune.training.loop import Computed

PairScores = Float[Tensor, "pairs 2"]
Margins = Float[Tensor, "pairs"]
STRONGLY_WRONG = -2.0  # a margin below it means odds of more than seven to one against the label


@dataclass(frozen=True)
class Ranking:
    """A prompt's answers, and its comparisons: numbers of the winner and the loser among them, margin, confidence."""

    id: str
    prompt: TokenIds
    completions: tuple[TokenIds, ...]
    comparisons: tuple[tuple[int, int, float, float], ...]

    @property
    def length(self) -> int:
        return len(self.prompt) + sum(len(one) for one in self.completions)


def rank(pairs: Sequence[TokenPair], *, together: bool) -> list[Ranking]:
    """Pairs as rankings of two, or ``together`` by prompt: an answer in several pairs is then one.

    InstructGPT (Ouyang et al. 2022, arXiv:2203.02155, section 3.5) trains on all comparisons of a prompt as one
    element of the batch: apart, each answer would be met several times an epoch, and is over-fitted.
    """
    groups: dict[bytes, list[TokenPair]] = {}
    for number, pair in enumerate(pairs):
        groups.setdefault(pair.prompt.tobytes() if together else str(number).encode(), []).append(pair)
    return [_ranking(group) for group in groups.values()]


def ranking_step(
    pair_losses: Callable[[PairScores, Margins], Margins], *, use_confidence: bool = False
) -> Callable[[nn.Module, Sequence[Ranking]], Computed]:
    """The step the loop runs: scores, the mean loss of each prompt's pairs, TRL's metrics.

    ``use_confidence``: a pair's loss is the one expected where its label is right with the pair's confidence.
    """

    def compute(module: nn.Module, batch: Sequence[Ranking]) -> Computed:
        scores = module(groups_of(batch))
        sides, margins, is_right, shares = _comparisons(batch, scores.device)
        pairs = scores[sides]
        losses = pair_losses(pairs, margins)
        if use_confidence:
            losses = is_right * losses + (1 - is_right) * pair_losses(pairs.flip(1), margins)
        loss = (losses * shares).sum()
        tokens = sum(len(one.prompt) * len(one.completions) + sum(map(len, one.completions)) for one in batch)
        return Computed(loss, len(batch), tokens, _metrics(scores.detach(), pairs.detach()))

    return compute


def _ranking(pairs: Sequence[TokenPair]) -> Ranking:
    place: dict[bytes, int] = {}
    answers: list[TokenIds] = []
    comparisons = []
    for pair in pairs:
        for side in pair.completions:
            if side.tobytes() not in place:
                place[side.tobytes()] = len(answers)
                answers.append(side)
        sides = place[pair.chosen.tobytes()], place[pair.rejected.tobytes()]
        comparisons.append((*sides, pair.margin or 0.0, 1.0 if pair.confidence is None else pair.confidence))
    return Ranking("+".join(pair.id for pair in pairs), pairs[0].prompt, tuple(answers), tuple(comparisons))


def _comparisons(batch: Sequence[Ranking], device: torch.device) -> tuple[Tensor, Margins, Margins, Margins]:
    """Of all pairs of the batch: the scores they compare, margins, confidences, and each one's share of its prompt."""
    sides, numbers, first = [], [], 0
    for ranking in batch:
        for winner, loser, margin, confidence in ranking.comparisons:
            sides.append((first + winner, first + loser))
            numbers.append((margin, confidence, 1 / len(ranking.comparisons)))
        first += len(ranking.completions)
    margins, confidences, shares = torch.tensor(numbers, device=device).unbind(1)
    return torch.tensor(sides, device=device), margins, confidences, shares


def _metrics(scores: Tensor, pairs: PairScores) -> dict[str, tuple[Tensor | float, float]]:
    chosen, rejected = pairs.unbind(1)
    return {
        "accuracy": ((chosen > rejected).float().sum(), len(pairs)),
        "margin": ((chosen - rejected).sum(), len(pairs)),
        "rewards/strongly_wrong": ((chosen - rejected < STRONGLY_WRONG).float().sum(), len(pairs)),
        "mean_reward": (scores.sum(), len(scores)),
        "min_reward": (scores.min(), 1),
        "max_reward": (scores.max(), 1),
    }
