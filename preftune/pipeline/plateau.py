"""Has DPO come to its end? Later checkpoints and other betas held against an earlier one, on the same held-out items.

Differences are paired and their intervals hold all together: the largest studentised deviation over draws of whole
prompts sets one width for all (the bootstrap max-t of Romano and Wolf 2005). So where nothing differs, some
candidate's interval lies above 0 in about one comparison in forty, however many candidates there are.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

import numpy as np
from jaxtyping import Float

from preftune.evaluate.bootstrap import cluster_draws
from preftune.intervals import cluster_numbers

Verdict: TypeAlias = Literal["rising", "plateau", "falling", "cannot tell"]
MATTERS: Final = 0.02  # a gain of accuracy that would be worth more training
FEWEST: Final = 30  # prompts
LEVEL: Final = 0.05

Scores: TypeAlias = Float[np.ndarray, "items"]


@dataclass(frozen=True)
class Difference:
    """A candidate's mean less the earlier one's, with an interval that holds for all candidates together."""

    value: float
    low: float
    high: float
    n: int
    is_share: bool = False

    def __str__(self) -> str:
        if self.is_share:
            value, low, high = (100 * one for one in (self.value, self.low, self.high))
            return f"{value:+.1f} points ({low:+.1f} to {high:+.1f}, n = {self.n:,})"
        return f"{self.value:+.3f} ({self.low:+.3f} to {self.high:+.3f}, n = {self.n:,})"


@dataclass(frozen=True)
class Plateau:
    """``rising``: some candidate is surely better, ``best`` the furthest of these. ``falling``: all are surely worse.

    ``plateau``: none is better by as much as ``matters``, with the same sureness. Else it cannot be told.
    """

    verdict: Verdict
    best: str | None
    earlier: str
    differences: Mapping[str, Difference]
    matters: float
    prompts: int

    def as_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return {**vars(self), "differences": {name: vars(one) for name, one in self.differences.items()}}

    def sentence(self) -> str:
        """The verdict with its figures."""
        if not self.differences:
            return f"it cannot be told: {self.prompts:,} prompts are held out, and {FEWEST} are the fewest that show it"
        told = "; ".join(f"{name} {one}" for name, one in self.differences.items())
        against = f"against {self.earlier}: {told}"
        is_share = any(one.is_share for one in self.differences.values())
        matters = f"{100 * self.matters:g} points" if is_share else f"{self.matters:.3g}"
        return {
            "rising": f"{self.best} is surely better {against}",
            "plateau": f"no candidate is better by {matters} {against}",
            "falling": f"every candidate is surely worse {against}",
            "cannot tell": f"it cannot be told, by {self.prompts:,} prompts, {against}",
        }[self.verdict]


def find_plateau(
    earlier: str,
    scores: Mapping[str, Scores],
    prompts: Sequence[Hashable],
    *,
    matters: float = MATTERS,
    level: float = LEVEL,
    are_shares: bool = False,
    seed: int = 0,
) -> Plateau:
    """``scores`` are of each candidate and of ``earlier``, item by item; items of a prompt hang together.

    ``matters`` is in the scores' unit; ``are_shares`` where each is 0, one half or 1: then equal scores on few items
    are no proof of equal models. Fewer than 30 prompts tell nothing.
    """
    later = [name for name in scores if name != earlier]
    numbers = cluster_numbers(prompts)
    clusters = int(numbers.max(initial=-1)) + 1
    if clusters < FEWEST or not later:
        return Plateau("cannot tell", None, earlier, {}, matters, clusters)
    table = np.stack([np.asarray(scores[name], dtype=np.float64) - scores[earlier] for name in later])
    found = dict(zip(later, _simultaneous(table, numbers, clusters, level, are_shares, seed), strict=True))
    better = [name for name in later if found[name].low > 0]
    if better:
        return Plateau("rising", max(better, key=lambda n: found[n].value), earlier, found, matters, clusters)
    if all(one.high < 0 for one in found.values()):
        return Plateau("falling", None, earlier, found, matters, clusters)
    verdict: Verdict = "plateau" if all(one.high < matters for one in found.values()) else "cannot tell"
    return Plateau(verdict, None, earlier, found, matters, clusters)


def _simultaneous(
    table: Float[np.ndarray, "candidates items"],
    numbers: np.ndarray,
    clusters: int,
    level: float,
    are_shares: bool,
    seed: int,
) -> list[Difference]:
    """Means of the rows with intervals of one confidence together.

    Shares count half an item more for either side, as Agresti and Min (2005) have it for matched pairs: the deviation
    of differences that are all 0 is then 1 / n and not 0.
    """
    from scipy.stats import t

    sizes = np.bincount(numbers, minlength=clusters).astype(np.float64)
    sums = np.stack([np.bincount(numbers, row, minlength=clusters) for row in table])
    means, n = table.mean(1), table.shape[1]
    residuals = sums - means[:, None] * sizes
    deviations = np.sqrt(clusters / (clusters - 1) * (residuals**2).sum(1)) / n
    known = deviations > 0
    deviations = np.sqrt(deviations**2 + (1 / n**2 if are_shares else 0.0))
    width = float(t.ppf(1 - level / 2, clusters - 1))
    if known.sum() > 1:
        drawn = np.concatenate(
            [(draws @ residuals[known].T) / (draws @ sizes)[:, None] for draws in cluster_draws(clusters, seed)]
        )
        spread = np.quantile(np.abs(drawn / deviations[known]).max(1), 1 - level)
        single = np.quantile(np.abs(drawn / deviations[known]), 1 - level, axis=0).min()
        width *= max(1.0, float(spread / single))
    return [
        Difference(float(mean), float(mean - width * deviation), float(mean + width * deviation), n, are_shares)
        for mean, deviation in zip(means, deviations, strict=True)
    ]
