"""The votes of people in one SQLite file: committed before they are acknowledged, one server a file.

Plain sqlite3: five tables and a dozen statements need no mapper, and the file stays readable with any tool.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import astuple, dataclass
from itertools import count
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from filelock import FileLock, Timeout

from preftune.collect.people_items import Item, drawn
from preftune.data.records import Choice, Comparison
from preftune.durable import FULL, explained_errors
from preftune.errors import PreftuneError, StorageFullError

Answered: TypeAlias = Choice | Literal["skip"]
Side: TypeAlias = Literal["first", "second"]

_VERSION: Final = 1
_APPLICATION: Final = 0x70667431  # "pft1": SQLite files of other programs are refused
_BUSY_SECONDS: Final = 10

_SCHEMA: Final = """
CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE items (
  number INTEGER PRIMARY KEY,             -- drawn from the id: it tells an annotator nothing
  id TEXT NOT NULL UNIQUE,
  place INTEGER NOT NULL,                 -- in the data
  is_gold INTEGER NOT NULL,
  in_data INTEGER NOT NULL,               -- 0 where the data that was last opened lacks it
  label TEXT,                             -- what the data says, or the right answer of gold
  digest TEXT NOT NULL,
  content TEXT NOT NULL                   -- the comparison as JSON
);
CREATE TABLE annotators (name TEXT PRIMARY KEY, joined REAL NOT NULL);
CREATE TABLE handed (
  item INTEGER NOT NULL REFERENCES items,
  annotator TEXT NOT NULL REFERENCES annotators,
  turn INTEGER NOT NULL,                  -- the annotator's first, second, ... item
  shown_first TEXT NOT NULL CHECK (shown_first IN ('first', 'second')),
  at REAL NOT NULL,                       -- seconds since 1970
  until REAL NOT NULL,                    -- kept free for this annotator so long
  PRIMARY KEY (item, annotator)
);
CREATE TABLE answers (
  item INTEGER NOT NULL,
  annotator TEXT NOT NULL,
  choice TEXT NOT NULL CHECK (choice IN ('first', 'second', 'tie', 'both_bad', 'skip')),
  strength INTEGER CHECK (strength BETWEEN 1 AND 3),
  reason TEXT,
  seconds REAL NOT NULL,
  at REAL NOT NULL,
  request TEXT NOT NULL,                  -- named by the page, so that what is sent twice counts once
  PRIMARY KEY (item, annotator),
  UNIQUE (annotator, request),
  FOREIGN KEY (item, annotator) REFERENCES handed
);
CREATE TABLE revised (                    -- answers that their annotator changed, as they were
  item INTEGER NOT NULL, annotator TEXT NOT NULL, choice TEXT NOT NULL, strength INTEGER, reason TEXT,
  seconds REAL NOT NULL, at REAL NOT NULL, request TEXT NOT NULL,
  UNIQUE (annotator, request)
);
CREATE INDEX items_by_place ON items (in_data, is_gold, place);
CREATE INDEX handed_by_turn ON handed (annotator, turn);
"""


@dataclass(frozen=True)
class Answer:
    """What one annotator says of one item, in terms of the record: "first" is ``response_1``; times in seconds."""

    item: int
    annotator: str
    choice: Answered
    seconds: float
    at: float
    request: str
    strength: int | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Handed:
    """An item as it was handed to an annotator; ``shown_first`` is the response that stood first."""

    item: int
    annotator: str
    turn: int
    shown_first: Side
    at: float
    until: float
    choice: Answered | None = None


@dataclass(frozen=True)
class StoredAnswer:
    """An answer with what is needed to write and to count it."""

    answer: Answer
    shown_first: Side
    is_gold: bool
    label: Choice | None


@contextmanager
def open_store(path: Path, *, seed: int, served_at: str = "") -> Iterator[Store]:
    """The store at ``path``, made if absent, and nobody else's until the block ends or the process dies.

    ``seed`` counts for a new store only; one that is there keeps its own. Raises PreftuneError where another server
    has it open, where the file is no such store, and where the place cannot be written.
    """
    lock = _claim(path)
    try:
        with _explained(path), closing(_connect(path)) as connection:
            _prepare(connection, path, seed)
            store = Store(connection, path)
            store.put_setting("server", f"pid {os.getpid()} on {socket.gethostname()} {served_at}".strip())
            yield store
    finally:
        lock.release()


class Store:
    """The open file. One thread writes; each method that changes something is one transaction, on disk when it ends."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection, self.path = connection, path

    @property
    def seed(self) -> int:
        """The seed by which sides, order and gold are drawn."""
        return int(self.setting("seed") or 0)

    def setting(self, name: str) -> str | None:
        """A value kept with the votes; None where it was never put."""
        found = self._connection.execute("SELECT value FROM settings WHERE name = ?", (name,)).fetchone()
        return found[0] if found else None

    def put_setting(self, name: str, value: str) -> None:
        """Keeps a value with the votes."""
        with self._transaction() as run:
            run("INSERT OR REPLACE INTO settings VALUES (?, ?)", (name, value))

    def take_in(self, items: Sequence[Item]) -> int:
        """Makes these the items to hand out and gives how many with answers are no longer among them.

        What the store knew and the data lacks stays with its answers. Raises PreftuneError where an item that has
        answers says something else now.
        """
        known = {row[0]: row[1:] for row in self._connection.execute("SELECT id, number, digest FROM items")}
        taken, seed = {number for number, _ in known.values()}, self.seed
        with self._transaction() as run:
            run("UPDATE items SET in_data = 0")
            for place, item in enumerate(items):
                row = item.comparison.as_row()
                content, digest = json.dumps(row, ensure_ascii=False, default=str), _digest(row)
                values = (place, item.is_gold, item.label, digest, content)
                if item.id not in known:
                    number = _number(seed, item.id, taken)
                    run("INSERT INTO items VALUES (?, ?, ?, ?, 1, ?, ?, ?)", (number, item.id, *values))
                    continue
                number, before = known[item.id]
                if before != digest:
                    self._refuse_if_answered(number, item)
                run(
                    "UPDATE items SET place = ?, is_gold = ?, label = ?, digest = ?, content = ?, in_data = 1"
                    " WHERE number = ?",
                    (*values, number),
                )
        left = "SELECT count(DISTINCT item) FROM answers JOIN items ON number = item WHERE in_data = 0"
        return self._connection.execute(left).fetchone()[0]

    def numbers(self, *, is_gold: bool) -> list[int]:
        """The items to hand out, in the data's order."""
        query = "SELECT number FROM items WHERE in_data = 1 AND is_gold = ? ORDER BY place"
        return [row[0] for row in self._connection.execute(query, (is_gold,))]

    def item(self, number: int) -> Item:
        """The item of this number."""
        query = "SELECT content, label, is_gold FROM items WHERE number = ?"
        content, label, is_gold = self._connection.execute(query, (number,)).fetchone()
        return Item(Comparison.model_validate(json.loads(content)), label, bool(is_gold))

    def annotators(self) -> list[str]:
        """The names, in the order of joining."""
        return [row[0] for row in self._connection.execute("SELECT name FROM annotators ORDER BY joined, name")]

    def join(self, name: str, now: float) -> None:
        """Makes the name one of the annotators'."""
        with self._transaction() as run:
            run("INSERT OR IGNORE INTO annotators VALUES (?, ?)", (name, now))

    def hand_out(self, handed: Handed) -> None:
        """Keeps that an item was handed to an annotator, or for how much longer."""
        with self._transaction() as run:
            run(
                "INSERT INTO handed VALUES (?, ?, ?, ?, ?, ?)"
                " ON CONFLICT (item, annotator) DO UPDATE SET until = excluded.until",
                (handed.item, handed.annotator, handed.turn, handed.shown_first, handed.at, handed.until),
            )

    def handed(self) -> Iterator[Handed]:
        """All that was handed out, with the choice where there is one, in the order in which it was."""
        query = f"{_HANDED} ORDER BY h.at, h.turn"
        return (Handed(*row) for row in self._connection.execute(query))

    def handed_to(self, annotator: str, item: int) -> Handed | None:
        """How an item was handed to an annotator; None where it was not."""
        found = self._connection.execute(
            f"{_HANDED} WHERE h.annotator = ? AND h.item = ?", (annotator, item)
        ).fetchone()
        return Handed(*found) if found else None

    def answered_before(self, annotator: str, turn: int | None) -> Handed | None:
        """The last item that this annotator answered, before the turn where one is given."""
        query = f"{_HANDED} WHERE h.annotator = ? AND a.choice IS NOT NULL AND h.turn < ? ORDER BY h.turn DESC LIMIT 1"
        found = self._connection.execute(query, (annotator, 2**62 if turn is None else turn)).fetchone()
        return Handed(*found) if found else None

    def answer(self, item: int, annotator: str) -> Answer | None:
        """What an annotator says of an item now."""
        query = f"SELECT {_ANSWER} FROM answers WHERE item = ? AND annotator = ?"
        found = self._connection.execute(query, (item, annotator)).fetchone()
        return Answer(*found) if found else None

    def has_request(self, annotator: str, request: str) -> bool:
        """Whether this annotator's answer of this name was recorded before."""
        tables = ("answers", "revised")
        query = " UNION ALL ".join(f"SELECT 1 FROM {table} WHERE annotator = ?1 AND request = ?2" for table in tables)
        return self._connection.execute(query, (annotator, request)).fetchone() is not None

    def record(self, answer: Answer) -> None:
        """Keeps an answer; one that it takes the place of stays among the revised."""
        with self._transaction() as run:
            key = (answer.item, answer.annotator)
            run(f"INSERT INTO revised ({_ANSWER}) SELECT {_ANSWER} FROM answers WHERE item = ? AND annotator = ?", key)
            run(_RECORD, astuple(answer))

    def _refuse_if_answered(self, number: int, item: Item) -> None:
        if self._connection.execute("SELECT 1 FROM answers WHERE item = ?", (number,)).fetchone():
            raise PreftuneError(
                f'The row "{item.id[:80]}" says something else than when people answered it.',
                where=str(self.path),
                mend="Give the data as it was, the changed row another id, or another --output.",
            )

    @contextmanager
    def _transaction(self) -> Iterator[Any]:
        with _explained(self.path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection.execute
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise


@contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection of one's own that sees the store as it is at this moment, for another thread to read by."""
    with _explained(path), closing(_open(path)) as connection:
        connection.execute("PRAGMA query_only = ON")
        connection.execute("BEGIN")
        yield connection


def stored_answers(connection: sqlite3.Connection) -> Iterator[StoredAnswer]:
    """All answers, gold and skips among them, item by item in the data's order, and as they were given."""
    query = f"""
      SELECT {", ".join(f"a.{name.strip()}" for name in _ANSWER.split(","))}, h.shown_first, i.is_gold, i.label
      FROM answers a JOIN handed h ON h.item = a.item AND h.annotator = a.annotator JOIN items i ON i.number = a.item
      ORDER BY i.is_gold, i.in_data DESC, i.place, a.item, a.at
    """
    for *answer, shown_first, is_gold, label in connection.execute(query):
        yield StoredAnswer(Answer(*answer), shown_first, bool(is_gold), label)


def stored_content(connection: sqlite3.Connection, number: int) -> dict[str, Any]:
    """The comparison of an item as a plain dict, without the votes of this store."""
    return json.loads(connection.execute("SELECT content FROM items WHERE number = ?", (number,)).fetchone()[0])


def _claim(path: Path) -> FileLock:
    with explained_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # The lock is a file of its own: SQLite's would keep every other tool from reading the store meanwhile.
        lock = FileLock(path.with_name(path.name + ".lock"), thread_local=False)
        try:
            lock.acquire(blocking=False)
        except Timeout as error:
            raise PreftuneError(
                f"Another server has it open ({_holder(path)}).",
                where=str(path),
                mend="Use its page, stop it, or choose another --output.",
            ) from error
    return lock


def _holder(path: Path) -> str:
    try:
        with closing(_open(path)) as connection:
            row = connection.execute("SELECT value FROM settings WHERE name = 'server'").fetchone()
            return row[0] if row else "just starting"
    except (OSError, sqlite3.Error):
        return "just starting"


def _open(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)


def _connect(path: Path) -> sqlite3.Connection:
    connection = _open(path)
    # FULL: with WAL alone, votes that were acknowledged could be lost to a power cut.
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {pragma}")
    return connection


def _prepare(connection: sqlite3.Connection, path: Path, seed: int) -> None:
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    is_new = not connection.execute("SELECT 1 FROM sqlite_master").fetchone()
    if is_new:
        seeded = f"INSERT INTO settings VALUES ('seed', '{int(seed)}');"
        marked = f"PRAGMA application_id = {_APPLICATION}; PRAGMA user_version = {_VERSION};"
        connection.executescript(f"BEGIN IMMEDIATE;{_SCHEMA}{seeded}{marked}COMMIT;")
        return
    if (application, version) != (_APPLICATION, _VERSION):
        raise PreftuneError(
            "This SQLite file holds no votes that this version can read.",
            where=str(path),
            mend="Choose another --output; the file is left as it is.",
        )


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorname", "")
        if code == "SQLITE_FULL" or getattr(error.__cause__, "errno", None) in FULL:
            raise StorageFullError(
                "There is no room left to write it.",
                where=str(path),
                mend="Free some space; what was written before is intact.",
            ) from error
        raise PreftuneError(
            f"The store of votes cannot be used ({error}).",
            where=str(path),
            mend="Keep it on a local disk that can be written; a damaged file can be mended with `sqlite3 .recover`.",
        ) from error


def _digest(row: dict[str, Any]) -> str:
    content = [row[name] for name in ("prompt", "response_1", "response_2")]
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:32]


def _number(seed: int, name: str, taken: set[int]) -> int:
    """A number of the item's own, equal in every store with this seed, that JavaScript can hold exactly."""
    tries = (drawn(seed, "number", name, attempt) >> 12 for attempt in count())
    number = next(number for number in tries if number not in taken)
    taken.add(number)
    return number


_ANSWER: Final = "item, annotator, choice, seconds, at, request, strength, reason"
_RECORD: Final = f"""
INSERT INTO answers ({_ANSWER}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (item, annotator) DO UPDATE SET choice = excluded.choice, seconds = excluded.seconds, at = excluded.at,
  request = excluded.request, strength = excluded.strength, reason = excluded.reason
"""
_HANDED: Final = """
SELECT h.item, h.annotator, h.turn, h.shown_first, h.at, h.until, a.choice
FROM handed h LEFT JOIN answers a ON a.item = h.item AND a.annotator = h.annotator
"""
