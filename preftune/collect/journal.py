"""The journal of a job: each paid answer kept under its request's key, so that nothing is paid for twice.

One SQLite file (WAL). While a process has it open, every other is refused. A killed process loses no answer that had
arrived; a power cut may lose the last ones, for a commit does not wait for the disk.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from preftune.errors import PreftuneError, StorageFullError

_FORMAT: Final = 1
_TABLES: Final = """
CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, answer TEXT NOT NULL, time REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""


def request_key(content: Mapping[str, Any]) -> str:
    """The key of a request: a hash of all that its answer depends on, whatever the order of its fields."""
    written = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=str)
    return hashlib.sha256(written.encode("utf-8", "backslashreplace")).hexdigest()


@contextmanager
def open_journal(path: Path) -> Iterator[Journal]:
    """The journal at ``path``, made where there is none.

    PreftuneError where another process has it open, where the file is no journal, and where it cannot be written.
    """
    with _explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
        try:
            _prepare(connection, path)
            yield Journal(path, connection)
        finally:
            connection.close()


class Journal:
    """An open journal: answers by key, and facts to remember by name. Values are what JSON can hold."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path, self._connection = path, connection

    def __len__(self) -> int:
        return self._connection.execute("SELECT count(*) FROM answers").fetchone()[0]

    def answer(self, key: str) -> dict[str, Any] | None:
        """The answer kept under ``key``; None where there is none, or none that can be read."""
        row = self._connection.execute("SELECT answer FROM answers WHERE key = ?", (key,)).fetchone()
        return None if row is None else _mapping(row[0])

    def keep(self, key: str, answer: Mapping[str, Any]) -> None:
        """Keeps the answer; from now on the process may be killed."""
        text = json.dumps(answer, ensure_ascii=True)
        with _explained(self.path):
            self._connection.execute("REPLACE INTO answers VALUES (?, ?, ?)", (key, text, time.time()))

    def fact(self, name: str) -> Any:
        """What was remembered under ``name``, or None."""
        row = self._connection.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return None if row is None else json.loads(row[0])

    def remember(self, name: str, value: Any) -> None:
        """Remembers a fact for the next run too."""
        with _explained(self.path):
            self._connection.execute("REPLACE INTO facts VALUES (?, ?)", (name, json.dumps(value)))

    def secret(self) -> str:
        """A number drawn when the journal was made, from which others are derived that nobody can foresee."""
        found = self.fact("secret")
        if not isinstance(found, str):
            found = secrets.token_hex(16)
            self.remember("secret", found)
        return found


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    # Exclusive: the lock is held from the first read to the end, and goes with the process however that ends.
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if version not in (0, _FORMAT) or (version == 0 and tables):
        raise PreftuneError("This SQLite file is no journal.", where=str(path), mend="Give another --journal.")
    connection.executescript(_TABLES)
    connection.execute(f"PRAGMA user_version = {_FORMAT}")


def _mapping(text: str) -> dict[str, Any] | None:
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turns what SQLite and the system say about the file into PreftuneError."""
    try:
        yield
    except sqlite3.Error as error:
        text = str(error)
        if "locked" in text:
            mend = "Wait until that one has ended, or give another --journal."
            raise PreftuneError("Another process is writing this journal.", where=str(path), mend=mend) from None
        if "full" in text:
            mend = "Free some space; what was written before is intact."
            raise StorageFullError("There is no room left to write it.", where=str(path), mend=mend) from error
        if "not a database" in text:
            mend = "Give another --journal."
            raise PreftuneError("This file is no journal.", where=str(path), mend=mend) from error
        raise PreftuneError(f"The journal cannot be used ({text}).", where=str(path)) from error
    except OSError as error:
        raise PreftuneError(f"The journal cannot be made ({error.strerror}).", where=str(path)) from error
