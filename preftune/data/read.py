"""Data read: the records that can be used, and every row that cannot with its place and reason."""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import Any, Generic, TypeVar

from preftune.data.kinds import (
    Kind,
    comparisons_of_row,
    conversion_notes,
    demonstrations_of_row,
    kind_of_row,
    labels_of_row,
    pairs_of_row,
    prompts_of_row,
    wrong_kind,
)
from preftune.data.records import Comparison, Demonstration, Label, Pair, PromptRecord, Record, content_row
from preftune.data.row_parts import RowProblem
from preftune.data.sources import RawRow, choose_split, dataset_rows, numbered_rows, open_place
from preftune.errors import PreftuneError

R = TypeVar("R", bound=Record)

_RAW_LENGTH = 300  # characters of a rejected row that are kept to recognise it by


@dataclass(frozen=True)
class RejectedRow:
    """A row left out: its place, the field and reason, how to mend it, and its beginning as JSON text."""

    where: str
    field: str | None
    reason: str
    mend: str
    raw: str


@dataclass(frozen=True)
class Reading(Generic[R]):
    """What a source gave; every row read is in ``records`` or in ``rejected``.

    ``notes`` say, a sentence each, what was read as something else. ``used_rows`` is the number of rows that gave
    ``records``; None means one a record.
    """

    records: tuple[R, ...]
    rejected: tuple[RejectedRow, ...]
    source: str
    notes: tuple[str, ...] = ()
    used_rows: int | None = None

    @property
    def read(self) -> int:
        """The number of rows read: those that gave records, and those left out."""
        used = len(self.records) if self.used_rows is None else self.used_rows
        return used + len(self.rejected)

    def reasons(self) -> dict[str, int]:
        """How many rows were left out for each reason, the commonest first."""
        return dict(Counter(row.reason for row in self.rejected).most_common())

    def write_rejected(self, path: str | PathLike[str]) -> None:
        """Writes the rows left out as JSON lines."""
        lines = (json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in self.rejected)
        try:
            with Path(path).open("w", encoding="utf-8") as file:
                file.writelines(lines)
        except OSError as error:
            what = f"The rows left out cannot be written: {error.strerror}."
            raise PreftuneError(what, where=str(path), mend="Give another path.") from error


def read_pairs(source: object, *, split: str = "train", limit: int | None = None) -> Reading[Pair]:
    """The preference pairs of a file, a folder, a hub name, a datasets.Dataset or an iterable of dicts.

    A row with a group of ranked answers gives several; one with two answers and the votes on them gives the pair that
    most annotators see, if any. ``limit`` counts rows read, good or bad. Raises
    PreftuneError where the source cannot be opened, has no rows, or has none that can be used, and where all
    rows are labels or demonstrations; a bad row among good ones is no error.
    """
    return _read(source, split, limit, "pair", pairs_of_row)


def read_comparisons(source: object, *, split: str = "train", limit: int | None = None) -> Reading[Comparison]:
    """The comparisons of two answers, with the votes on each, by the rules of ``read_pairs``."""
    return _read(source, split, limit, "comparison", comparisons_of_row)


def read_labels(source: object, *, split: str = "train", limit: int | None = None) -> Reading[Label]:
    """The judged answers of a source, by the rules of ``read_pairs``; a pair gives two."""
    return _read(source, split, limit, "label", labels_of_row)


def read_demonstrations(source: object, *, split: str = "train", limit: int | None = None) -> Reading[Demonstration]:
    """The answers to learn from of a source, by the rules of ``read_pairs``.

    Of a pair the chosen answer is read, of labels the desirable ones; the undesirable are left out by name.
    """
    return _read(source, split, limit, "demonstration", demonstrations_of_row)


def read_prompts(source: object, *, split: str = "train", limit: int | None = None) -> Reading[PromptRecord]:
    """The prompts of a source, by the rules of ``read_pairs``; of rows with answers their prompts.

    Each prompt is read once: rows that repeat one are used and give nothing more. Of prompt-only rows those with
    other columns, such as another right answer, are other prompts.
    """
    seen: set[str] = set()

    def unseen(row: object) -> tuple[PromptRecord, ...]:
        (record,) = prompts_of_row(row)
        alone, whole = fingerprint([record.model_copy(update={"columns": {}})]), fingerprint([record])
        is_known = (whole if kind_of_row(row) == "prompt" else alone) in seen
        seen.update((alone, whole))
        return () if is_known else (record,)

    return _read(source, split, limit, "prompt", unseen)


def joined(readings: Sequence[Reading[R]]) -> Reading[R]:
    """Several readings as one, by the name of the first."""
    return Reading(
        tuple(record for reading in readings for record in reading.records),
        tuple(row for reading in readings for row in reading.rejected),
        readings[0].source,
        tuple(note for reading in readings for note in reading.notes),
        sum(reading.read - len(reading.rejected) for reading in readings),
    )


def fingerprint(records: Iterable[Record]) -> str:
    """A SHA-256, in hex, of what training depends on, in order: contents, labels, and what weighs or rewards them."""
    digest = hashlib.sha256()
    for record in records:
        beside = {name: getattr(record, name) for name in ("confidence", "margin", "columns") if hasattr(record, name)}
        digest.update(json.dumps(content_row(record) | beside, sort_keys=True, default=str).encode() + b"\n")
    return digest.hexdigest()


def _read(
    source: object, split: str, limit: int | None, wanted: Kind, records_of_row: Callable[[object], tuple[R, ...]]
) -> Reading[R]:
    found = gather(islice(rows_of(source, split), checked_limit(limit)), records_of_row)
    notes = conversion_notes(wanted, found.used, found.made, Counter(row.reason for row in found.rejected))
    rejected = tuple(found.rejected)
    reading = Reading(tuple(found.records), rejected, name_of(source), notes, found.used.total())
    if not found.records:
        raise refusal(reading, wanted, found.kinds)
    return reading


@dataclass(frozen=True)
class Gathered(Generic[R]):
    """What some raw rows gave: the records, beside each the number of its row among them, and the rows left out.

    ``kinds`` counts the rows that could be read at all, ``used`` those that gave records and ``made`` their records,
    each by kind of row.
    """

    records: list[R]
    numbers: list[int]
    rejected: list[RejectedRow]
    kinds: Counter[Kind | None]
    used: Counter[Kind | None]
    made: Counter[Kind | None]


def gather(rows: Iterable[RawRow], records_of_row: Callable[[object], tuple[R, ...]]) -> Gathered[R]:
    """The records of raw rows, which are all either used or left out with their reason."""
    found: Gathered[R] = Gathered([], [], [], Counter(), Counter(), Counter())
    for number, raw in enumerate(rows):
        kind = kind_of_row(raw.value)
        try:
            if raw.problem is not None:
                raise raw.problem
            found.kinds[kind] += 1
            records = records_of_row(raw.value)
        except RowProblem as problem:
            found.rejected.append(rejected_row(raw, problem))
            continue
        found.records.extend(records)
        found.numbers.extend([number] * len(records))
        found.used[kind] += 1
        found.made[kind] += len(records)
    return found


def checked_limit(limit: int | None) -> int | None:
    """The limit on rows read, which must be above zero."""
    if limit is not None and limit < 1:
        raise PreftuneError(f"limit is {limit}.", mend="Give a number of rows above zero, or leave it out.")
    return limit


def name_of(source: object) -> str:
    """A source's name in messages: its path or hub name, else what it is."""
    return str(source) if isinstance(source, str | PathLike) else f"{type(source).__name__} in memory"


def rows_of(source: object, split: str) -> Iterator[RawRow]:
    """The raw rows of any source, each with its place; PreftuneError for what is none."""
    if isinstance(source, str | PathLike):
        return open_place(source, split)
    library: Any = sys.modules.get("datasets")  # where it was never imported, the source is none of its classes
    if library is not None:
        if isinstance(source, library.DatasetDict | library.IterableDatasetDict):
            source = choose_split(source, split)
        if isinstance(source, library.Dataset | library.IterableDataset):
            return dataset_rows(source)
    if isinstance(source, Iterable) and not isinstance(source, Mapping | bytes):
        return numbered_rows(source)
    raise PreftuneError(
        f"Data cannot be read from {type(source).__name__}.",
        mend="Give a file, a folder, a hub name, a datasets.Dataset or a list of dicts.",
    )


def rejected_row(raw: RawRow, problem: RowProblem) -> RejectedRow:
    """What is kept of a row that cannot be used."""
    return RejectedRow(raw.where, problem.field, problem.reason, problem.mend, _shortened(raw.value))


def refusal(reading: Reading[Any], wanted: Kind, kinds: Counter[Kind | None]) -> PreftuneError:
    """What to say of a source that gave no record; ``kinds`` counts its rows that could be read at all."""
    first_mend = next((row.mend for row in reading.rejected if row.field is not None), "")
    return wrong_kind(wanted, kinds, reading.source, first_mend) or _nothing_usable(reading, wanted)


def _shortened(value: object) -> str:
    text = _as_text(value).strip().encode(errors="replace").decode()
    return text if len(text) <= _RAW_LENGTH else text[: _RAW_LENGTH - 1] + "…"


def _as_text(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    try:
        return json.dumps(value, default=str, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):  # keys that are no text, circles, nesting without end
        return f"<{type(value).__name__}>"


def _nothing_usable(reading: Reading[R], wanted: Kind) -> PreftuneError:
    if not reading.rejected:
        return PreftuneError("There are no rows.", where=reading.source, mend=f"Give data with at least one {wanted}.")
    reason, count = next(iter(reading.reasons().items()))
    first = next(row for row in reading.rejected if row.reason == reason)
    field = f' in "{first.field}"' if first.field else ""
    rows = "The one row" if reading.read == 1 else f"None of {reading.read:,} rows"
    verb = "cannot be used" if reading.read == 1 else "can be used"
    what = f"{rows} {verb}; {count:,} for {reason}{field}, first at {first.where}."
    return PreftuneError(what, where=reading.source, mend=first.mend)
