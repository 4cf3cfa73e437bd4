"""Preference pairs of any number with the lengths of real ones and words drawn at random, seeded.

Words follow Zipf's law over 20,000 made-up ones; one in a hundred has a typographic apostrophe, so that about every
second text is not ASCII, as in hh-harmless. The numbers of words are log-normal with its medians and spreads: prompts
of 59 words, standard deviation of the logarithm 1.15, answers of 24 and 1.0. Of a thousand pairs ``NEAR`` are copies of
the one before with a word changed in each long text, ``EXACT`` are copies, ``REVERSED`` copies with the sides swapped.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np

WORDS: Final = 20_000
MEDIANS: Final = {"prompt": 59.0, "chosen": 24.0, "rejected": 24.0}
SPREADS: Final = {"prompt": 1.15, "chosen": 1.0, "rejected": 1.0}
LONGEST: Final = 2_000  # words
NEAR, EXACT, REVERSED = 20, 10, 2  # of a thousand
APOSTROPHES: Final = 0.01
_BLOCK = 10_000
_CONSONANTS, _VOWELS = "bcdfghjklmnprstvwz", "aeiou"


def write_pairs(path: Path, rows: int, seed: int) -> int:
    """Writes so many pairs as JSON lines; returns the bytes."""
    with path.open("w", encoding="utf-8") as file:
        for row in pairs(rows, seed):
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return path.stat().st_size


def pairs(rows: int, seed: int) -> Iterator[dict[str, Any]]:
    """The pairs as rows."""
    draw = np.random.default_rng(seed)
    vocabulary = words(draw)
    number = 0
    while number < rows:
        block = _block(vocabulary, draw, min(_BLOCK, rows - number))
        _plant(block, draw)
        for row in block:
            yield {"id": f"p{number}", **row}
            number += 1


def texts(count: int, seed: int, planted: float = 0.02) -> tuple[list[str], list[tuple[int, int]]]:
    """So many answers, a share of which are others with one or two words changed; and the places of both."""
    draw = np.random.default_rng(seed)
    vocabulary = words(draw)
    copies = int(planted * count)
    found = _texts(vocabulary, draw, count - copies, 90.0, 0.6)
    places = []
    for place in draw.choice(len(found), size=copies, replace=False).tolist():
        places.append((place, len(found)))
        found.append(_changed(found[place], draw, int(draw.integers(1, 3))))
    return found, places


def words(draw: np.random.Generator) -> np.ndarray:
    """The vocabulary, commonest first: 80 words of one syllable, then words of two and of three, mixed."""
    syllables = np.array([consonant + vowel for consonant in _CONSONANTS for vowel in _VOWELS], dtype=object)
    size = len(syllables)
    two = draw.permutation(size**2)[: WORDS // 4]
    three = draw.choice(size**3, size=WORDS - 80 - len(two), replace=False)
    long = [*(syllables[two // size] + syllables[two % size])]
    long += [*(syllables[three // size**2] + syllables[three // size % size] + syllables[three % size])]
    short = draw.permutation(syllables)[:80]
    return np.concatenate([short, draw.permutation(np.array(long, dtype=object))])


def _block(vocabulary: np.ndarray, draw: np.random.Generator, rows: int) -> list[dict[str, Any]]:
    parts = {name: _texts(vocabulary, draw, rows, MEDIANS[name], SPREADS[name]) for name in MEDIANS}
    return [dict(zip(parts, row, strict=True)) for row in zip(*parts.values(), strict=True)]


def _texts(vocabulary: np.ndarray, draw: np.random.Generator, count: int, median: float, spread: float) -> list[str]:
    lengths = np.clip(np.exp(draw.normal(np.log(median), spread, count)), 1, LONGEST).astype(int)
    weights = np.cumsum(1 / np.arange(1, len(vocabulary) + 1))
    ranks = np.searchsorted(weights, draw.random(lengths.sum()) * weights[-1])
    drawn = vocabulary[ranks]
    marked = np.flatnonzero(draw.random(len(drawn)) < APOSTROPHES)
    drawn[marked] = drawn[marked] + "’s"
    ends = np.cumsum(lengths)
    return [_sentence(drawn[begin:end].tolist()) for begin, end in zip(ends - lengths, ends, strict=True)]


def _sentence(drawn: list[str]) -> str:
    """The words with a full stop after every twelfth and at the end."""
    sentences = [" ".join(drawn[begin : begin + 12]) for begin in range(0, len(drawn), 12)]
    return " ".join(f"{sentence.capitalize()}." for sentence in sentences)


def _plant(block: list[dict[str, Any]], draw: np.random.Generator) -> None:
    """Overwrites some rows with copies of the row before them."""
    kinds = draw.integers(0, 1000, len(block))
    for place in range(1, len(block)):
        before, kind = block[place - 1], kinds[place]
        if kind < NEAR:
            block[place] = {name: _changed(text, draw, 1) for name, text in before.items()}
        elif kind < NEAR + EXACT:
            block[place] = dict(before)
        elif kind < NEAR + EXACT + REVERSED:
            block[place] = before | {"chosen": before["rejected"], "rejected": before["chosen"]}


def _changed(text: str, draw: np.random.Generator, changes: int) -> str:
    """The text with so many words changed, far from each other; a text of fewer than 50 words as it is."""
    parts = text.split(" ")
    if len(parts) < 50:
        return text
    for number in range(changes):
        parts[(number + 1) * len(parts) // (changes + 1)] = f"changed{int(draw.integers(10**9))}"
    return " ".join(parts)
