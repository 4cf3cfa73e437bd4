"""Files of records that grow: whole lines appended, a half line cut off on reopening, what is there not made again.

Every item asked for ends as one row: in the output, or beside it in ``NAME.left-out.jsonl`` with its reason.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar

from preftune.data.read import fingerprint
from preftune.data.records import Record
from preftune.durable import BINARY, explained_errors, sync_folder, write_all
from preftune.errors import PreftuneError

T = TypeVar("T")
Row: TypeAlias = Mapping[str, Any]
Note: TypeAlias = Callable[[str], object]

FAILED: Final = "failed"  # the reason of what a later run tries again: its calls came to nothing


@dataclass(frozen=True)
class LeftOut:
    """An item that gave no record; ``found`` is what was made of it until then."""

    id: str
    reason: str
    mend: str
    found: Row = field(default_factory=dict)

    def as_row(self) -> dict[str, Any]:
        """The row that is written beside the output."""
        return {"id": self.id, "reason": self.reason, "mend": self.mend, **self.found}


@dataclass(frozen=True)
class Written:
    """The rows that items now have, in the items' order: those made and those left out.

    ``new`` is how many of the items were made or left out in this run.
    """

    made: tuple[Row, ...]
    left_out: tuple[Row, ...]
    new: int

    def reasons(self) -> dict[str, int]:
        """How many were left out for each reason, the commonest first."""
        return dict(Counter(str(row.get("reason")) for row in self.left_out).most_common())


def write_in_blocks(
    output: Path,
    items: Mapping[str, T],
    make: Callable[[Sequence[tuple[str, T]], int], Sequence[Row | LeftOut]],
    *,
    block: int,
    note: Note | None = None,
    done: Callable[[int], object] | None = None,
) -> Written:
    """Has ``make`` turn items into rows, ``block`` after block, and appends each block's rows to ``output``.

    ``items`` are named by the ids that their rows will have. ``make`` is given the items of a block and the block's
    number, and gives a row with that ``id``, or a LeftOut, for each. A block is made again only where an item of it is
    in neither file, and then as a whole, so that what it draws is what an uninterrupted run would have drawn; of that
    only what was missing is written. ``done`` is told how many items are settled.
    """
    tell, advance = note or (lambda _: None), done or (lambda _: None)
    everything, new = list(items.items()), 0
    with open_growing(output, tell) as made, open_growing(left_out_file(output), tell) as left_out:
        for number, begin in enumerate(range(0, len(items), block)):
            members = everything[begin : begin + block]
            wanted = {name for name, _ in members} - made.ids - left_out.settled
            if wanted:
                rows = make(members, number)
                left_out.append([row.as_row() for row in rows if isinstance(row, LeftOut) and row.id in wanted])
                made.append([row for row in rows if not isinstance(row, LeftOut) and row["id"] in wanted])
                new += len(wanted)
            advance(len(members))
    return read_written(output, items.keys(), new)


def read_written(output: Path, ids: Iterable[str], new: int = 0) -> Written:
    """The rows of both files whose ids are among ``ids``; of an item tried more than once the last one counts."""
    order = {name: number for number, name in enumerate(ids)}
    made: dict[str, Row] = {row["id"]: row for row in _rows(output) if row.get("id") in order}
    others = (row for row in _rows(left_out_file(output)) if row.get("id") in order)
    left_out: dict[str, Row] = {row["id"]: row for row in others if row["id"] not in made}

    def in_order(rows: dict[str, Row]) -> tuple[Row, ...]:
        return tuple(sorted(rows.values(), key=lambda row: order[row["id"]]))

    return Written(in_order(made), in_order(left_out), new)


def left_out_file(output: Path) -> Path:
    """Where the items are listed that gave no record."""
    return output.with_name(f"{output.name.removesuffix('.jsonl')}.left-out.jsonl")


def provenance(kind: str, *, model: str | None, prompt_version: str | None = None, **more: Any) -> dict[str, Any]:
    """The ``source`` of a record made now; ``cost`` (US dollars) is null where the price is not known."""
    return {
        "kind": kind,
        "model": model,
        "judge": more.pop("judge", None),
        "prompt_version": prompt_version,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "cost": more.pop("cost", None),
        **more,
    }


def item_id(job: Mapping[str, Any], record: Record) -> str:
    """The id of what a job makes of a record: the same in every run of the same job."""
    named = json.dumps([job, record.id, fingerprint([record])], sort_keys=True, default=str)
    return hashlib.sha256(named.encode()).hexdigest()[:16]


# --- growing files --------------------------------------------------------------------------------------


@dataclass
class GrowingFile:
    """An open file of JSON lines, this process its only writer; ``ids`` are those of its rows.

    ``settled`` are the ids of rows that are final: all but those whose reason is FAILED.
    """

    path: Path
    descriptor: int
    size: int
    ids: set[str] = field(default_factory=set)
    settled: set[str] = field(default_factory=set)

    def append(self, rows: Sequence[Row]) -> None:
        """Appends the rows by one write; on return they are on the disk. On an error the file is as it was."""
        if not rows:
            return
        lines = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
        data = lines.encode("utf-8", "backslashreplace")
        with explained_errors(self.path):
            try:
                write_all(self.descriptor, data)
                os.fsync(self.descriptor)
            except BaseException:
                os.ftruncate(self.descriptor, self.size)
                raise
        self.size += len(data)
        for row in rows:
            self.know(row)

    def know(self, row: Row) -> None:
        """Takes the row's id into account."""
        self.ids.add(str(row.get("id")))
        if row.get("reason") != FAILED:
            self.settled.add(str(row.get("id")))


@contextmanager
def open_growing(path: Path, note: Note) -> Iterator[GrowingFile]:
    """The file, made where it is not there yet, with its last line whole.

    A last line that a crash left half written is cut off, and ``note`` is told. PreftuneError where another process
    has the file open for the same, where it cannot be written, and where it is no file of JSON lines.
    """
    with explained_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        is_new = not path.exists()
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | BINARY, 0o666)
    try:
        _lock(descriptor, path)
        with explained_errors(path):
            if is_new:
                sync_folder(path.parent)
            file = GrowingFile(path, descriptor, 0)
            _take_in(file, note)
        yield file
    finally:
        os.close(descriptor)


def _take_in(file: GrowingFile, note: Note) -> None:
    """Learns the ids of the rows that are there, and mends the end of the last."""
    end, foreign = b"", 0
    with file.path.open("rb") as lines:
        for line in lines:
            row = _row(line)
            if row is not None:
                file.know(row)
            if not line.endswith(b"\n"):
                end = line
                break
            foreign += row is None and bool(line.strip())
            file.size += len(line)
    if (foreign and not file.ids) or (end and not end.startswith((b"{", b"\0"))):
        mend = "Records are appended to files of JSON lines only: give another --output."
        raise PreftuneError("There is a file with other content.", where=str(file.path), mend=mend)
    if foreign:
        note(f"{file.path}: {foreign:,} lines are no JSON objects; they stay as they are")
    if end:
        _mend_end(file, end, note)


def _mend_end(file: GrowingFile, end: bytes, note: Note) -> None:
    if _row(end) is not None:  # whole but for the line's end
        write_all(file.descriptor, b"\n")
        file.size += len(end) + 1
    else:
        os.ftruncate(file.descriptor, file.size)
        note(f"{file.path}: the last line was half written ({len(end):,} bytes); it is cut off")
    os.fsync(file.descriptor)


def _lock(descriptor: int, path: Path) -> None:
    """Held until the file is closed; where the system or the file system has no such locks, there is none."""
    try:
        import fcntl
    except ImportError:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        mend = "Wait until it has ended, or give another --output."
        raise PreftuneError("Another process is writing it.", where=str(path), mend=mend) from error
    except OSError:
        return


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    with explained_errors(path), path.open("rb") as lines:
        for line in lines:
            row = _row(line)
            if row is not None:
                yield row


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
