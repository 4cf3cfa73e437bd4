"""How far a text was changed: the share of words put in or taken out."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence

from preftune.data.records import normal_text, readable_text
from preftune.data.row_parts import Content


def edit_share(before: Content, after: Content) -> float:
    """Words put in or taken out, as a share of the words of both: 0 where they are equal, 1 with none in common."""
    first, second = readable_text(before).split(), readable_text(after).split()
    total = len(first) + len(second)
    return 0.0 if not total else 1 - 2 * _common(first, second) / total


def says_the_same(before: Content, after: Content) -> bool:
    """True where nothing but case, the marks of a sentence and white space differs."""
    return _letters(before) == _letters(after)


def _common(first: Sequence[str], second: Sequence[str]) -> int:
    """The length of the longest common subsequence, a row of the table in one big integer (Hyyrö 2004).

    A bit of ``row`` is 0 where the common length grows; 5,000 words against 5,000 take some ten milliseconds.
    """
    places: dict[str, int] = defaultdict(int)
    for place, word in enumerate(first):
        places[word] |= 1 << place
    full = (1 << len(first)) - 1
    row = full
    for word in second:
        met = row & places.get(word, 0)
        row = ((row + met) | (row - met)) & full
    return len(first) - row.bit_count()


def _letters(content: Content) -> str:
    # Other signs stay: in code and mathematics they are what is said.
    return re.sub(r"[\s.,;:!?…'\"“”‘’]+", "", normal_text(content).casefold())
