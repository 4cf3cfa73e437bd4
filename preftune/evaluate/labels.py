"""Does the model tell good answers from bad ones? Held-out labels by their implicit reward."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

from preftune.evaluate.measures import Measure
from preftune.evaluate.preferences import MARGIN, PREFERENCE, reward_measures

SEPARATION = "label_separation"
REDRAWS = 1000


def label_measures(
    rewards: Float[np.ndarray, "items"], labels: Bool[np.ndarray, "items"], prompts: Sequence[bytes]
) -> dict[str, Measure]:
    """How well rewards part good from bad: over pairs of one prompt where there are such, and over all pairs."""
    pairs, of = pairs_within(labels, prompts)
    within = reward_measures(rewards[pairs], of) if len(pairs) else {}
    return {name: within[name] for name in (PREFERENCE, MARGIN) if name in within} | {
        SEPARATION: label_separation(rewards, labels, prompts)
    }


def pairs_within(labels: Bool[np.ndarray, "items"], prompts: Sequence[bytes]) -> tuple[np.ndarray, list[bytes]]:
    """Every good item with every bad one of its prompt, as rows (good, bad) of item numbers; and the prompts."""
    members: dict[bytes, tuple[list[int], list[int]]] = {}
    for number, prompt in enumerate(prompts):
        members.setdefault(prompt, ([], []))[0 if labels[number] else 1].append(number)
    rows = [(good, bad, prompt) for prompt, (goods, bads) in members.items() for good in goods for bad in bads]
    return np.array([row[:2] for row in rows], dtype=int).reshape(-1, 2), [prompt for *_, prompt in rows]


def label_separation(
    rewards: Float[np.ndarray, "items"], labels: Bool[np.ndarray, "items"], prompts: Sequence[bytes]
) -> Measure:
    """The share of (good, bad) pairs over all prompts in which the good one has the higher reward (AUC).

    The interval is a percentile bootstrap over prompts, ``REDRAWS`` draws with a fixed seed.
    """
    title = "Good answers above bad ones"
    what = "How often a good answer's implicit reward is above a bad one's, over all such pairs; 50% is chance."
    value = _area(rewards, labels)
    if value is None:
        return Measure(float("nan"), 0.0, 1.0, 0, "share", title, what)
    if np.ptp(rewards) == 0:
        return Measure(0.5, 0.5, 0.5, len(rewards), "share", title, "Before training all rewards are zero: even odds.")
    numbers: dict[bytes, list[int]] = {}
    for number, prompt in enumerate(prompts):
        numbers.setdefault(prompt, []).append(number)
    clusters = [np.array(items) for items in numbers.values()]
    draw = np.random.default_rng(0)
    values = []
    for _ in range(REDRAWS):
        items = np.concatenate([clusters[i] for i in draw.integers(len(clusters), size=len(clusters))])
        again = _area(rewards[items], labels[items])
        if again is not None:
            values.append(again)
    low, high = np.percentile(values, [2.5, 97.5])
    return Measure(value, float(low), float(high), len(rewards), "share", title, what)


def _area(rewards: np.ndarray, labels: np.ndarray) -> float | None:
    """The area under the ROC curve by mid-ranks; None with labels of one kind."""
    from scipy.stats import rankdata

    good = int(labels.sum())
    bad = len(labels) - good
    if not good or not bad:
        return None
    ranks = rankdata(rewards)
    return float((ranks[labels].sum() - good * (good + 1) / 2) / (good * bad))
