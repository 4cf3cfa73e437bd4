"""Rewards: what says how good an answer is."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from preftune.rewards.calling import Asked, Failure, Rewards, RewardTable
    from preftune.rewards.combining import RunningMoments, combine, constrained, updated_multiplier
    from preftune.rewards.naming import open_rewards
    from preftune.rewards.scoring import Calibration, Scorer, Scores, open_scorer, score, score_texts
    from preftune.rewards.specs import split_specs

__all__ = [
    "Asked",
    "Calibration",
    "Failure",
    "RewardTable",
    "Rewards",
    "RunningMoments",
    "Scorer",
    "Scores",
    "combine",
    "constrained",
    "open_rewards",
    "open_scorer",
    "score",
    "score_texts",
    "split_specs",
    "updated_multiplier",
]

# Only reward models need torch: a function as a reward does without.
_PLACES: Final = {
    "calling": ("Asked", "Failure", "RewardTable", "Rewards"),
    "combining": ("RunningMoments", "combine", "constrained", "updated_multiplier"),
    "naming": ("open_rewards",),
    "scoring": ("Calibration", "Scorer", "Scores", "open_scorer", "score", "score_texts"),
    "specs": ("split_specs",),
}


def __getattr__(name: str) -> Any:
    for module, names in _PLACES.items():
        if name in names:
            return getattr(import_module(f"preftune.rewards.{module}"), name)
    raise AttributeError(f"preftune.rewards has no {name}")
