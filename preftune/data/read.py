"""Preference data read: the pairs that can be used, and every row that cannot with its place and reason."""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import Any

from preftune.data.records import Pair, content_row
from preftune.data.shapes import RowProblem, pair_from_row
from preftune.data.sources import RawRow, choose_split, dataset_rows, numbered_rows, open_place
from preftune.errors import PreftuneError

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
class Reading:
    """What a source gave; every row read is in ``records`` or in ``rejected``."""

    records: tuple[Pair, ...]
    rejected: tuple[RejectedRow, ...]
    source: str

    @property
    def read(self) -> int:
        """The number of rows read."""
        return len(self.records) + len(self.rejected)

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


def read_pairs(source: object, *, split: str = "train", limit: int | None = None) -> Reading:
    """The preference pairs of a file, a folder, a hub name, a datasets.Dataset or an iterable of dicts.

    ``limit`` counts rows read, good or bad. Raises PreftuneError where the source cannot be opened, has no
    rows, or has none that can be used; a bad row among good ones is no error.
    """
    if limit is not None and limit < 1:
        raise PreftuneError(f"limit is {limit}.", mend="Give a number of rows above zero, or leave it out.")
    name = str(source) if isinstance(source, str | PathLike) else f"{type(source).__name__} in memory"
    records: list[Pair] = []
    rejected: list[RejectedRow] = []
    for raw in islice(_rows(source, split), limit):
        try:
            records.append(_pair(raw))
        except RowProblem as problem:
            rejected.append(_rejected(raw, problem))
    reading = Reading(tuple(records), tuple(rejected), name)
    if not records:
        raise _nothing_usable(reading)
    return reading


def fingerprint(pairs: Iterable[Pair]) -> str:
    """A SHA-256, in hex, of what training depends on: the texts, confidences and margins in their order."""
    digest = hashlib.sha256()
    for pair in pairs:
        content = content_row(pair) | {"confidence": pair.confidence, "margin": pair.margin}
        digest.update(json.dumps(content, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()


def _rows(source: object, split: str) -> Iterator[RawRow]:
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
        f"Preference data cannot be read from {type(source).__name__}.",
        mend="Give a file, a folder, a hub name, a datasets.Dataset or a list of dicts.",
    )


def _pair(raw: RawRow) -> Pair:
    if raw.problem is not None:
        raise raw.problem
    return pair_from_row(raw.value)


def _rejected(raw: RawRow, problem: RowProblem) -> RejectedRow:
    return RejectedRow(raw.where, problem.field, problem.reason, problem.mend, _shortened(raw.value))


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


def _nothing_usable(reading: Reading) -> PreftuneError:
    if not reading.rejected:
        return PreftuneError("There are no rows.", where=reading.source, mend="Give data with at least one pair.")
    reason, count = next(iter(reading.reasons().items()))
    first = next(row for row in reading.rejected if row.reason == reason)
    field = f' in "{first.field}"' if first.field else ""
    rows = "The one row" if reading.read == 1 else f"None of {reading.read:,} rows"
    verb = "cannot be used" if reading.read == 1 else "can be used"
    what = f"{rows} {verb}; {count:,} for {reason}{field}, first at {first.where}."
    return PreftuneError(what, where=reading.source, mend=first.mend)
