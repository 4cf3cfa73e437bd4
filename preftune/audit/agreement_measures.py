"""Coefficients of agreement from counted votes, for the data and all its resamples at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

import numpy as np

from preftune.audit.findings import Share
from preftune.audit.votes import CHOICES, Floats, Ints, Votes

RESAMPLES = 1_000

# Of the ways votes fall on an item (ways, choices) and how often each occurs (..., ways).
Coefficient: TypeAlias = Callable[[Floats, Floats], Floats]


def krippendorff_alpha(ways: Floats, weights: Floats) -> Floats:
    """Krippendorff's alpha, nominal: 1 - observed / expected disagreement; NaN where all votes are the same.

    From the coincidences: an item with m votes, c of them for a choice, adds c (m - c) / (m - 1) disagreements for
    each choice. Krippendorff 2011, Computing Krippendorff's alpha-reliability.
    """
    votes = ways.sum(axis=1)
    disagreements = (votes**2 - (ways**2).sum(axis=1)) / (votes - 1)
    by_choice = weights @ ways
    n = by_choice.sum(axis=-1)
    expected = (n**2 - (by_choice**2).sum(axis=-1)) / (n - 1)
    return 1 - _ratio(weights @ disagreements, expected)


def fleiss_kappa(ways: Floats, weights: Floats) -> Floats:
    """Fleiss' kappa (1971) of items with as many votes each; NaN where all votes are the same."""
    by_choice = weights @ ways
    by_chance = ((by_choice / by_choice.sum(axis=-1, keepdims=True)) ** 2).sum(axis=-1)
    return 1 - _ratio(1 - mean_agreement(ways, weights), 1 - by_chance)


def mean_agreement(ways: Floats, weights: Floats) -> Floats:
    """The chance that two votes on an item are equal, every item counting the same."""
    return weights @ item_agreement(ways) / weights.sum(axis=-1)


def item_agreement(counts: Floats | Ints) -> Floats:
    """(items,): the share of an item's pairs of votes that are equal."""
    votes = counts.sum(axis=1)
    return ((counts**2).sum(axis=1) - votes) / (votes * (votes - 1))


def cohen_kappas(tables: Ints) -> Floats:
    """Cohen's kappas (tables,) of (tables, choices, choices); NaN where both people always chose the same one."""
    n = tables.sum(axis=(1, 2))
    observed = np.trace(tables, axis1=1, axis2=2) / n
    by_chance = (tables.sum(axis=1) * tables.sum(axis=2)).sum(axis=1) / n**2
    return 1 - _ratio(1 - observed, 1 - by_chance)


def tables_of_two(votes: Votes, least: int) -> tuple[Ints, Ints]:
    """What two people chose on the items both voted on, for all pairs of people with at least so many of those.

    A pair (pairs,) is first * annotators + second; its table (pairs, choices, choices) counts the first's choice by
    the second's.
    """
    kinds = len(CHOICES)
    joined = [_pair_and_cell(votes, left, right) for left, right in _two_on_an_item(votes.item)]
    keys, cells = np.concatenate(joined, axis=1) if joined else np.zeros((2, 0), dtype=np.int64)
    pairs, place, n = np.unique(keys, return_inverse=True, return_counts=True)
    has_enough = n >= least
    keep = has_enough[place]
    new_place = np.cumsum(has_enough) - 1
    size = int(has_enough.sum()) * kinds**2
    tables = np.bincount(new_place[place[keep]] * kinds**2 + cells[keep], minlength=size)
    return pairs[has_enough], tables.reshape(-1, kinds, kinds)


def bootstrapped(
    coefficient: Coefficient, counts: Ints, title: str, explanation: str, unit: str, rng: np.random.Generator
) -> Share:
    """The coefficient of votes counted (items, choices), with the interval over resampled items."""
    if not len(counts):
        return Share(None, None, None, 0, title, explanation, unit)
    ways, weights = _ways(counts)
    resamples = rng.multinomial(len(counts), weights / len(counts), size=RESAMPLES).astype(np.float64)
    value, resampled = float(coefficient(ways, weights)), coefficient(ways, resamples)
    return with_interval(value, resampled, Share(None, None, None, len(counts), title, explanation, unit))


def with_interval(value: float, resampled: Floats, empty: Share) -> Share:
    """``empty`` with the value and the percentile interval; without an interval where no resample differs.

    Resamples of votes that are all the same are all the same: that is no certainty.
    """
    if np.isnan(value):
        return empty
    low, high = (float(end) for end in np.quantile(resampled[~np.isnan(resampled)], (0.025, 0.975)))
    is_known = high - low > 1e-12
    return Share(
        value,
        low if is_known else None,
        high if is_known else None,
        empty.n,
        empty.title,
        empty.explanation,
        empty.unit,
    )


def _ratio(above: Floats, below: Floats) -> Floats:
    """above / below, NaN where ``below`` is nothing but rounding."""
    is_known = below > 1e-12
    return np.where(is_known, above, np.nan) / np.where(is_known, below, 1)


def _two_on_an_item(item: Ints) -> Iterator[tuple[Ints, Ints]]:
    """Places of two votes on one item, all such pairs once; ``item`` is in order."""
    here, step = np.arange(len(item)), 1
    while len(here := here[here + step < len(item)]) and len(here := here[item[here + step] == item[here]]):
        yield here, here + step
        step += 1


def _pair_and_cell(votes: Votes, left: Ints, right: Ints) -> Ints:
    """(2, pairs of votes): the two people, smaller index first, and the cell of what they chose in that order."""
    is_turned = votes.annotator[left] > votes.annotator[right]
    left, right = np.where(is_turned, right, left), np.where(is_turned, left, right)
    pair = votes.annotator[left] * len(votes.annotators) + votes.annotator[right]
    return np.stack([pair, votes.choice[left] * len(CHOICES) + votes.choice[right]])


def _ways(counts: Ints) -> tuple[Floats, Floats]:
    """The distinct ways votes fall on an item (ways, choices), and how many items have each (ways,).

    Three votes fall in no more than 20 ways, so a resample of a million items is one draw of 20 numbers.
    """
    base = int(counts.max(initial=0)) + 1
    keys = counts @ base ** np.arange(counts.shape[1])
    _, first, weights = np.unique(keys, return_index=True, return_counts=True)
    return counts[first].astype(np.float64), weights.astype(np.float64)
