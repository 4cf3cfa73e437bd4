"""A source in blocks of rows that can be examined apart, here or by another process, and what one gives."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from preftune.audit.columns import Audited, AuditedKind, Columns, columns_of
from preftune.data.kinds import Kind, comparisons_of_row, labels_of_row, pairs_of_row
from preftune.data.read import RejectedRow, gather
from preftune.data.row_parts import RowProblem
from preftune.data.sources import RawRow, line_content, line_row

BLOCK_BYTES = 4 * 2**20  # of a file of lines; large against a message between processes, small against memory
BLOCK_ROWS = 4_000  # of other sources

RECORDS_OF_ROW: Mapping[AuditedKind, Callable[[object], tuple[Any, ...]]] = {
    "pair": pairs_of_row,
    "comparison": comparisons_of_row,
    "label": labels_of_row,
}


@dataclass(frozen=True)
class Lines:
    """A range of bytes of a file of JSON lines, from the beginning of ``first_line`` to the end of another."""

    path: str
    label: str
    start: int
    end: int
    first_line: int

    def numbered(self) -> Iterator[tuple[int, bytes]]:
        """The lines with their numbers in the file."""
        with Path(self.path).open("rb") as file:
            file.seek(self.start)
            return enumerate(io.BytesIO(file.read(self.end - self.start)), self.first_line)

    def raw_rows(self) -> Iterator[RawRow]:
        """The rows of all lines that are not blank."""
        rows = (line_row(line, number, self.label) for number, line in self.numbered())
        return (row for row in rows if row is not None)

    def raw_rows_at(self, wanted: Iterable[int]) -> Iterator[tuple[int, RawRow]]:
        """Those of the rows with these numbers, counted from 0 within the block, without reading the others' JSON."""
        places, position = set(wanted), -1
        for number, line in self.numbered():
            if not line_content(line, number):
                continue
            position += 1
            if position in places and (row := line_row(line, number, self.label)) is not None:
                yield position, row


@dataclass(frozen=True)
class Rows:
    """Raw rows at hand."""

    rows: tuple[RawRow, ...]

    def raw_rows(self) -> Iterator[RawRow]:
        """The rows."""
        return iter(self.rows)


Block: TypeAlias = Lines | Rows


@dataclass(frozen=True)
class Piece:
    """What a block gave: its records as columns, their rows counted from 0 within it, and the rows left out."""

    columns: Columns
    rows: int
    rejected: tuple[RejectedRow, ...]
    kinds: Counter[Kind | None]
    used: Counter[Kind | None]
    made: Counter[Kind | None]


def line_blocks(files: Iterable[tuple[Path, str]]) -> Iterator[Lines]:
    """Files of JSON lines in ranges of about BLOCK_BYTES, which end where lines end."""
    for path, label in files:
        with path.open("rb") as file:
            start, line = 0, 1
            while content := file.read(BLOCK_BYTES):
                content += file.readline()
                yield Lines(str(path), label, start, start + len(content), line)
                start += len(content)
                line += content.count(b"\n")


def row_blocks(rows: Iterable[RawRow]) -> Iterator[Rows]:
    """Any rows in blocks of BLOCK_ROWS."""
    rest = iter(rows)
    while block := tuple(islice(rest, BLOCK_ROWS)):
        yield Rows(block)


def examine(block: Block, kind: AuditedKind) -> Piece:
    """Reads the rows of a block as records of a kind and makes columns of them."""
    found = gather(block.raw_rows(), RECORDS_OF_ROW[kind])
    records: list[Audited] = found.records
    columns = columns_of(records, found.numbers)
    n = found.used.total() + len(found.rejected)
    return Piece(columns, n, tuple(found.rejected), found.kinds, found.used, found.made)


def request_of(block: Block, kind: AuditedKind) -> bytes | None:
    """What another process needs to examine the block; None where JSON cannot hold its rows."""
    if isinstance(block, Lines):
        return json.dumps({"kind": kind, "lines": asdict(block)}).encode()
    rows = [[row.where, row.value, row.problem and vars(row.problem)] for row in block.rows]
    try:
        return json.dumps({"kind": kind, "rows": rows}).encode()
    except (TypeError, ValueError, RecursionError):  # dates, bytes, circles
        return None


def examine_request(request: bytes) -> bytes:
    """Examines the block of a request; the answer is what ``piece_of`` reads."""
    given = json.loads(request)
    if "lines" in given:
        return _packed(examine(Lines(**given["lines"]), given["kind"]))
    rows = (RawRow(where, value, problem and RowProblem(**problem)) for where, value, problem in given["rows"])
    return _packed(examine(Rows(tuple(rows)), given["kind"]))


def piece_of(answer: bytes) -> Piece:
    """The piece in an answer."""
    with np.load(io.BytesIO(answer), allow_pickle=False) as file:
        arrays = dict(file)
    about = json.loads(arrays.pop("about").tobytes())
    counts = [Counter(dict(about[name])) for name in ("kinds", "used", "made")]
    rejected = tuple(RejectedRow(**row) for row in about["rejected"])
    return Piece(Columns.from_arrays(arrays), about["rows"], rejected, *counts)


def _packed(piece: Piece) -> bytes:
    counts = {name: list(getattr(piece, name).items()) for name in ("kinds", "used", "made")}
    about = {"rows": piece.rows, "rejected": [asdict(row) for row in piece.rejected], **counts}
    packed = io.BytesIO()
    arrays: Any = piece.columns.arrays() | {"about": np.frombuffer(json.dumps(about).encode(), dtype=np.uint8)}
    np.savez(packed, **arrays)
    return packed.getvalue()
