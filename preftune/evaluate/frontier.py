"""Reward against KL from the start, for the checkpoints of runs: what each step of the way bought, and the best one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from preftune.evaluate.measures import Measure, paired_change


@dataclass(frozen=True)
class FrontierPoint:
    """A checkpoint: its run, its step (None for the saved model), and what it is worth.

    ``rewards`` are its mean reward on each prompt, for comparing points prompt by prompt.
    """

    run: str
    step: int | None
    reward: Measure
    kl: Measure
    length: Measure
    rewards: tuple[float, ...] = ()
    is_best: bool = False
    behind: Measure | None = None

    @property
    def name(self) -> str:
        """Like "out, step 40"."""
        place = "the start" if self.step == 0 else "saved model" if self.step is None else f"step {self.step:,}"
        return f"{self.run}, {place}"

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "run": self.run,
            "step": self.step,
            "name": self.name,
            "reward": self.reward.as_dict(),
            "kl": self.kl.as_dict(),
            "mean_length": self.length.as_dict(),
            "is_best": self.is_best,
            "behind_best": None if self.behind is None else self.behind.as_dict(),
        }


@dataclass(frozen=True)
class Frontier:
    """All points, the best one marked, each with how far it is behind the best."""

    points: tuple[FrontierPoint, ...]

    @property
    def best(self) -> FrontierPoint:
        """The point of the highest mean reward; of equal ones that of the least KL."""
        return next(one for one in self.points if one.is_best)

    def sentence(self) -> str:
        """Which is best, and from which of the others it cannot be told."""
        best = self.best
        beside = [one.name for one in self.points if not one.is_best and _is_near(one.behind)]
        said = f"Best by reward: {best.name}, {best.reward.value:.3g} ({best.reward.low:.3g} to {best.reward.high:.3g})"
        said += f" at a KL of {best.kl.value:.3g} nats."
        if not beside:
            return f"{said} Its reward is above all others', outside the intervals of the differences."
        return f"{said} No measurable difference to {_listed(beside)}."

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "points": [one.as_dict() for one in self.points],
            "best": self.best.name,
            "sentence": self.sentence(),
            "note": "The best of several, chosen on the prompts it is measured on, is flattered: confirm it on others.",
        }


def frontier_of(points: Iterable[FrontierPoint]) -> Frontier | None:
    """The frontier of the points with a finite reward; None of none."""
    kept = [one for one in points if np.isfinite(one.reward.value)]
    if not kept:
        return None
    best = max(kept, key=lambda one: (one.reward.value, -one.kl.value))
    return Frontier(
        tuple(replace(one, is_best=True) if one is best else replace(one, behind=_behind(best, one)) for one in kept)
    )


def _behind(best: FrontierPoint, other: FrontierPoint) -> Measure | None:
    """The other's reward minus the best one's on the same prompts."""
    first, second = np.array(best.rewards), np.array(other.rewards)
    if len(first) != len(second):
        return None
    both = np.isfinite(first) & np.isfinite(second)
    return paired_change(first[both], second[both], "", "Reward minus that of the best") if both.any() else None


def _is_near(behind: Measure | None) -> bool:
    return behind is None or behind.high >= 0


def _listed(names: Sequence[str]) -> str:
    shown = list(names[:4])
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")
