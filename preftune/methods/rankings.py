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


@dataclass(frozen=True)
class Ranking:
    """A prompt's answers, and its comparisons as (winner, loser, margin), the first two numbers of answers."""

    id: str
    prompt: TokenIds
    completions: tuple[TokenIds, ...]
    comparisons: tuple[tuple[int, int, float], ...]

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
    pair_losses: Callable[[PairScores, Margins], Margins],
) -> Callable[[nn.Module, Sequence[Ranking]], Computed]:
    """The step the loop runs: scores, the mean loss of each prompt's pairs, TRL's metrics."""

    def compute(module: nn.Module, batch: Sequence[Ranking]) -> Computed:
        scores = module(groups_of(batch))
        sides, margins, shares = _comparisons(batch, scores.device)
        pairs = scores[sides]
        loss = (pair_losses(pairs, margins) * shares).sum()
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
        comparisons.append((place[pair.chosen.tobytes()], place[pair.rejected.tobytes()], pair.margin or 0.0))
    return Ranking("+".join(pair.id for pair in pairs), pairs[0].prompt, tuple(answers), tuple(comparisons))


def _comparisons(batch: Sequence[Ranking], device: torch.device) -> tuple[Tensor, Margins, Margins]:
    """Of all pairs of the batch: which scores they compare, their margins, and each one's share of its prompt."""
    sides, margins, shares, first = [], [], [], 0
    for ranking in batch:
        for winner, loser, margin in ranking.comparisons:
            sides.append((first + winner, first + loser))
            margins.append(margin)
            shares.append(1 / len(ranking.comparisons))
        first += len(ranking.completions)
    return (
        torch.tensor(sides, device=device),
        torch.tensor(margins, device=device),
        torch.tensor(shares, device=device),
    )


def _metrics(scores: Tensor, pairs: PairScores) -> dict[str, tuple[Tensor | float, float]]:
    chosen, rejected = pairs.unbind(1)
    return {
        "accuracy": ((chosen > rejected).float().sum(), len(pairs)),
        "margin": ((chosen - rejected).sum(), len(pairs)),
        "mean_reward": (scores.sum(), len(scores)),
        "min_reward": (scores.min(), 1),
        "max_reward": (scores.max(), 1),
    }
