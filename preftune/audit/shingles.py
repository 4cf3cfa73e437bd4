"""Word n-grams of many texts at once, as 64-bit hashes: what near duplicates and leakage are counted in.

A word is a run of letters, digits and marks, case folded; a sign of a script that is written without spaces, and a
symbol such as "+" or an emoji, is a word of its own. White space and punctuation only separate.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TypeAlias

import numpy as np
from jaxtyping import Int64, UInt64

Hashes: TypeAlias = UInt64[np.ndarray, "hashes"]
Places: TypeAlias = Int64[np.ndarray, "places"]

BLOCK_CHARACTERS = 2**18  # hashed at once: the arrays stay in the processor's cache
_CODE_POINTS = 0x110000
_CHARACTER_BASE, _WORD_BASE = 0x9E3779B97F4A7C15, 0xD6E8FEB86659FD93  # odd, so that they have an inverse mod 2^64
_ALONE = ((0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x3040, 0x30FF), (0x3400, 0x9FFF), (0xF900, 0xFAFF))
_ALONE_ABOVE = 0x20000  # the supplementary ideographs


@dataclass(frozen=True)
class Grams:
    """The n-grams of some texts: those of text ``i`` are ``hashes[offsets[i]:offsets[i + 1]]``, repeats included.

    A text of fewer than ``n`` words has one gram, all of it; one without words has none. ``whole`` is a hash of all
    words in order, and ``words`` their number.
    """

    hashes: Hashes
    offsets: Places
    whole: Hashes
    words: Places

    @property
    def counts(self) -> Places:
        """How many grams each text has."""
        return np.diff(self.offsets)

    def of(self, texts: Places) -> Grams:
        """Those of these texts only."""
        counts = self.counts[texts]
        places = ranges(self.offsets[texts], counts)
        return Grams(self.hashes[places], offsets_of(counts), self.whole[texts], self.words[texts])


def word_grams(texts: Sequence[str], n: int) -> Grams:
    """The ``n``-grams of each text, in order."""
    hashes, word_counts = _words(texts)
    ends = np.cumsum(word_counts)
    begins = ends - word_counts
    spans = _SpanHashes(hashes, _WORD_BASE)
    counts = np.maximum(word_counts - n + 1, np.minimum(word_counts, 1))
    starts = ranges(begins, counts)
    stops = np.minimum(starts + n, np.repeat(ends, counts))
    return Grams(spans.of(starts, stops), offsets_of(counts), spans.of(begins, ends), word_counts)


def mixed(values: Hashes) -> Hashes:
    """The values scattered over all 64 bits (the finaliser of splitmix64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def distinct(grams: Grams) -> tuple[Places, Places, Hashes]:
    """Text and number of each distinct gram of each text, by text, and the gram that each number stands for."""
    values, numbers = np.unique(grams.hashes, return_inverse=True)
    texts = np.repeat(np.arange(len(grams.whole)), grams.counts)
    pairs = np.unique((texts.astype(np.uint64) << np.uint64(32)) | numbers.astype(np.uint64))
    return (pairs >> np.uint64(32)).astype(np.int64), (pairs & np.uint64(0xFFFFFFFF)).astype(np.int64), values


def jaccards(grams: Grams, left: Places, right: Places) -> np.ndarray:
    """The Jaccard similarity of texts ``left[i]`` and ``right[i]``: shared over all distinct grams.

    Two texts without words are taken as unlike: there is nothing to compare.
    """
    texts, numbers, _ = distinct(grams)
    sizes = np.bincount(texts, minlength=len(grams.whole))
    offsets = offsets_of(sizes)
    compared = np.arange(len(left))
    keys = [
        (np.repeat(compared, sizes[side]).astype(np.uint64) << np.uint64(32))
        | numbers[ranges(offsets[side], sizes[side])].astype(np.uint64)
        for side in (left, right)
    ]
    both = np.sort(np.concatenate(keys))
    shared = both[1:][both[1:] == both[:-1]] >> np.uint64(32)
    common = np.bincount(shared.astype(np.int64), minlength=len(left))
    return common / np.maximum(sizes[left] + sizes[right] - common, 1)


def offsets_of(counts: Places) -> Places:
    """Where each of some rows of these lengths begins in all of them together, and where the last one ends."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])


def ranges(begins: Places, lengths: Places) -> Places:
    """The numbers from each begin on, ``lengths`` of them, one range after the other."""
    offsets = np.cumsum(lengths) - lengths
    return np.arange(int(lengths.sum())) + np.repeat(begins - offsets, lengths)


def _words(texts: Sequence[str]) -> tuple[Hashes, Places]:
    """The hashes of all words, text after text, and how many words each text has."""
    hashes: list[Hashes] = [np.empty(0, np.uint64)]
    counts: list[Places] = [np.empty(0, np.int64)]
    block: list[str] = []
    size = 0
    for text in texts:
        block.append(_folded(text))
        size += len(text) + 1
        if size >= BLOCK_CHARACTERS:
            found, numbers = _words_of_block(block)
            hashes.append(found)
            counts.append(numbers)
            block, size = [], 0
    if block:
        found, numbers = _words_of_block(block)
        hashes.append(found)
        counts.append(numbers)
    return np.concatenate(hashes), np.concatenate(counts)


def _folded(text: str) -> str:
    return text.lower() if text.isascii() else unicodedata.normalize("NFC", text.casefold())


def _words_of_block(block: Sequence[str]) -> tuple[Hashes, Places]:
    """As ``_words``, for folded texts whose characters are few enough to be hashed at once."""
    character_hashes, kinds = _characters()
    codes = np.frombuffer("\n".join([*block, ""]).encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    kind = kinds[codes]
    joins = (kind[1:] == 1) & (kind[:-1] == 1)  # the character continues the word before it
    starts = np.flatnonzero((kind != 0) & ~np.concatenate([[False], joins]))
    stops = np.flatnonzero((kind != 0) & ~np.concatenate([joins, [False]])) + 1
    lengths = np.fromiter((len(text) + 1 for text in block), np.int64, len(block))
    begins = np.searchsorted(starts, np.cumsum(lengths) - lengths)
    counts = np.diff(begins, append=len(starts))
    return _SpanHashes(character_hashes[codes], _CHARACTER_BASE).of(starts, stops), counts


class _SpanHashes:
    """Hashes of spans of a sequence, each in constant time: sum of value * base^place, shifted to its own begin."""

    def __init__(self, values: Hashes, base: int) -> None:
        self._powers = _powers(base)
        self._inverses = _powers(pow(base, -1, 2**64))
        scaled = values * self._powers(len(values))
        self._sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(scaled, dtype=np.uint64)])

    def of(self, starts: Places, stops: Places) -> Hashes:
        """One hash for each span from ``starts[i]`` up to ``stops[i]``."""
        if not len(starts):
            return np.empty(0, np.uint64)
        inverses = self._inverses(len(self._sums))
        return mixed((self._sums[stops] - self._sums[starts]) * inverses[starts])


@cache
def _powers(base: int) -> Callable[[int], Hashes]:
    """A function that gives at least so many powers of ``base`` mod 2^64, from the zeroth, kept between calls."""
    kept = np.ones(1, np.uint64)

    def first(number: int) -> Hashes:
        nonlocal kept
        if number > len(kept):
            size = max(number, BLOCK_CHARACTERS)
            kept = np.cumprod(np.concatenate([np.ones(1, np.uint64), np.full(size - 1, base, np.uint64)]))
        return kept[:number]

    return first


@cache
def _characters() -> tuple[Hashes, np.ndarray]:
    """A random number for each code point, and its kind: 0 separates, 1 is part of a word, 2 is a word alone."""
    categories = np.array([unicodedata.category(chr(code))[0] for code in range(_CODE_POINTS)])
    kinds = np.zeros(_CODE_POINTS, np.uint8)
    kinds[np.isin(categories, list("LNM"))] = 1
    kinds[categories == "S"] = 2
    for first, last in (*_ALONE, (_ALONE_ABOVE, _CODE_POINTS - 1)):
        kinds[first : last + 1][kinds[first : last + 1] == 1] = 2
    return mixed(np.arange(1, _CODE_POINTS + 1, dtype=np.uint64) * np.uint64(_CHARACTER_BASE)), kinds
