"""Several rewards as one: weighted, scaled, and held to constraints whose multipliers move as training goes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from preftune.errors import PreftuneError
from preftune.methods.across import gathered
from preftune.methods.context import Context
from preftune.methods.online_settings import OnlineConfig
from preftune.methods.rollout_figures import Sums
from preftune.methods.rollouts import Judged
from preftune.rewards.combining import combine, updated_multiplier


@dataclass(frozen=True)
class Constraint:
    """A reward whose mean is to stay on one side of ``limit``; ``sign`` is 1 where it is to be at least that."""

    name: str
    sign: int
    limit: float

    def cost(self, mean: float) -> float:
        """How far the mean is on the wrong side; negative on the right one."""
        return self.sign * (self.limit - mean)


class Objective:
    """Combines the rewards of a window; remembers the constraints' multipliers."""

    def __init__(self, context: Context[Any], names: Sequence[str], weights: Sequence[float]) -> None:
        config: OnlineConfig = context.config
        self.context, self.names, self.weights = context, tuple(names), np.array(weights, dtype=float)
        self.constraints = [_constraint(text, self.names) for text in config.reward_constraints]
        self.multipliers = {one.name: 0.0 for one in self.constraints}

    def combined(self, judged: Judged) -> Float[np.ndarray, "samples"]:
        """One reward a completion, the weighted sum, NaN where none is known.

        Completions that were cut pay ``missing_eos_penalty``.
        """
        found = combine(judged.values, self._effective_weights(), judged.groups, failed=judged.failed)
        finished = np.array([one.drawn.finished for one in judged.rollouts], dtype=bool)
        return found - np.where(finished, 0.0, self.context.config.missing_eos_penalty or 0.0)

    def normalised(self, judged: Judged) -> Float[np.ndarray, "samples"]:
        """GDPO's advantages: each reward normalised in its group, summed, normalised over all processes' batch."""
        accelerator = self.context.accelerator
        own = [
            (values, failed, (accelerator.process_index, int(group)))
            for values, failed, group in zip(judged.values, judged.failed, judged.groups, strict=True)
        ]
        everyone = gathered(accelerator, own)
        if not everyone:
            return np.empty(0)
        keys = {key: number for number, key in enumerate(dict.fromkeys(key for _, _, key in everyone))}
        rewards = combine(
            np.array([values for values, _, _ in everyone]),
            self._effective_weights(),
            np.array([keys[key] for _, _, key in everyone]),
            "normalize_then_sum",
            failed=np.array([failed for _, failed, _ in everyone]),
        )
        mine = [i for i, (_, _, key) in enumerate(everyone) if key[0] == accelerator.process_index]
        return np.nan_to_num(rewards[mine])

    def learn(self, judged: Judged) -> Sums:
        """Moves the multipliers by how the constraints are kept; what to log of them."""
        sums: Sums = {}
        for one in self.constraints:
            values = judged.values[:, self.names.index(one.name)]
            known = gathered(self.context.accelerator, values[np.isfinite(values)].tolist())
            if known:
                rate = self.context.config.constraint_learning_rate
                self.multipliers[one.name] = updated_multiplier(
                    self.multipliers[one.name], rate, one.cost(float(np.mean(known))), 0.0
                )
            sums[f"constraints/{one.name}/multiplier"] = (self.multipliers[one.name], 1.0)
        return sums

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """The multipliers."""
        return {}, {"multipliers": dict(self.multipliers)}

    def load_state(self, tensors: Mapping[str, torch.Tensor], values: Mapping[str, Any]) -> None:
        """Goes on from what ``state`` gave."""
        self.multipliers = dict(values["multipliers"])

    def _effective_weights(self) -> np.ndarray:
        weights = self.weights.copy()
        for one in self.constraints:
            weights[self.names.index(one.name)] += one.sign * self.multipliers[one.name]
        return weights


def _constraint(text: str, names: Sequence[str]) -> Constraint:
    found = re.fullmatch(r"\s*(.+?)\s*(>=|<=)\s*(\S+)\s*", text)
    try:
        name, sign, limit = (found[1], {">=": 1, "<=": -1}[found[2]], float(found[3])) if found else ("", 0, 0.0)
    except ValueError:
        name, sign, limit = "", 0, 0.0
    if not sign:
        raise PreftuneError(
            f"{text!r} is no constraint.", where="--reward_constraints", mend="Write NAME>=NUMBER or NAME<=NUMBER."
        )
    if name not in names:
        raise PreftuneError(
            f"The constraint is on {name}, which is none of the rewards.",
            where="--reward_constraints",
            mend=f"The rewards are {', '.join(names)}.",
        )
    return Constraint(name, sign, limit)
