"""The events of a log on disk, by prompt and answer, so that a log of any length and order fits into memory.

A temporary SQLite file holds each prompt and answer once and each event as a short row. It is gone when the work is
done. Nothing in it outlives the command, so nothing is synced.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from preftune.collect.log_events import LogEvent
from preftune.data.dialogues import as_messages
from preftune.data.records import Message, normal_text, readable_text
from preftune.data.row_parts import Content
from preftune.errors import PreftuneError, StorageFullError

_BATCH: Final = 2_000
_SETTINGS: Final = (
    "journal_mode = OFF",
    "synchronous = OFF",
    "locking_mode = EXCLUSIVE",
    "cache_size = -65536",  # KiB
    "temp_store = FILE",
)
_SCHEMA: Final = """
CREATE TABLE prompts (id INTEGER PRIMARY KEY, key BLOB UNIQUE, content TEXT);
CREATE TABLE answers (id INTEGER PRIMARY KEY, prompt INT, key BLOB UNIQUE, content TEXT, words INT);
CREATE TABLE aliases (name TEXT PRIMARY KEY, answer INT);
CREATE TABLE events (
    n INTEGER PRIMARY KEY, line INT, place TEXT, at REAL, kind TEXT, answer INT, alias TEXT, user TEXT, session TEXT,
    request TEXT, slice TEXT, position INT, propensity REAL, seconds REAL, edited INT, edited_text TEXT
);
"""
# An event that names no answer is about the last answer of its request, or of its session.
_RESOLVE: Final = """
UPDATE events SET answer = (SELECT answer FROM aliases WHERE name = alias) WHERE answer IS NULL AND alias IS NOT NULL;
CREATE INDEX by_request ON events (request, at, n);
CREATE INDEX by_session ON events (session, at, n);
UPDATE events SET answer = (
    SELECT e.answer FROM events e WHERE e.request = events.request AND e.answer IS NOT NULL
    AND (e.at, e.n) < (events.at, events.n) ORDER BY e.at DESC, e.n DESC LIMIT 1
) WHERE answer IS NULL AND alias IS NULL AND request IS NOT NULL AND kind != 'session_end';
UPDATE events SET answer = (
    SELECT e.answer FROM events e WHERE e.session = events.session AND e.answer IS NOT NULL
    AND (e.at, e.n) < (events.at, events.n) ORDER BY e.at DESC, e.n DESC LIMIT 1
) WHERE answer IS NULL AND alias IS NULL AND request IS NULL AND session IS NOT NULL AND kind != 'session_end';
"""
_EXPOSURES: Final = """
CREATE TABLE exposures AS
    SELECT answer, COALESCE(request, session, 'row ' || line) AS occasion, MIN(position) AS position,
           MIN(propensity) AS propensity, MAX(kind = 'click') AS clicked, MAX(kind = 'impression') AS was_shown
    FROM events WHERE kind IN ('impression', 'click') AND answer IS NOT NULL GROUP BY 1, 2;
CREATE INDEX by_answer ON events (answer, n);
CREATE INDEX exposed ON exposures (answer);
CREATE INDEX answered ON answers (prompt);
"""


class StoredEvent(NamedTuple):
    """An event as the store gives it back, its answer found; ``at`` orders events: their time, else their row."""

    answer: int
    n: int
    at: float
    kind: str
    user: str | None
    session: str | None
    request: str | None
    slice: str
    seconds: float | None
    words: int
    edited: int | None


class LogStore:
    """Events, put in row by row and asked for by prompt once ``finish`` was called."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.sql = connection
        self._waiting: list[tuple[Any, ...]] = []
        self._n, self._at, self.is_timed, self.renamed = 0, 0.0, False, 0
        self._run(_SCHEMA)

    def add(self, events: Iterable[LogEvent], line: int, place: str) -> None:
        """Keeps the events of one row; ``line`` is the row's number, ``place`` what the user calls it."""
        for event in events:
            answer = None if event.answer is None or event.prompt is None else self._answer(event.prompt, event.answer)
            if answer is not None and event.answer_id is not None:
                self._name(event.answer_id, answer)
            edited, later = None, None
            if event.edited is not None and event.prompt is not None:
                edited = self._answer(event.prompt, event.edited)
            elif event.edited is not None:
                later = _packed(event.edited)  # its prompt is known once its answer is
            self._at = self._moment(event.time, line)
            self._n += 1
            self._waiting.append(
                (
                    *(self._n, line, place, self._at, event.kind, answer, event.answer_id, event.user, event.session),
                    *(event.request, event.slice, event.position, event.propensity, event.seconds, edited, later),
                )
            )
        if len(self._waiting) >= _BATCH:
            self._flush()

    def finish(self) -> list[tuple[int, str]]:
        """Finds the answer of each event that does not hold it; gives the rows whose answer stays unknown."""
        self._flush()
        self._run(_RESOLVE)
        self._finish_edits()
        unknown = "answer IS NULL AND kind != 'session_end'"
        rows = self.sql.execute(f"SELECT DISTINCT line, place FROM events WHERE {unknown} ORDER BY line").fetchall()
        self.sql.execute(f"DELETE FROM events WHERE {unknown}")
        self._run(_EXPOSURES)
        return rows

    def prompts(self) -> Iterator[int]:
        """The number of each prompt."""
        return (number for (number,) in self.sql.execute("SELECT id FROM prompts ORDER BY id"))

    def judging(self, prompt: int) -> list[StoredEvent]:
        """The events about a prompt's answers that say something by themselves, in the order in which they happened.

        Impressions and clicks, of which one prompt may have millions, are counted by the store instead.
        """
        rows = self.sql.execute(
            "SELECT e.answer, e.n, e.at, e.kind, e.user, e.session, e.request, e.slice, e.seconds, a.words, e.edited"
            " FROM answers a CROSS JOIN events e ON e.answer = a.id"
            " WHERE a.prompt = ? AND e.kind NOT IN ('impression', 'click') ORDER BY e.at, e.n",
            (prompt,),
        )
        return [StoredEvent(*row) for row in rows]

    def answers_beside(self, event: StoredEvent, occasion: Literal["request", "session"], prompt: int) -> list[int]:
        """The prompt's answers in the event's request or session, in the order in which they appeared."""
        name = getattr(event, occasion)
        if name is None:
            return []
        rows = self.sql.execute(
            f"SELECT e.answer FROM events e CROSS JOIN answers a ON a.id = e.answer"
            f" WHERE e.{occasion} = ? AND a.prompt = ? ORDER BY e.at, e.n",
            (name, prompt),
        )
        return list(dict.fromkeys(answer for (answer,) in rows))

    def content(self, table: str, number: int) -> Content:
        """The prompt or answer of this number; ``table`` is ``prompts`` or ``answers``."""
        (packed,) = self.sql.execute(f"SELECT content FROM {table} WHERE id = ?", (number,)).fetchone()
        return _unpacked(packed)

    def rows(self, query: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        """The rows of a query."""
        return self.sql.execute(query, values)

    def _run(self, script: str) -> None:
        """Runs statements and begins a new transaction: one a statement would cost more than the statements."""
        self.sql.executescript(script)
        self.sql.execute("BEGIN")

    def _moment(self, time: float | None, line: int) -> float:
        """The time by which events are ordered; an event without one happened when the one before it did."""
        if time is not None:
            self.is_timed = True
            return time
        return self._at if self.is_timed else float(line)

    def _flush(self) -> None:
        self.sql.executemany(f"INSERT INTO events VALUES ({','.join('?' * 16)})", self._waiting)
        self._waiting.clear()

    def _prompt(self, prompt: Content) -> int:
        key = _key(prompt)
        found = self.sql.execute("SELECT id FROM prompts WHERE key = ?", (key,)).fetchone()
        if found:
            return found[0]
        cursor = self.sql.execute("INSERT INTO prompts (key, content) VALUES (?, ?)", (key, _packed(prompt)))
        return int(cursor.lastrowid or 0)

    def _answer(self, prompt: Content, answer: Content) -> int:
        return self._answer_to(self._prompt(prompt), answer)

    def _answer_to(self, prompt: int, answer: Content) -> int:
        key = hashlib.blake2b(_key(answer), key=str(prompt).encode(), digest_size=16).digest()
        found = self.sql.execute("SELECT id FROM answers WHERE key = ?", (key,)).fetchone()
        if found:
            return found[0]
        words = len(readable_text(answer).split())
        values = (prompt, key, _packed(answer), words)
        cursor = self.sql.execute("INSERT INTO answers (prompt, key, content, words) VALUES (?, ?, ?, ?)", values)
        return int(cursor.lastrowid or 0)

    def _name(self, name: str, answer: int) -> None:
        known = self.sql.execute("SELECT answer FROM aliases WHERE name = ?", (name,)).fetchone()
        if known is None:
            self.sql.execute("INSERT INTO aliases VALUES (?, ?)", (name, answer))
        elif known[0] != answer:
            self.renamed += 1

    def _finish_edits(self) -> None:
        """The edited texts whose prompt was not in their row."""
        waiting = self.sql.execute(
            "SELECT e.n, a.prompt, a.content, e.edited_text FROM events e JOIN answers a ON a.id = e.answer"
            " WHERE e.edited_text IS NOT NULL"
        ).fetchall()
        for n, prompt, original, packed in waiting:
            edited = _unpacked(packed)
            if not isinstance(_unpacked(original), str):
                edited = as_messages(edited, "assistant")
            self.sql.execute("UPDATE events SET edited = ? WHERE n = ?", (self._answer_to(prompt, edited), n))


@contextmanager
def open_store(folder: Path) -> Iterator[LogStore]:
    """An empty store in a temporary folder under ``folder``, where the disk has room for a copy of the texts."""
    try:
        with tempfile.TemporaryDirectory(prefix=".preftune-log-", dir=folder) as place:
            connection = sqlite3.connect(Path(place) / "log.sqlite", isolation_level=None)
            try:
                for setting in _SETTINGS:
                    connection.execute(f"PRAGMA {setting}")
                yield LogStore(connection)
            finally:
                connection.close()
    except sqlite3.OperationalError as error:
        if "full" not in str(error) and "disk I/O" not in str(error):
            raise
        mend = "Free some space: the log's texts are kept once while it is read."
        raise StorageFullError("There is no room left for the log's events.", where=str(folder), mend=mend) from error
    except OSError as error:
        raise PreftuneError(
            f"No temporary folder can be made: {error.strerror}.", where=str(folder), mend="Choose another --output."
        ) from error


def _key(content: Content) -> bytes:
    kind = b"t" if isinstance(content, str) else b"m"
    return kind + hashlib.blake2b(normal_text(content).encode(), digest_size=16).digest()


def _packed(content: Content) -> str:
    return json.dumps(content if isinstance(content, str) else [turn.as_row() for turn in content])


def _unpacked(packed: str) -> Content:
    value = json.loads(packed)
    return value if isinstance(value, str) else tuple(Message.model_validate(turn) for turn in value)
