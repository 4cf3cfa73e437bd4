"""Which words of two answers differ."""

from __future__ import annotations

import re
from collections import Counter
from difflib import SequenceMatcher
from typing import TypeAlias

Pieces: TypeAlias = list[tuple[str, bool]]  # text, and whether the other side lacks it

FEWEST_SHARED = 0.5  # of two texts with less in common nearly every word would be marked
_MOST_WORDS = 900
_MOST_MATCHES = 15_000  # places where a word of one is a word of the other; of "so so so ..." there are too many


def word_differences(before: str, after: str) -> tuple[Pieces, Pieces]:
    """Both texts in pieces; where they share hardly a word, or one is empty, nothing is marked."""
    plain: tuple[Pieces, Pieces] = ([(before, False)], [(after, False)])
    old, new = _words(before), _words(after)
    if not before.strip() or not after.strip() or before == after or max(len(old), len(new)) > _MOST_WORDS:
        return plain
    if _matches(old, new) > _MOST_MATCHES:
        return plain
    matcher = SequenceMatcher(str.isspace, old, new, autojunk=False)
    blocks = matcher.get_matching_blocks()
    shared = sum(1 for block in blocks for word in old[block.a : block.a + block.size] if word.strip())
    if shared < FEWEST_SHARED * min(_count(old), _count(new)):
        return plain
    left, right = [], []
    a = b = 0
    for block in blocks:
        left += [("".join(old[a : block.a]), True), ("".join(old[block.a : block.a + block.size]), False)]
        right += [("".join(new[b : block.b]), True), ("".join(new[block.b : block.b + block.size]), False)]
        a, b = block.a + block.size, block.b + block.size
    return _kept(left), _kept(right)


def _matches(old: list[str], new: list[str]) -> int:
    counts = Counter(word for word in new if not word.isspace())
    return sum(counts[word] for word in old)


def _kept(pieces: Pieces) -> Pieces:
    """Without empty ones; white space alone is no difference."""
    return [(text, differs and bool(text.strip())) for text, differs in pieces if text]


def _words(text: str) -> list[str]:
    return re.findall(r"\s+|\w+|[^\w\s]", text)


def _count(words: list[str]) -> int:
    return sum(1 for word in words if word.strip())
