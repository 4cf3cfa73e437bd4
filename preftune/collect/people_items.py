"""What people are asked to compare: two answers to a prompt, out of comparisons or pairs whose label stays hidden."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from preftune.data.comparisons import majority
from preftune.data.kinds import kind_of_row
from preftune.data.read import Reading, read_comparisons, read_pairs, rows_of
from preftune.data.records import Choice, Comparison, Pair
from preftune.errors import PreftuneError


@dataclass(frozen=True)
class Item:
    """Two answers to compare; ``label`` is what the data says of them, for gold the right answer."""

    comparison: Comparison
    label: Choice | None = None
    is_gold: bool = False

    @property
    def id(self) -> str:
        """The record's id; gold has a prefix, for it may be in the data too."""
        return f"gold/{self.comparison.id}" if self.is_gold else self.comparison.id


@dataclass(frozen=True)
class Items:
    """The items of a source, and in sentences what became of rows that are no item of their own."""

    items: tuple[Item, ...]
    notes: tuple[str, ...]


def read_items(source: object, *, seed: int, split: str = "train", limit: int | None = None) -> Items:
    """The items of anything that pairs or comparisons can be read from.

    Of a pair the seed decides which side becomes ``response_1``, so that no place gives the label away; it is kept
    in ``meta.was_chosen``. Votes that a record came with are kept and not counted.
    """
    reading = _read(source, split, limit)
    items = [_item_of(record, seed) for record in reading.records]
    unique, notes = _with_own_ids(items)
    return Items(tuple(unique), (*_left_out_notes(reading), *notes))


def read_gold(source: object) -> Items:
    """The items whose answer is known: the chosen side of a pair, or what most annotators of a comparison chose."""
    reading = _read(source, "train", None)
    items = [replace(_item_of(record, seed=0), is_gold=True) for record in reading.records]
    known = [item for item in items if item.label is not None]
    if not known:
        raise PreftuneError(
            "No gold item has a known answer.",
            where=reading.source,
            mend="Give pairs with chosen and rejected, or comparisons whose annotators mostly agree.",
        )
    unique, notes = _with_own_ids(known)
    unknown = len(items) - len(known)
    unclear = [f"{unknown:,} gold rows have no answer that most annotators chose, and are not used."] if unknown else []
    return Items(tuple(unique), (*_left_out_notes(reading), *notes, *unclear))


def drawn(seed: int, *parts: object) -> int:
    """A number of 64 bits that depends on nothing but the arguments; equal in every run and on every machine."""
    text = "\0".join(map(str, (seed, *parts)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def _read(source: object, split: str, limit: int | None) -> Reading[Pair] | Reading[Comparison]:
    if isinstance(source, Iterator):  # it is read twice
        source = list(source)
    if _holds_comparisons(source, split):
        return read_comparisons(source, split=split, limit=limit)
    return read_pairs(source, split=split, limit=limit)


def _holds_comparisons(source: object, split: str) -> bool:
    """Whether the first row whose kind can be told is a comparison."""
    kinds = (kind_of_row(raw.value) for raw in rows_of(source, split))
    return next((kind for kind in kinds if kind is not None), None) == "comparison"


def _item_of(record: Pair | Comparison, seed: int) -> Item:
    if isinstance(record, Comparison):
        return Item(record, majority(record.annotators))
    # Votes on a pair speak of its sides as they stand.
    is_swapped = not record.annotators and bool(drawn(seed, "sides", record.id) & 1)
    sides = (record.rejected, record.chosen) if is_swapped else (record.chosen, record.rejected)
    label: Choice = "second" if is_swapped else "first"
    beside = {"confidence": record.confidence, "margin": record.margin, "was_chosen": label}
    comparison = Comparison(
        prompt=record.prompt,
        response_1=sides[0],
        response_2=sides[1],
        annotators=record.annotators,
        id=record.id,
        source=record.source,
        meta={name: value for name, value in beside.items() if value is not None} | record.meta,
    )
    return Item(comparison, label)


def _with_own_ids(items: Iterable[Item]) -> tuple[list[Item], list[str]]:
    """Each item once and with an id of its own: what repeats a record whole is dropped, a shared id gets a number."""
    found: dict[str, Item] = {}
    numbers: Counter[str] = Counter()
    repeated = 0
    for item in items:
        name = own = item.comparison.id
        if name in found and _says_the_same(item, found[name]):
            repeated += 1
            continue
        while own in found:
            numbers[name] += 1
            own = f"{name}/{numbers[name] + 1}"
        renamed = item.comparison if own == name else item.comparison.model_copy(update={"id": own})
        found[own] = replace(item, comparison=renamed)
    notes = []
    if repeated:
        notes.append(f"{repeated:,} of the rows repeat another with its id, and are asked once.")
    if count := numbers.total():
        notes.append(f"{count:,} of the rows share an id with another row; a number was added to theirs.")
    return list(found.values()), notes


def _says_the_same(one: Item, other: Item) -> bool:
    left, right = one.comparison, other.comparison
    return (left.prompt, {_key(left.response_1), _key(left.response_2)}) == (
        right.prompt,
        {_key(right.response_1), _key(right.response_2)},
    )


def _key(content: Any) -> str:
    return content if isinstance(content, str) else repr(content)


def _left_out_notes(reading: Reading[Any]) -> tuple[str, ...]:
    if not reading.rejected:
        return reading.notes
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in reading.reasons().items())
    first = reading.rejected[0]
    left_out = f"{len(reading.rejected):,} of {reading.read:,} rows cannot be shown ({reasons}), first {first.where}."
    return (*reading.notes, f"{left_out} {first.mend}")
