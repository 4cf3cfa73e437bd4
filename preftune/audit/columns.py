"""Records as columns of numbers: what the cheap audits need of each, and no text."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeAlias, overload

import numpy as np
from numpy.typing import NDArray

from preftune.audit.text_marks import marks_of
from preftune.data.comparisons import majority
from preftune.data.records import Comparison, Label, Pair, Prompt, character_count, normal_text

Audited: TypeAlias = Pair | Comparison | Label
AuditedKind: TypeAlias = Literal["pair", "comparison", "label"]

PARTS: dict[AuditedKind, tuple[str, ...]] = {
    "pair": ("prompt", "chosen", "rejected"),
    "comparison": ("prompt", "response_1", "response_2"),
    "label": ("prompt", "completion"),
}
FIRST, SECOND, NEITHER = 1, 2, 0  # verdicts; of a label FIRST is desirable and SECOND undesirable


class Texts(Sequence[str]):
    """Many short texts in one piece of bytes."""

    def __init__(self, content: bytes, ends: NDArray[np.int64]) -> None:
        self.content, self.ends = content, ends

    @classmethod
    def of(cls, texts: Iterable[str]) -> Texts:
        """The texts in their order."""
        encoded = [text.encode() for text in texts]
        return cls(b"".join(encoded), np.cumsum([len(text) for text in encoded], dtype=np.int64))

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[str, ...]: ...

    def __getitem__(self, index: int | slice) -> str | tuple[str, ...]:
        if isinstance(index, slice):
            return self.at(range(len(self))[index])
        place = range(len(self))[index]
        start = int(self.ends[place - 1]) if place else 0
        return self.content[start : int(self.ends[place])].decode()

    def at(self, indexes: Iterable[int]) -> tuple[str, ...]:
        """The texts at these places."""
        return tuple(self[int(index)] for index in indexes)


@dataclass(frozen=True, eq=False)
class Columns:
    """A row a record, in the order of the data; the three parts are the prompt and the two sides, in that order.

    ``parts`` (records, 3) are hashes of the texts after Unicode and white space are made equal, of a label the third
    is 0; ``asked`` (records,) is the prompt's without case. ``characters`` and ``words`` (records, 3) are lengths,
    ``marks`` (records, 3) the bit masks of ``text_marks``. ``verdict`` (records,) says which side won, ``votes`` how
    many annotators voted; ``confidence`` and ``margin`` are NaN where they are not given. ``row`` is the number of
    the row that the record came from, counted from 0 over all rows read.
    """

    parts: NDArray[np.uint64]
    asked: NDArray[np.uint64]
    characters: NDArray[np.uint32]
    words: NDArray[np.uint32]
    marks: NDArray[np.uint32]
    verdict: NDArray[np.int8]
    votes: NDArray[np.uint16]
    is_chat: NDArray[np.bool_]
    confidence: NDArray[np.float64]
    margin: NDArray[np.float64]
    row: NDArray[np.int64]
    ids: Texts

    def __len__(self) -> int:
        return len(self.row)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All columns as arrays by name, from which ``from_arrays`` makes them again."""
        numbers = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "ids"}
        return numbers | {"id_bytes": np.frombuffer(self.ids.content, dtype=np.uint8), "id_ends": self.ids.ends}

    @classmethod
    def from_arrays(cls, arrays: dict[str, NDArray[Any]]) -> Columns:
        numbers = {name: column for name, column in arrays.items() if name not in ("id_bytes", "id_ends")}
        return cls(**numbers, ids=Texts(arrays["id_bytes"].tobytes(), arrays["id_ends"]))


def columns_of(records: Sequence[Audited], rows: Sequence[int] | None = None) -> Columns:
    """The columns of records; ``rows`` are the numbers of their rows, one a record where they are not given."""
    n, lists = len(records), _Lists()
    for record in records:
        lists.add(record)
    return Columns(
        parts=np.frombuffer(b"".join(lists.parts), dtype="<u8").reshape(n, 3),
        asked=np.frombuffer(b"".join(lists.asked), dtype="<u8"),
        characters=np.array(lists.characters, dtype=np.uint32).reshape(n, 3),
        words=np.array(lists.words, dtype=np.uint32).reshape(n, 3),
        marks=np.array(lists.marks, dtype=np.uint32).reshape(n, 3),
        verdict=np.array([_verdict(record) for record in records], dtype=np.int8),
        votes=np.array([_vote_count(record) for record in records], dtype=np.uint16),
        is_chat=np.array([record.is_conversational for record in records], dtype=bool),
        confidence=_floats(records, "confidence"),
        margin=_floats(records, "margin"),
        row=np.arange(n, dtype=np.int64) if rows is None else np.array(rows, dtype=np.int64),
        ids=Texts.of(record.id for record in records),
    )


def joined_columns(pieces: Sequence[Columns]) -> Columns:
    """The columns of several pieces, one after the other; row numbers are taken as they are."""
    if not pieces:
        return columns_of(())
    names = [field.name for field in fields(Columns) if field.name != "ids"]
    numbers = {name: np.concatenate([getattr(piece, name) for piece in pieces]) for name in names}
    starts = np.cumsum([0, *(len(piece.ids.content) for piece in pieces[:-1])])
    ends = np.concatenate([piece.ids.ends + start for piece, start in zip(pieces, starts, strict=True)])
    return Columns(**numbers, ids=Texts(b"".join(piece.ids.content for piece in pieces), ends))


def mixed(*columns: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """One hash of several columns of hashes; their order counts."""
    result = np.zeros(len(columns[0]), dtype=np.uint64)
    for column in columns:
        result = _scrambled(result + column)
    return result


def _scrambled(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014), after its step."""
    mixed = values + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


class _Lists:
    """The columns with three entries a record while they grow."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.asked: list[bytes] = []
        self.characters: list[int] = []
        self.words: list[int] = []
        self.marks: list[int] = []

    def add(self, record: Audited) -> None:
        question = self._add_part(record.prompt)
        for side in _sides(record):
            self._add_part(side)
        if isinstance(record, Label):
            self.parts.append(_NOTHING)
            self.characters.append(0)
            self.words.append(0)
            self.marks.append(0)
        folded = question.casefold()
        self.asked.append(_hash(folded if folded.isascii() else unicodedata.normalize("NFC", folded)))

    def _add_part(self, content: Prompt) -> str:
        """Adds the facts of a prompt or side and gives its normal text."""
        normal = normal_text(content)
        text = content if isinstance(content, str) else "\n\n".join(message.content for message in content)
        is_plain = isinstance(content, str) or (len(content) == 1 and not content[0].model_extra)
        self.parts.append(_hash(normal))
        self.characters.append(len(text) if is_plain else character_count(content))
        self.words.append(normal.count(" ") + bool(normal) if is_plain else len(text.split()))
        self.marks.append(marks_of(text))
        return normal


def _sides(record: Audited) -> Iterator[Prompt]:
    if isinstance(record, Pair):
        yield record.chosen
        yield record.rejected
    elif isinstance(record, Comparison):
        yield record.response_1
        yield record.response_2
    else:
        yield record.completion


def _hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=8).digest()


def _verdict(record: Audited) -> int:
    if isinstance(record, Pair):
        return FIRST
    if isinstance(record, Label):
        return FIRST if record.label else SECOND
    return _CHOICES.get(majority(record.annotators) or "", NEITHER)


def _vote_count(record: Audited) -> int:
    return 0 if isinstance(record, Label) else min(len(record.annotators), _MOST_VOTES)


def _floats(records: Sequence[Audited], name: str) -> NDArray[np.float64]:
    values = (getattr(record, name, None) for record in records)
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


_NOTHING = bytes(8)
_MOST_VOTES = np.iinfo(np.uint16).max
_CHOICES = {"first": FIRST, "second": SECOND}
