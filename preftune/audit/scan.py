"""One pass over data of any size: columns of facts for every record, and its records again where they are wanted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from preftune.audit.blocks import RECORDS_OF_ROW, Lines, line_blocks, row_blocks
from preftune.audit.columns import Audited, AuditedKind, Columns, columns_of, joined_columns
from preftune.audit.processes import examined
from preftune.data.kinds import Kind, conversion_notes, kind_of_row
from preftune.data.read import Reading, RejectedRow, checked_limit, name_of, refusal, rows_of
from preftune.data.records import Comparison, Label
from preftune.data.row_parts import RowProblem
from preftune.data.sources import RawRow, line_files
from preftune.errors import PreftuneError

MOST_REJECTED = 100_000  # rows left out that are kept with their places; more are counted, and told to ``on_rejected``
_LOOKED_AT = 1_000  # rows by which the kind of a source is told


@dataclass(frozen=True, eq=False)
class Scan:
    """What a source holds, record by record, without the text.

    ``read`` rows were ``used`` or left out, by ``reasons``; ``rejected`` are those, at most MOST_REJECTED of them.
    ``starts`` are the numbers of the rows that begin the ``blocks`` of files that can be read from the middle.
    """

    name: str
    kind: AuditedKind
    columns: Columns
    read: int
    reasons: Mapping[str, int]
    rejected: tuple[RejectedRow, ...]
    notes: tuple[str, ...] = ()
    source: object = None
    split: str = "train"
    blocks: tuple[Lines, ...] = ()
    starts: tuple[int, ...] = ()

    @property
    def used(self) -> int:
        """The number of rows that gave records."""
        return self.read - sum(self.reasons.values())

    def __len__(self) -> int:
        return len(self.columns)


def scan(
    source: object,
    *,
    kind: AuditedKind | None = None,
    split: str = "train",
    limit: int | None = None,
    processes: int | None = None,
    on_rejected: Callable[[RejectedRow], object] | None = None,
    advance: Callable[[int], object] | None = None,
) -> Scan:
    """Reads a source as ``read_pairs``, ``read_comparisons`` or ``read_labels`` does and keeps columns of facts.

    ``kind`` is the kind of most rows where it is not given. ``on_rejected`` gets every row left out; ``advance`` the
    numbers of rows read, as they are read. Raises PreftuneError where nothing can be used.
    """
    limit, source = checked_limit(limit), list(source) if isinstance(source, Iterator) else source
    kind = kind or kind_of_source(source, split)
    files = line_files(source, split) if limit is None else ()
    blocks = line_blocks(files) if files else row_blocks(islice(rows_of(source, split), limit))
    found = _Found()
    for block, piece in examined(blocks, kind, processes):
        if isinstance(block, Lines):
            found.blocks.append(block)
            found.starts.append(found.read)
        found.columns.append(replace(piece.columns, row=piece.columns.row + found.read))
        found.read += piece.rows
        found.kinds += piece.kinds
        found.used += piece.used
        found.made += piece.made
        found.reasons += Counter(row.reason for row in piece.rejected)
        found.rejected += piece.rejected[: max(0, MOST_REJECTED - len(found.rejected))]
        if on_rejected:
            for row in piece.rejected:
                on_rejected(row)
        if advance:
            advance(piece.rows)
    return found.scan(source, split, kind)


def scan_of_reading(reading: Reading) -> Scan:
    """The columns of records in memory; an empty reading is one of pairs."""
    record = next(iter(reading.records), None)
    kind: AuditedKind = (
        "comparison" if isinstance(record, Comparison) else "label" if isinstance(record, Label) else "pair"
    )
    columns = columns_of(reading.records)
    return Scan(reading.source, kind, columns, reading.read, reading.reasons(), reading.rejected, reading.notes)


def kind_of_source(source: object, split: str = "train") -> AuditedKind:
    """The kind of most of the first rows; pairs where they are of none that is audited."""
    kinds = Counter(kind_of_row(row.value) for row in islice(rows_of(source, split), _LOOKED_AT) if not row.problem)
    counts: dict[AuditedKind, int] = {
        "pair": kinds["pair"] + kinds["group"],
        "comparison": kinds["comparison"],
        "label": kinds["label"],
    }
    return max(counts, key=lambda kind: counts[kind])


def records_at(scan: Scan, indexes: Sequence[int] | NDArray[np.int64]) -> tuple[Audited, ...]:
    """The records at these places of the columns, read again; PreftuneError where the source has changed since."""
    wanted = np.asarray(indexes, dtype=np.int64)
    rows = scan.columns.row[wanted]
    nth = wanted - np.searchsorted(scan.columns.row, rows)  # a row of ranked answers gives several records
    found = {number: _records(raw, scan.kind) for number, raw in _raw_rows_at(scan, np.unique(rows))}
    records: list[Audited] = []
    for index, row, place in zip(wanted.tolist(), rows.tolist(), nth.tolist(), strict=True):
        here = found.get(row, ())
        if place >= len(here) or here[place].id != scan.columns.ids[index]:
            mend = "Run the audit again when nothing writes to it."
            raise PreftuneError("The data changed while it was audited.", where=scan.name, mend=mend)
        records.append(here[place])
    return tuple(records)


class _Found:
    """What the blocks gave so far."""

    def __init__(self) -> None:
        self.columns: list[Columns] = []
        self.blocks: list[Lines] = []
        self.starts: list[int] = []
        self.rejected: list[RejectedRow] = []
        self.reasons: Counter[str] = Counter()
        self.kinds, self.used, self.made = (Counter[Kind | None]() for _ in range(3))
        self.read = 0

    def scan(self, source: object, split: str, kind: AuditedKind) -> Scan:
        name, rejected = name_of(source), tuple(self.rejected)
        columns = joined_columns(self.columns)
        if not len(columns):
            raise refusal(Reading((), rejected, name, used_rows=self.read - len(rejected)), kind, self.kinds)
        notes = conversion_notes(kind, self.used, self.made, self.reasons)
        reasons = dict(self.reasons.most_common())
        blocks, starts = tuple(self.blocks), tuple(self.starts)
        return Scan(name, kind, columns, self.read, reasons, rejected, notes, source, split, blocks, starts)


def _raw_rows_at(scan: Scan, rows: NDArray[np.int64]) -> Iterator[tuple[int, RawRow]]:
    if scan.blocks:
        ends = (*scan.starts[1:], scan.read)
        for block, start, end in zip(scan.blocks, scan.starts, ends, strict=True):
            inside = rows[(rows >= start) & (rows < end)]
            if len(inside):
                yield from ((start + place, raw) for place, raw in block.raw_rows_at((inside - start).tolist()))
        return
    wanted = set(rows.tolist())
    last = max(wanted, default=-1)
    for number, raw in enumerate(islice(rows_of(scan.source, scan.split), last + 1)):
        if number in wanted:
            yield number, raw


def _records(raw: RawRow, kind: AuditedKind) -> tuple[Audited, ...]:
    try:
        return () if raw.problem else RECORDS_OF_ROW[kind](raw.value)
    except RowProblem:
        return ()
