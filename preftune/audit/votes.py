"""Who chose what: the votes of several people on the same comparisons, in columns."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from preftune.data.records import Choice, Comparison, Pair, character_count
from preftune.errors import PreftuneError

Ints: TypeAlias = NDArray[np.int64]
Floats: TypeAlias = NDArray[np.float64]
Bools: TypeAlias = NDArray[np.bool_]

CHOICES: tuple[Choice, ...] = ("first", "second", "tie", "both_bad")
FIRST, SECOND, TIE, BOTH_BAD = range(4)
NOBODY = -1  # where no choice leads

_CODES: Mapping[object, int] = {name: code for code, name in enumerate(CHOICES)}
_SECOND_SIDE = ("second", "rejected", "response_2")


@dataclass(frozen=True, eq=False)
class Votes:
    """Votes in columns, ordered by item; a person has at most one on an item.

    ``item`` and ``annotator`` (votes,) index the ids in ``items`` and ``annotators``, ``choice`` (votes,) indexes
    CHOICES. A choice is about the record's sides: "first" is a pair's chosen or a comparison's response_1,
    ``is_swapped`` (votes,) is true where the other side was shown first. ``seconds`` (votes,) is NaN where not known.

    ``repeated`` votes were left out, because the same person voted again on the same item and the last counts;
    ``unvoted`` records had no votes and are not among the items.
    """

    items: tuple[str, ...]
    annotators: tuple[str, ...]
    item: Ints
    annotator: Ints
    choice: Ints
    seconds: Floats
    is_swapped: Bools
    repeated: int = 0
    unvoted: int = 0

    def __len__(self) -> int:
        return len(self.item)

    def counts(self) -> Ints:
        """(items, choices): how many votes each choice got."""
        cells = np.bincount(self.item * len(CHOICES) + self.choice, minlength=len(self.items) * len(CHOICES))
        return cells.reshape(len(self.items), len(CHOICES))

    def without(self, annotators: Collection[str]) -> Votes:
        """The votes of the others; items that nobody else voted on stay, without votes."""
        left_out = {place for place, name in enumerate(self.annotators) if name in set(annotators)}
        return self.where(~np.isin(self.annotator, list(left_out)))

    def where(self, keep: Bools) -> Votes:
        """The votes where ``keep`` (votes,) is true, among the same items and annotators."""
        columns = ("item", "annotator", "choice", "seconds", "is_swapped")
        return replace(self, **{name: getattr(self, name)[keep] for name in columns})


def votes_of(records: Iterable[Pair | Comparison]) -> Votes:
    """The votes on pairs or comparisons.

    A vote's "first" is a pair's chosen and a comparison's response_1, unless ``order`` in the record's meta names the
    other side ("rejected", "response_2", "second"). What the votes call first is taken to have been shown first,
    unless the vote's own ``shown_first`` is "second".
    """
    columns = _Columns()
    unvoted = 0
    for record in records:
        unvoted += not record.annotators
        is_turned = names_second_side(record.meta.get("order"))
        for vote in record.annotators:
            is_swapped = is_turned != names_second_side((vote.model_extra or {}).get("shown_first"))
            columns.add(record.id, vote.id, _turned(vote.choice, is_turned), vote.seconds, is_swapped)
    return columns.votes(unvoted)


def votes_from_table(rows: Iterable[Sequence[Any]]) -> Votes:
    """Votes from rows of item, annotator, choice and, where known, seconds; ids become text.

    Raises PreftuneError for a choice that is none of CHOICES, naming the row.
    """
    columns = _Columns()
    for place, (item, annotator, choice, *seconds) in enumerate(rows, start=1):
        if choice not in _CODES:
            raise PreftuneError(
                f"The choice is {str(choice)[:40]!r}.", where=f"vote {place}", mend=f"Use one of {', '.join(CHOICES)}."
            )
        columns.add(str(item), str(annotator), _CODES[choice], seconds[0] if seconds else None, False)
    return columns.votes(0)


def lengths_of(records: Iterable[Pair | Comparison]) -> dict[str, int]:
    """Characters that a voter has to read, by record id: prompt and both answers."""
    return {record.id: sum(character_count(text) for text in _texts(record)) for record in records}


def leading_choice(scores: NDArray[Any]) -> Ints:
    """The choice with the highest score of each row of (rows, choices), NOBODY where the highest is shared."""
    top = scores.max(axis=1, keepdims=True)
    # Shares of votes and sums of logs differ in the last digits where they are equal by right.
    is_top = scores >= top - 1e-9 * np.maximum(1, np.abs(top))
    return np.where(is_top.sum(axis=1) == 1, scores.argmax(axis=1), NOBODY)


def sums_by(index: Ints, values: Floats, size: int) -> Floats:
    """(size,): the sums of the values with each index."""
    return np.bincount(index, weights=values, minlength=size).astype(np.float64, copy=False)


def names_second_side(order: object) -> bool:
    """True where ``order`` names the record's second side, alone or as the first of a list."""
    first = order[0] if isinstance(order, list | tuple) and order else order
    return isinstance(first, str) and first.casefold() in _SECOND_SIDE


def _turned(choice: Choice, is_turned: bool) -> int:
    code = _CODES[choice]
    return 1 - code if is_turned and code <= SECOND else code


class _Columns:
    """Votes as they come, to be put into arrays."""

    def __init__(self) -> None:
        self.items: dict[str, int] = {}
        self.annotators: dict[str, int] = {}
        self.rows: list[tuple[int, int, int, bool]] = []
        self.seconds: list[float] = []

    def add(self, item: str, annotator: str, choice: int, seconds: float | None, is_swapped: bool) -> None:
        place = self.items.setdefault(item, len(self.items))
        person = self.annotators.setdefault(annotator, len(self.annotators))
        self.rows.append((place, person, choice, is_swapped))
        self.seconds.append(math.nan if seconds is None else seconds)

    def votes(self, unvoted: int) -> Votes:
        table = np.array(self.rows, dtype=np.int64).reshape(-1, 4)
        keep = _last_of_each(table[:, 0] * max(1, len(self.annotators)) + table[:, 1])
        order = keep[np.argsort(table[keep, 0], kind="stable")]
        item, annotator, choice, is_swapped = table[order].T.copy()
        return Votes(
            items=tuple(self.items),
            annotators=tuple(self.annotators),
            item=item,
            annotator=annotator,
            choice=choice,
            seconds=np.array(self.seconds, dtype=np.float64)[order],
            is_swapped=is_swapped.astype(np.bool_),
            repeated=len(table) - len(order),
            unvoted=unvoted,
        )


def _last_of_each(keys: Ints) -> Ints:
    """The places of each key's last occurrence, in order."""
    _, from_the_end = np.unique(keys[::-1], return_index=True)
    return np.sort(len(keys) - 1 - from_the_end)


def _texts(record: Pair | Comparison) -> tuple[Any, Any, Any]:
    if isinstance(record, Pair):
        return record.prompt, record.chosen, record.rejected
    return record.prompt, record.response_1, record.response_2
