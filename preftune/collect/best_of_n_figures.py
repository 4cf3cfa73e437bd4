"""What best of n is worth: its distance from the sampler, and the reward it gains, with intervals over prompts."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from preftune.audit.findings import Share, share_of
from preftune.collect.side_lengths import length_warnings, longer_share
from preftune.collect.writing import Row, Written
from preftune.data.records import Pair

DRAWS: Final = 2000  # of the bootstrap
MUCH_CUT: Final = 0.1

KL_SAID: Final = (
    "ln n - (n - 1) / n nats (Stiennon et al. 2020, 2009.01325, appendix G.3): how far the best of n is from the "
    "sampler as it was drawn from, temperature and truncation included. An upper bound: exact where no two completions "
    "of a prompt have the same reward, less where rewards tie or texts repeat (Beirami et al. 2024, 2401.01879)."
)
KL_UNKNOWN: Final = "Not given: the formula holds for completions that one model drew, and these are several models'."


@dataclass(frozen=True)
class BestOfN:
    """What came of the prompts; rewards are the weighted sums that decided.

    ``kl`` maps each number of completions that prompts had to the bound in nats; None where no formula holds.
    ``curve`` has the mean reward of the best of k, for k up to the number of completions.
    """

    written: Written
    prompts: int
    rewards: tuple[str, ...]
    kl: dict[int, float] | None
    best: Share
    mean: Share
    gain: Share
    margin: Share
    longer: Share
    cut_off: Share
    curve: tuple[dict[str, Any], ...]

    def as_dict(self) -> dict[str, Any]:
        """Counts, the KL with what it says, and every figure with its n and interval."""
        figures = ("best", "mean", "gain", "margin", "longer", "cut_off")
        return {
            "prompts": self.prompts,
            "made": len(self.written.made),
            "new": self.written.new,
            "left_out": self.written.reasons(),
            "rewards": self.rewards,
            "kl": {"bound": self.kl, "unit": "nats", "explanation": KL_UNKNOWN if self.kl is None else KL_SAID},
            **{name: asdict(getattr(self, name)) for name in figures},
            "curve": self.curve,
            "warnings": list(self.warnings()),
        }

    def warnings(self) -> Iterator[str]:
        """What may spoil the pairs, a sentence each."""
        yield from length_warnings(self.longer)
        if (self.cut_off.value or 0.0) > MUCH_CUT:
            yield f"the length cut {100 * (self.cut_off.value or 0.0):.0f}% of the completions: raise --max-new-tokens"


def kl_of_best(n: int) -> float:
    """KL of the best of ``n`` draws from what they were drawn from, at most, in nats: ln n - (n - 1) / n."""
    return math.log(n) - (n - 1) / n


def mean_of_best(scores: Sequence[float], k: int) -> float:
    """The mean reward of the best of ``k`` over all choices of k from ``scores``, without bias; k at most their number.

    With scores in rising order the i-th is the best of C(i - 1, k - 1) of the C(m, k) choices.
    """
    m = len(scores)
    weights = [math.comb(i - 1, k - 1) / math.comb(m, k) for i in range(k, m + 1)]
    return float(np.dot(weights, sorted(scores)[k - 1 :]))


def mean_over_prompts(
    values: Sequence[float], prompts: Sequence[str], title: str, explanation: str, seed: int, unit: str = "reward"
) -> Share:
    """The mean of ``values`` with a 95% percentile bootstrap over ``prompts``, whose values stay together.

    Of fewer than two prompts there is no interval.
    """
    if not values:
        return Share(None, None, None, 0, title, explanation, unit)
    array = np.asarray(values, dtype=np.float64)
    _, cluster = np.unique(np.asarray(prompts), return_inverse=True)
    sums, counts = np.bincount(cluster, array), np.bincount(cluster)
    if len(sums) < 2:
        return Share(float(array.mean()), None, None, len(array), title, explanation, unit)
    rng = np.random.default_rng(seed)
    draws = (rng.integers(len(sums), size=len(sums)) for _ in range(DRAWS))
    means = [sums[drawn].sum() / counts[drawn].sum() for drawn in draws]
    low, high = np.quantile(means, (0.025, 0.975))
    return Share(float(array.mean()), float(low), float(high), len(array), title, explanation, unit)


def figures_of(written: Written, prompts: int, rewards: tuple[str, ...], seed: int) -> BestOfN:
    """The figures of all rows with scores, those that gave no pair included."""
    rows = [(row["meta"], _key(row)) for row in written.made]
    rows += [(row, _key(row)) for row in written.left_out if row.get("scores")]
    scores = [[score for score in row["scores"] if score is not None] for row, _ in rows]
    known = [(found, key, row) for found, (row, key) in zip(scores, rows, strict=True) if found]
    keys = [key for _, key, _ in known]
    made = [Pair.model_validate(row) for row in written.made]
    pair_keys = [_key(row) for row in written.made]

    def averaged(values: Sequence[float], keys: Sequence[str], title: str, explanation: str) -> Share:
        return mean_over_prompts(values, keys, title, explanation, seed)

    drawn = [row["n"] for _, _, row in known]
    is_one_model = not any(row.get("models") for _, _, row in known)
    return BestOfN(
        written,
        prompts,
        rewards,
        {n: kl_of_best(n) for n in sorted(set(drawn))} if is_one_model else None,
        averaged([max(s) for s, _, _ in known], keys, "Reward of the best", "Mean over prompts, ties included."),
        averaged([float(np.mean(s)) for s, _, _ in known], keys, "Reward of all", "Mean over prompts of their mean."),
        averaged(
            [max(s) - float(np.mean(s)) for s, _, _ in known],
            keys,
            "Gain of the best",
            "Best minus mean of the same prompt.",
        ),
        averaged([pair.margin or 0.0 for pair in made], pair_keys, "Reward gap", "Chosen minus rejected, over pairs."),
        longer_share(made),
        share_of(
            sum(row.get("cut_off", 0) for row, _ in rows),
            sum(row["n"] for row, _ in rows),
            "Completions cut off",
            "Completions without an end within the length allowed; they are not scored unless that is asked for.",
        ),
        tuple(_curve([(found, key) for found, key, _ in known], max(drawn, default=0), seed, is_one_model)),
    )


def _curve(known: Sequence[tuple[Sequence[float], str]], n: int, seed: int, is_one_model: bool) -> list[dict[str, Any]]:
    """For k = 1, 2, 4 ... and n: the mean reward of the best of k, over prompts with so many scores."""
    sizes = sorted({2**power for power in range(n.bit_length()) if 2**power <= n} | ({n} if n else set()))
    points: list[dict[str, Any]] = []
    for k in sizes:
        fit = [(mean_of_best(found, k), key) for found, key in known if len(found) >= k]
        values, keys = [value for value, _ in fit], [key for _, key in fit]
        reward = mean_over_prompts(
            values, keys, f"Reward of the best of {k}", "Over prompts with so many scores.", seed
        )
        points.append({"k": k, "kl": kl_of_best(k) if is_one_model else None, "reward": asdict(reward)})
    return points


def _key(row: Row) -> str:
    """The prompt, by which values hang together."""
    return json.dumps(row["prompt"], sort_keys=True)
