"""Whether the chosen side is mostly the longer or the shorter one: what a model may learn instead."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from preftune.audit.findings import Share, share_of
from preftune.data.records import Pair, character_count


def longer_share(pairs: Sequence[Pair]) -> Share:
    """The share of pairs whose chosen side has more characters."""
    longer = sum(character_count(pair.chosen) > character_count(pair.rejected) for pair in pairs)
    what = "Pairs whose chosen side has more characters; far from 0.5, length is a shortcut."
    return share_of(longer, len(pairs), "Chosen longer", what)


def length_warnings(longer: Share) -> Iterator[str]:
    """A sentence where the share's interval leaves out one half."""
    if longer.value is None or longer.low is None or longer.high is None or longer.low <= 0.5 <= longer.high:
        return
    word, value = ("longer", longer.value) if longer.value > 0.5 else ("shorter", 1 - longer.value)
    shown = f"{100 * value:.0f}% of {longer.n:,} pairs"
    yield f"the chosen side is the {word} one in {shown}: a model may learn the length instead (see preftune clean)"
