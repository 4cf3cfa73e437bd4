"""How far a reward model's margins can be believed: calibration, temperature, and the length shortcut.

A margin is the chosen answer's score minus the rejected one's. The model prefers the higher score with confidence
sigmoid(|margin|), between one half and one, and is right where the margin is positive; a tie is half right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from preftune.evaluate.measures import Measure, share_of

BINS = 15
RESAMPLES = 1000
_RESAMPLES_AT_ONCE = 50  # they hold a number a prompt each
Margins = Float[np.ndarray, "pairs"]


@dataclass(frozen=True)
class LengthBucket:
    """Pairs whose chosen answer is ``shortest`` to ``longest`` tokens longer than the rejected one."""

    shortest: float
    longest: float
    accuracy: Measure


def expected_calibration_error(
    margins: Margins, prompts: Sequence[Any], *, temperature: float = 1.0, seed: int = 0
) -> Measure:
    """Mean distance between confidence and accuracy over 15 bins of equal mass (Guo et al. 2017, arXiv:1706.04599).

    The interval is a bootstrap over prompts. By chance alone the figure is above zero: it reaches down to zero
    where bins whose accuracy is their confidence would show as much.
    """
    title = "Expected calibration error"
    n = len(margins)
    if n == 0:
        return Measure(float("nan"), 0.0, 1.0, 0, "share", title, "No pairs.")
    confidence, right = _confidence(margins / temperature), _right(margins)
    bins = _equal_mass(confidence)
    gaps, counts = _by_prompt(right - confidence, bins, prompts)
    value = float(np.abs(gaps.sum(0)).sum() / n)
    if len(gaps) < 2:
        return Measure(value, 0.0, 1.0, n, "share", title, "One prompt says nothing of others.")
    resampled, noise = _bootstrap(gaps, counts, seed)
    high = max(value, float(np.quantile(resampled, 0.975)))
    low = 0.0 if value <= np.quantile(noise, 0.95) else max(0.0, 2 * value - high)
    what = (
        f"Distance between how sure the model is and how often it is right, over {counts.shape[1]} groups of pairs "
        f"from least to most sure; at {n} pairs chance alone gives about {np.mean(noise):.2f}."
    )
    return Measure(value, low, min(1.0, high), n, "share", title, what)


def fit_temperature(margins: Margins, prompts: Sequence[Any]) -> Measure:
    """The T that minimises the mean of -log sigmoid(margin / T) (Guo et al. 2017, section 4.2).

    The interval is the sandwich estimate for log T over prompts. Where every pair is right, or none, no finite T
    is best: the value is then NaN.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import expit

    title = "Temperature"
    what = "Margins divided by it are as sure as they are right; above 1 the model is too sure."
    margins = np.asarray(margins, dtype=np.float64)
    size = float(np.abs(margins).max(initial=0.0))
    if not ((margins > 0).any() and (margins < 0).any() and margins.mean() > 0):
        what = "No temperature fits best: the pairs are all ranked right, or not more right than wrong."
        return Measure(float("nan"), 0.0, float("inf"), len(margins), "factor", title, what)
    found: Any = minimize_scalar(
        lambda log_t: np.logaddexp(0.0, -margins / np.exp(log_t)).mean(),
        bounds=(np.log(size) - 12, np.log(size) + 12),
        method="bounded",
        options={"xatol": 1e-8},
    )
    log_t = float(found.x)
    scaled = margins * np.exp(-log_t)
    wrong = expit(-scaled)
    # In log T the derivative of a pair's loss is scaled * wrong, and the second one of their sum, at the minimum:
    curvature = float(np.sum(scaled**2 * wrong * (1 - wrong)))
    half = 1.959964 * np.sqrt(_sum_of_squares(scaled * wrong, prompts)) / curvature
    low, high = np.exp(log_t - half), np.exp(log_t + half)
    return Measure(float(np.exp(log_t)), float(low), float(high), len(margins), "factor", title, what)


def reliability_table(margins: Margins, prompts: Sequence[Any], *, temperature: float = 1.0) -> list[dict[str, Any]]:
    """Of each of 15 bins of equal mass: n, mean confidence, and accuracy with its interval (``low``, ``high``)."""
    confidence, right = _confidence(margins / temperature), _right(margins)
    bins = _equal_mass(confidence)
    table = []
    for number in range(int(bins.max(initial=-1)) + 1):
        members = np.flatnonzero(bins == number)
        accuracy = share_of(right[members], [prompts[i] for i in members.tolist()], "Accuracy", "")
        table.append(
            {
                "n": len(members),
                "confidence": float(confidence[members].mean()),
                "accuracy": accuracy.value,
                "low": accuracy.low,
                "high": accuracy.high,
            }
        )
    return table


def accuracy_by_length(
    margins: Margins, length_differences: Int[np.ndarray, "pairs"], prompts: Sequence[Any], *, buckets: int = 5
) -> list[LengthBucket]:
    """Accuracy in buckets of equal mass of len(chosen) - len(rejected), from the shortest chosen to the longest.

    A model that takes longer for better is right where chosen is longer and wrong where it is shorter.
    """
    right = _right(margins)
    places = _equal_mass(length_differences, buckets)
    found = []
    for number in range(int(places.max(initial=-1)) + 1):
        members = np.flatnonzero(places == number)
        shortest, longest = (float(edge(length_differences[members])) for edge in (np.min, np.max))
        accuracy = share_of(
            right[members],
            [prompts[i] for i in members.tolist()],
            f"Accuracy at {shortest:+.0f} to {longest:+.0f} tokens",
            "How often the model scores the preferred answer higher, where it has so many tokens more than the other.",
        )
        found.append(LengthBucket(shortest, longest, accuracy))
    return found


def longer_wins(length_differences: Int[np.ndarray, "pairs"], prompts: Sequence[Any]) -> Measure:
    """The accuracy of the rule that the longer answer is the better one; equal lengths count half."""
    return share_of(
        _right(length_differences),
        prompts,
        "Accuracy of 'the longer one wins'",
        "How often the preferred answer is the longer one: what a model reaches that looks at length alone.",
    )


def margin_histogram(margins: Margins, *, bins: int = 20) -> list[dict[str, float]]:
    """How many margins lie between ``from`` and ``to``, in bins of equal width over all of them."""
    if len(margins) == 0:
        return []
    counts, edges = np.histogram(margins, bins)
    return [
        {"from": float(low), "to": float(high), "n": int(n)}
        for n, low, high in zip(counts, edges[:-1], edges[1:], strict=True)
    ]


def _confidence(margins: Margins) -> Float[np.ndarray, "pairs"]:
    from scipy.special import expit

    return expit(np.abs(margins))


def _right(differences: np.ndarray) -> Float[np.ndarray, "pairs"]:
    return (np.sign(differences) + 1) / 2


def _equal_mass(values: np.ndarray, bins: int = BINS) -> Int[np.ndarray, "pairs"]:
    """The bin of each value, from the lowest; equal values share one, so there may be fewer than ``bins``."""
    if len(values) == 0:
        return np.zeros(0, dtype=np.int64)
    lasts = -(-np.arange(1, bins) * len(values) // bins) - 1  # of the first k bins, the last of their share of values
    edges = np.unique(np.sort(values)[lasts])
    return np.unique(np.searchsorted(edges, values, side="left"), return_inverse=True)[1]


def _by_prompt(
    gaps: np.ndarray, bins: Int[np.ndarray, "pairs"], prompts: Sequence[Any]
) -> tuple[Float[np.ndarray, "prompts bins"], Float[np.ndarray, "prompts bins"]]:
    """The sum of the gaps and the number of pairs of each prompt in each bin."""
    rows = _numbers(prompts)
    sums = np.zeros((int(rows.max()) + 1, int(bins.max()) + 1))
    counts = np.zeros_like(sums)
    np.add.at(sums, (rows, bins), gaps)
    np.add.at(counts, (rows, bins), 1.0)
    return sums, counts


def _bootstrap(
    gaps: Float[np.ndarray, "prompts bins"], counts: Float[np.ndarray, "prompts bins"], seed: int
) -> tuple[Float[np.ndarray, "resamples"], Float[np.ndarray, "resamples"]]:
    """The error of prompts drawn anew, and what it is where each bin's mean gap is taken off: noise alone."""
    draw, prompts = np.random.default_rng(seed), len(gaps)
    centred = gaps - counts * (gaps.sum(0) / counts.sum(0))
    errors, noise = [], []
    for _ in range(RESAMPLES // _RESAMPLES_AT_ONCE):
        times = np.stack(
            [np.bincount(draw.integers(prompts, size=prompts), minlength=prompts) for _ in range(_RESAMPLES_AT_ONCE)]
        )
        sizes = times @ counts.sum(1)
        errors.append(np.abs(times @ gaps).sum(1) / sizes)
        noise.append(np.abs(times @ centred).sum(1) / sizes)
    return np.concatenate(errors), np.concatenate(noise)


def _sum_of_squares(values: np.ndarray, prompts: Sequence[Any]) -> float:
    """The sum over prompts of the square of their values' sum."""
    return float(np.square(np.bincount(_numbers(prompts), weights=values)).sum())


def _numbers(prompts: Sequence[Any]) -> Int[np.ndarray, "pairs"]:
    """Each prompt's number, in the order of first appearance."""
    known: dict[Any, int] = {}
    return np.array([known.setdefault(prompt, len(known)) for prompt in prompts], dtype=np.int64)
