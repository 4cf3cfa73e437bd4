"""An index of the n-grams of some texts, against which others are held, many at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

from preftune.audit.shingles import Hashes, Places, distinct, ranges, word_grams

TEMPLATE_TEXTS = 16  # an n-gram of more texts of the index is a template's, and is not counted


@dataclass(frozen=True)
class GramIndex:
    """Which texts hold an n-gram: ``hashes[i]`` is held by ``held[i]`` of them, ``holders[begins[i]:]`` first.

    ``held`` is 0 for an n-gram of a template. ``sizes`` are the distinct n-grams of each text without a template's.
    ``maybe`` is False at the low bits of hashes that are surely not in the index, as nearly all are.
    """

    words: int
    hashes: Hashes
    begins: Places
    held: Places
    holders: Places
    sizes: Places
    maybe: Bool[np.ndarray, "slots"]


@dataclass(frozen=True)
class Shared:
    """How many distinct n-grams ``text[i]`` shares with ``indexed[i]``, and how many each of the two has."""

    text: Places
    indexed: Places
    shared: Places
    text_size: Places
    indexed_size: Places


def gram_index(texts: Sequence[str], words: int) -> GramIndex:
    """The index of the n-grams of ``words`` words; a shorter text is one n-gram."""
    holders, numbers, hashes = distinct(word_grams(texts, words))
    counts = np.bincount(numbers, minlength=len(hashes))
    is_template = counts > TEMPLATE_TEXTS
    return GramIndex(
        words=words,
        hashes=hashes,
        begins=np.cumsum(counts) - counts,
        held=np.where(is_template, 0, counts),
        holders=holders[np.argsort(numbers, kind="stable")],
        sizes=np.bincount(holders[~is_template[numbers]], minlength=len(texts)),
        maybe=_maybe(hashes),
    )


def shared_grams(index: GramIndex, texts: Sequence[str]) -> Shared:
    """Every text with every indexed text that it shares an n-gram with; what a template holds does not count."""
    grams = word_grams(texts, index.words)
    seen = index.maybe[grams.hashes & np.uint64(len(index.maybe) - 1)]
    candidates = np.unique(np.searchsorted(grams.offsets, np.flatnonzero(seen), side="right") - 1)
    rows, numbers, values = distinct(grams.of(candidates))
    places = _places(index, values)[numbers]
    is_known = places >= 0
    is_template = is_known & (index.held[places] == 0) if len(index.held) else is_known
    sizes = np.bincount(rows[~is_template], minlength=len(candidates))
    rows, places = rows[is_known & ~is_template], places[is_known & ~is_template]
    counts = index.held[places]
    holders = index.holders[ranges(index.begins[places], counts)]
    keys, shared = np.unique(np.repeat(rows, counts) * max(len(index.sizes), 1) + holders, return_counts=True)
    rows, indexed = np.divmod(keys, max(len(index.sizes), 1))
    return Shared(candidates[rows], indexed, shared, sizes[rows], index.sizes[indexed])


def _maybe(hashes: Hashes) -> Bool[np.ndarray, "slots"]:
    table = np.zeros(2 ** max(16, (8 * len(hashes)).bit_length()), bool)
    table[hashes & np.uint64(len(table) - 1)] = True
    return table


def _places(index: GramIndex, values: Hashes) -> Places:
    """The place of each hash in the index, -1 where it is not in it."""
    if not len(index.hashes):
        return np.full(len(values), -1)
    places = np.minimum(np.searchsorted(index.hashes, values), len(index.hashes) - 1)
    return np.where(index.hashes[places] == values, places, -1)
