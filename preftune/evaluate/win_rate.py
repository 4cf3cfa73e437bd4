"""Win rates, ties counted half, with intervals over prompts; and how many prompts a difference needs."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from jaxtyping import Float

from preftune import intervals
from preftune.evaluate.bootstrap import mean_interval
from preftune.evaluate.measures import Measure, share_of
from preftune.intervals import cluster_numbers

FEW: Final = 10  # wins or losses below which resampling cannot show how rare the rarer one is
LEVEL, POWER = 0.05, 0.8
DIFFERENCES: Final = (0.52, 0.55, 0.6, 0.7)  # win rates whose sample size is told

Points = Float[np.ndarray, "comparisons"]  # 1 a win, 0 a loss, one half a tie, NaN without a verdict


@dataclass(frozen=True)
class SampleSize:
    """How many prompts tell a win rate from an even one.

    ``needed`` is the number of prompts by the win rate to be told from 50%, None where so many ties leave no room
    for it. ``smallest`` is the win rate that the prompts at hand would tell. All hold for a two-sided test at 5% that
    misses one real difference in five, with the share of ties and the clustering that were measured.
    """

    needed: dict[float, int | None]
    smallest: float | None
    prompts: int
    ties: float
    design_effect: float

    def as_dict(self) -> dict[str, Any]:
        """Plain values, the win rates as text keys."""
        return {
            "prompts_needed": {f"{rate:g}": n for rate, n in self.needed.items()},
            "smallest_told": self.smallest,
            "prompts": self.prompts,
            "ties": self.ties,
            "design_effect": self.design_effect,
            "level": LEVEL,
            "power": POWER,
        }

    def sentence(self) -> str:
        """Like "to tell 55% from 50% you need 780 prompts; these 200 tell 60%"."""
        told = f"to tell 55% from 50% you need {_count(self.needed.get(0.55))} prompts"
        if self.smallest is None:
            return f"{told}; these {self.prompts:,} tell no difference"
        return f"{told}; these {self.prompts:,} tell {100 * self.smallest:.0f}% or more"


def win_rate(
    points: Points, prompts: Sequence[Hashable], title: str = "Win rate", explanation: str = "", *, seed: int = 0
) -> Measure:
    """The mean of ``points``, those of one prompt drawn together; NaN is left out.

    The interval is a bootstrap over prompts, or Wilson's widened by the clustering where fewer than ten wins or
    losses would make resampling too sure of itself.
    """
    known = np.isfinite(points)
    values, keys = points[known], [one for one, kept in zip(prompts, known, strict=True) if kept]
    wins = float(values.sum())
    if min(wins, len(values) - wins) < FEW or len(set(keys)) < 2:
        return share_of(values, keys, title, explanation)
    low, high = mean_interval(values, cluster_numbers(keys), seed)
    return Measure(float(values.mean()), max(0.0, low), min(1.0, high), len(values), "share", title, explanation)


def tie_share(points: Points, prompts: Sequence[Hashable]) -> Measure:
    """How often neither was better, of the comparisons with a verdict."""
    known = np.isfinite(points)
    what = "Verdicts for neither, those that turned with the order among them; each counts half a win."
    return share_of(points[known] == 0.5, [one for one, kept in zip(prompts, known, strict=True) if kept], "Ties", what)


def sample_size(points: Points, prompts: Sequence[Hashable]) -> SampleSize:
    """What this comparison's ties and clustering say of how many prompts the next one needs."""
    known = np.isfinite(points)
    values, keys = points[known], [one for one, kept in zip(prompts, known, strict=True) if kept]
    count = len(set(keys))
    ties = float((values == 0.5).mean()) if len(values) else 0.0
    effect = design_effect(values, keys)
    per_prompt = len(values) / count if count else 1.0

    def prompts_for(rate: float) -> int | None:
        n = comparisons_needed(rate, ties=ties)
        return None if n is None else max(2, math.ceil(n * effect / per_prompt))

    return SampleSize(
        {rate: prompts_for(rate) for rate in DIFFERENCES}, _smallest(prompts_for, count), count, ties, effect
    )


def comparisons_needed(rate: float, *, ties: float = 0.0, level: float = LEVEL, power: float = POWER) -> int | None:
    """Independent comparisons that tell ``rate`` from one half, None where the ties leave no room for that rate.

    A comparison's points have the variance p (1 - p) - t / 4 with the share t of ties, since a win has p - t / 2 and
    a tie counts a quarter of a win in the mean square; so n = ((z_a s_0 + z_b s_1) / (p - 1/2))^2.
    """
    from scipy.stats import norm

    if rate == 0.5 or min(rate, 1 - rate) < ties / 2:
        return None
    even, real = 0.25 - ties / 4, rate * (1 - rate) - ties / 4
    reach = float(norm.isf(level / 2)) * math.sqrt(max(0.0, even)) + float(norm.isf(1 - power)) * math.sqrt(
        max(0.0, real)
    )
    return math.ceil((reach / (rate - 0.5)) ** 2)


def design_effect(values: Points, prompts: Sequence[Hashable]) -> float:
    """The variance of the mean with the comparisons of a prompt hanging together, over that without; at least 1.

    1 too where nothing can be seen of it: all values equal, one prompt, or one comparison of each.
    """
    numbers = cluster_numbers(prompts)
    n_prompts = int(numbers.max(initial=-1)) + 1
    if n_prompts < 2 or n_prompts == len(values) or values.var() == 0:
        return 1.0
    return intervals.design_effect(values, numbers)


def _smallest(prompts_for: Any, prompts: int) -> float | None:
    """The smallest win rate above one half, in steps of a hundredth, that so many prompts tell."""
    for hundredths in range(51, 100):
        needed = prompts_for(hundredths / 100)
        if needed is not None and needed <= prompts:
            return hundredths / 100
    return None


def _count(n: int | None) -> str:
    return "more than any number of" if n is None else f"{n:,}"
