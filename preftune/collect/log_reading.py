"""Reading a log into the store: every row is used, ignored by the mapping, or left out with its reason."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import Any, Final, NamedTuple

from preftune.collect.log_events import LogEvent, UnknownEvent, column_names, events_of_row, found_paths
from preftune.collect.log_mapping import LogMapping, nearest
from preftune.collect.log_store import LogStore
from preftune.data.row_parts import RowProblem
from preftune.data.sources import RawRow, numbered_rows, open_place
from preftune.errors import PreftuneError

EXCLUDED: Final = "excluded-user"
UNKNOWN_ANSWER: Final = "unknown-answer"
_FIRST_ROWS: Final = 1_000  # by then each column that must be there was seen
_NAMED_ROWS: Final = 50  # whose columns are listed where one is not found
_MOST_NAMES: Final = 200  # names of unknown events that are told apart
_RAW_LENGTH: Final = 300


class FirstOfReason(NamedTuple):
    """The first row that was left out for a reason."""

    where: str
    field: str | None
    mend: str


@dataclass(frozen=True)
class LogReading:
    """What became of the rows: ``used`` gave events, ``ignored`` hold only what the mapping ignores.

    ``left_out`` counts the rest by reason, ``firsts`` holds the first of each. ``unknown_events`` counts the names that
    the mapping does not translate; ``absent`` are the mapping's keys whose paths no row has, with near columns.
    """

    source: str
    read: int
    used: int
    ignored: int
    left_out: dict[str, int]
    firsts: dict[str, FirstOfReason]
    unknown_events: dict[str, int]
    absent: dict[str, str]


def read_log(
    logs: str | PathLike[str] | Iterable[object],
    mapping: LogMapping,
    store: LogStore,
    *,
    split: str = "train",
    limit: int | None = None,
    advance: Callable[[int], object] | None = None,
) -> LogReading:
    """Puts a log's events into the store, which is then finished.

    Raises PreftuneError where the log cannot be opened, where a column that every event needs is in no row, and where
    no row can be used. A bad row among good ones is no error. ``advance`` is told of rows read, some at a time.
    """
    if limit is not None and limit < 1:
        raise PreftuneError(f"limit is {limit}.", mend="Give a number of rows above zero, or leave it out.")
    in_file = isinstance(logs, str | PathLike)
    rows: Iterator[RawRow] = open_place(logs, split) if in_file else numbered_rows(logs)  # type: ignore[arg-type]
    source = Path(logs).name if in_file else "the log"  # type: ignore[arg-type]
    store.sql.execute("CREATE TABLE left_out (line INT, place TEXT, field TEXT, reason TEXT, mend TEXT, raw TEXT)")
    seen = _Seen(mapping)
    read = ignored = 0
    unknown: Counter[str] = Counter()
    for line, raw in enumerate(islice(rows, limit), 1):
        read = line
        seen.look(raw.value, line)
        try:
            events = _events(raw, mapping)
            store.add(events, line, raw.where)
            ignored += not events
        except RowProblem as problem:
            _leave_out(store, line, raw.where, problem, raw.value)
            if isinstance(problem, UnknownEvent):
                name = problem.name[:60]
                unknown[name if name in unknown or len(unknown) < _MOST_NAMES else "(others)"] += 1
        if advance is not None and line % 1_000 == 0:
            advance(1_000)
    seen.refuse_absent()
    for line, place in store.finish():
        _leave_out(store, line, place, _no_answer(), None)
    counts = dict(store.rows("SELECT reason, COUNT(*) FROM left_out GROUP BY reason ORDER BY COUNT(*) DESC, reason"))
    reading = LogReading(
        source=source,
        read=read,
        used=read - ignored - sum(counts.values()),
        ignored=ignored,
        left_out=counts,
        firsts={reason: _first(store, reason) for reason in counts},
        unknown_events=dict(unknown.most_common()),
        absent=seen.absent(),
    )
    if not reading.used:
        raise _nothing_usable(reading)
    return reading


def write_left_out(store: LogStore, path: Path) -> None:
    """Writes the rows left out as JSON lines, with place, field, reason, mend and the row's beginning."""
    names = ("where", "field", "reason", "mend", "raw")
    rows = store.rows("SELECT place, field, reason, mend, raw FROM left_out ORDER BY line")
    try:
        with path.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=False) + "\n" for row in rows)
    except OSError as error:
        what = f"The rows left out cannot be written: {error.strerror}."
        raise PreftuneError(what, where=str(path), mend="Give another path.") from error


def _events(raw: RawRow, mapping: LogMapping) -> list[LogEvent]:
    if raw.problem is not None:
        raise raw.problem
    events = events_of_row(raw.value, mapping)
    if mapping.exclude_users and any(event.user in mapping.exclude_users for event in events):
        raise RowProblem(EXCLUDED, "user", "The mapping excludes this user; take the name from exclude_users.")
    return events


class _Seen:
    """Which of the mapping's paths lead to something, and what columns there are beside."""

    def __init__(self, mapping: LogMapping) -> None:
        self._mapping, self._missing = mapping, mapping.paths()
        self._columns: dict[str, None] = {}

    def look(self, row: object, line: int) -> None:
        if line <= _NAMED_ROWS:
            self._columns.update(dict.fromkeys(column_names(row)))
        if self._missing:
            for key in found_paths(row, self._mapping, self._missing):
                self._missing.pop(key, None)
        if line == _FIRST_ROWS:
            self.refuse_absent()

    def refuse_absent(self) -> None:
        """PreftuneError where a column that every event needs was in no row so far."""
        needed = [key for key in ("each", "fields.prompt", "fields.answer", "fields.event") if key in self._missing]
        signals = [key for key in self._mapping.paths() if key.startswith("signals.")]
        if not self._mapping.fields.event and signals and all(key in self._missing for key in signals):
            needed += signals
        if not needed or not self._columns:
            return
        errors = [self._error(key) for key in needed]
        raise errors[0] if len(errors) == 1 else PreftuneError("\n".join(map(str, errors)))

    def absent(self) -> dict[str, str]:
        """The keys whose paths no row has, with the nearest columns."""
        return {key: self._near(path) for key, path in self._missing.items()}

    def _near(self, path: str) -> str:
        return nearest(path, list(self._columns))

    def _error(self, key: str) -> PreftuneError:
        path = self._missing[key]
        what = f"{key.removeprefix('fields.').removeprefix('signals.')} is mapped to {path}, which is in no row."
        where = self._mapping.places.get(key, self._mapping.name)
        return PreftuneError(what, where=where, mend=f"Near it in the log: {self._near(path)}.")


def _leave_out(store: LogStore, line: int, place: str, problem: RowProblem, value: object) -> None:
    raw = "" if value is None else _shortened(value)
    values = (line, place, problem.field, problem.reason, problem.mend, raw)
    store.sql.execute("INSERT INTO left_out VALUES (?, ?, ?, ?, ?, ?)", values)


def _no_answer() -> RowProblem:
    mend = "Give the row its answer, or an answer_id, request or session of which an earlier row holds the answer."
    return RowProblem(UNKNOWN_ANSWER, "answer", mend)


def _first(store: LogStore, reason: str) -> FirstOfReason:
    query = "SELECT place, field, mend FROM left_out WHERE reason = ? ORDER BY line LIMIT 1"
    return FirstOfReason(*store.rows(query, (reason,)).fetchone())


def _shortened(value: Any) -> str:
    try:
        text = value.decode(errors="replace") if isinstance(value, bytes) else json.dumps(value, default=str)
    except (TypeError, ValueError, RecursionError):
        text = f"<{type(value).__name__}>"
    text = text.encode(errors="replace").decode()
    return text if len(text) <= _RAW_LENGTH else text[: _RAW_LENGTH - 1] + "…"


def _nothing_usable(reading: LogReading) -> PreftuneError:
    if not reading.read:
        return PreftuneError("There are no rows.", where=reading.source, mend="Give a log with at least one event.")
    if not reading.left_out:
        what = f"All {reading.read:,} rows hold only events that the mapping ignores."
        return PreftuneError(what, where=reading.source, mend="Translate at least one event in the mapping.")
    reason, count = next(iter(reading.left_out.items()))
    first = reading.firsts[reason]
    what = f"None of {reading.read:,} rows can be used; {count:,} for {reason}, first at {first.where}."
    return PreftuneError(what, where=reading.source, mend=first.mend)
