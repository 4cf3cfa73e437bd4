"""Several rewards as one: weighted sums, rewards brought to one scale, and constraints with a price."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Int

Aggregation: TypeAlias = Literal["sum_then_normalize", "normalize_then_sum"]
Values: TypeAlias = Float[np.ndarray, "samples rewards"]


def combine(
    values: Values,
    weights: Sequence[float] | Float[np.ndarray, "rewards"],
    groups: Int[np.ndarray, "samples"] | Sequence[int],
    aggregation: Aggregation = "sum_then_normalize",
    *,
    failed: Bool[np.ndarray, "samples rewards"] | None = None,
    eps: float = 1e-4,
) -> Float[np.ndarray, "samples"]:
    """One number a sample of several rewards; NaN in ``values`` is a reward that does not apply.

    A sample is NaN where none of the rewards that have a weight applies, or one of them ``failed``: a sum that lacks
    a part is no reward. What has the weight 0 is only watched.

    - ``sum_then_normalize``: the weighted sum, in the rewards' own units; advantages are made of it later.
    - ``normalize_then_sum``: GDPO. Each reward is standardised within its group, (r - mean) / (std + eps) with
      n - 1, then summed with the weights, then standardised over the batch: these are advantages already. ``groups``
      holds the number of each sample's group. The form is that of TRL 1.16's ``multi_objective_aggregation``.
    """
    weighted = np.asarray(weights, dtype=np.float64)
    counted = weighted != 0
    usable = np.asarray(np.isfinite(values[:, counted]).any(axis=1))
    if failed is not None:
        usable &= ~failed[:, counted].any(axis=1)
    kept = np.where(usable[:, None], values, np.nan)[:, counted]
    if aggregation == "normalize_then_sum":
        kept = standardised_in_groups(kept, groups, eps)
    sums = np.where(usable, np.nansum(kept * weighted[counted], axis=1), np.nan)
    if aggregation == "sum_then_normalize":
        return sums
    return standardised_in_groups(sums[:, None], np.zeros(len(sums), int), eps)[:, 0]


def standardised_in_groups(values: Values, groups: Int[np.ndarray, "samples"] | Sequence[int], eps: float) -> Values:
    """(value - mean) / (std + eps) with the moments of the sample's group, n - 1 in the variance, NaN left out.

    A value alone in its group has no spread to be measured by: it becomes 0.
    """
    _, index = np.unique(np.asarray(groups), return_inverse=True)
    present = np.isfinite(values)
    counts = _sums_by_group(present.astype(np.float64), index)
    means = _sums_by_group(np.where(present, values, 0.0), index) / np.maximum(counts, 1)
    deviations = np.where(present, values - means[index], 0.0)
    variances = _sums_by_group(deviations**2, index) / np.maximum(counts - 1, 1)
    return np.where(present, deviations / (np.sqrt(variances)[index] + eps), np.nan)


@dataclass(frozen=True)
class RunningMoments:
    """Count, mean and summed squared deviations of each reward over all windows so far."""

    counts: tuple[int, ...]
    means: tuple[float, ...]
    squares: tuple[float, ...]

    @classmethod
    def none_of(cls, rewards: int) -> RunningMoments:
        """The moments before anything was seen."""
        return cls((0,) * rewards, (0.0,) * rewards, (0.0,) * rewards)

    @classmethod
    def load(cls, state: Mapping[str, Any]) -> RunningMoments:
        """The moments that ``state`` gave, to the last bit."""
        return cls(
            tuple(int(count) for count in state["counts"]),
            tuple(float(mean) for mean in state["means"]),
            tuple(float(square) for square in state["squares"]),
        )

    def state(self) -> dict[str, list[float]]:
        """Plain numbers for a JSON file."""
        return {"counts": list(self.counts), "means": list(self.means), "squares": list(self.squares)}

    def updated(self, values: Values) -> RunningMoments:
        """The moments with a window added (Chan, Golub and LeVeque's update); NaN is left out."""
        old = zip(self.counts, self.means, self.squares, values.T, strict=True)
        columns = [_merged(count, mean, squares, column) for count, mean, squares, column in old]
        counts, means, squares = zip(*columns, strict=True)
        return RunningMoments(counts, means, squares)

    def standardised(self, values: Values) -> Values:
        """(value - mean) / std of each reward; what never varied is only centred.

        Update with a window before standardising it, so that none is measured by others' moments alone.
        """
        counts = np.maximum(np.array(self.counts) - 1, 1)
        spread = np.sqrt(np.array(self.squares) / counts)
        return (values - np.array(self.means)) / np.where(spread > 0, spread, 1.0)


def updated_multiplier(multiplier: float, rate: float, mean_cost: float, limit: float) -> float:
    """The price of a constraint "mean cost at most ``limit``" after a window: max(0, lambda + eta (cost - limit)).

    It rises while the constraint is broken and falls to 0 while there is room; a window without a cost moves nothing.
    """
    if not math.isfinite(mean_cost):
        return multiplier
    return max(0.0, multiplier + rate * (mean_cost - limit))


def constrained(
    rewards: Float[np.ndarray, "samples"],
    costs: Float[np.ndarray, "samples constraints"],
    multipliers: Sequence[float] | Float[np.ndarray, "constraints"],
) -> Float[np.ndarray, "samples"]:
    """The Lagrangian's reward, r - sum of lambda c; a cost that does not apply (NaN) costs nothing."""
    return rewards - np.nansum(costs * np.asarray(multipliers, dtype=np.float64), axis=1)


def _sums_by_group(values: Values, index: Int[np.ndarray, "samples"]) -> Float[np.ndarray, "groups rewards"]:
    sums = np.zeros((int(index.max(initial=-1)) + 1, values.shape[1]))
    np.add.at(sums, index, values)
    return sums


def _merged(count: int, mean: float, squares: float, new: Float[np.ndarray, "samples"]) -> tuple[int, float, float]:
    seen = new[np.isfinite(new)]
    if not len(seen):
        return count, mean, squares
    total, apart = count + len(seen), float(seen.mean()) - mean
    within = float(((seen - seen.mean()) ** 2).sum())
    return total, mean + apart * len(seen) / total, squares + within + apart**2 * count * len(seen) / total
