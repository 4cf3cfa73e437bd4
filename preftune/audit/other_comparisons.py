"""What the other comparisons of the same two answers say about a pair: whose record is the better one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from preftune.audit.clusters import prompt_numbers
from preftune.audit.pair_features import Floats
from preftune.data.records import Pair, normal_text

BEFOREHAND = 1.0  # wins and losses that every answer has before any comparison (Laplace)


def margins_from_others(pairs: Sequence[Pair]) -> Floats:
    """(pairs,): the log-odds of the chosen answer's record less those of the rejected one's; 0 where neither has one.

    A record is the wins and losses in the other comparisons of the prompt: log((wins + 1) / (losses + 1)). All rows of
    the same two answers are left out together, so that copies of a pair do not vouch for each other. Counting did
    as well as least squares and Bradley-Terry scores without the comparison on three real sets, at no cost.
    """
    if not pairs:
        return np.zeros(0)
    winners, losers, answers = _numbered(pairs)
    own_wins, own_losses = _of_comparison(winners, losers, answers)
    won, lost = (np.bincount(side, minlength=answers) for side in (winners, losers))
    chosen = _log_odds(won[winners] - own_wins, lost[winners] - own_losses)
    rejected = _log_odds(won[losers] - own_losses, lost[losers] - own_wins)
    return chosen - rejected


def _numbered(pairs: Sequence[Pair]) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """The number of each pair's chosen and rejected answer, and how many answers there are."""
    seen: dict[tuple[int, str], int] = {}
    prompts = prompt_numbers(pairs).tolist()
    sides = [
        [seen.setdefault((prompt, normal_text(side)), len(seen)) for side in (pair.chosen, pair.rejected)]
        for prompt, pair in zip(prompts, pairs, strict=True)
    ]
    winners, losers = np.array(sides, dtype=np.int64).T
    return winners, losers, len(seen)


def _of_comparison(
    winners: NDArray[np.int64], losers: NDArray[np.int64], answers: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """How many rows say what each row says, itself among them, and how many say the contrary."""
    said, index, counts = np.unique(winners * answers + losers, return_inverse=True, return_counts=True)
    contrary = losers * answers + winners
    places = np.minimum(np.searchsorted(said, contrary), len(said) - 1)
    return counts[index], np.where(said[places] == contrary, counts[places], 0)


def _log_odds(wins: NDArray[np.int64], losses: NDArray[np.int64]) -> Floats:
    return np.log((wins + BEFOREHAND) / (losses + BEFOREHAND))
