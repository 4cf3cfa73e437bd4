"""The store of votes: kept at once, whole after any end, one server a file."""

import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from preftune.collect.people_items import Item
from preftune.collect.people_store import Answer, Handed, Store, open_store, reading, stored_answers
from preftune.data.records import Comparison
from preftune.errors import PreftuneError


def items(n: int, answer: str = "yes") -> list[Item]:
    return [
        Item(Comparison(prompt=f"question {k}", response_1=answer, response_2="no", id=f"q{k}"), label="first")
        for k in range(n)
    ]


def hand_and_answer(store: Store, number: int, name: str, choice: str, request: str) -> None:
    store.join(name, 1.0)
    store.hand_out(Handed(number, name, 1, "first", at=1.0, until=2.0))
    store.record(Answer(number, name, choice, seconds=1.0, at=1.5, request=request))  # type: ignore[arg-type]


def test_what_was_answered_is_there_in_the_next_session(tmp_path: Path) -> None:
    with open_store(tmp_path / "v.sqlite", seed=5) as store:
        store.take_in(items(3))
        numbers = store.numbers(is_gold=False)
        hand_and_answer(store, numbers[1], "ann", "second", "request-1")
    with open_store(tmp_path / "v.sqlite", seed=99) as store:
        assert store.seed == 5
        assert store.take_in(items(3)) == 0
        assert store.numbers(is_gold=False) == numbers
        assert store.annotators() == ["ann"]
        assert [(handed.item, handed.choice) for handed in store.handed()] == [(numbers[1], "second")]
        assert store.item(numbers[1]) == items(3)[1]


def test_a_changed_answer_keeps_the_one_before(tmp_path: Path) -> None:
    with open_store(tmp_path / "v.sqlite", seed=0) as store:
        store.take_in(items(1))
        (number,) = store.numbers(is_gold=False)
        hand_and_answer(store, number, "ann", "first", "request-1")
        hand_and_answer(store, number, "ann", "tie", "request-2")
        answer = store.answer(number, "ann")
        assert answer is not None and answer.choice == "tie"
        assert store.has_request("ann", "request-1") and store.has_request("ann", "request-2")
        assert not store.has_request("bob", "request-1")
        with reading(store.path) as connection:
            assert connection.execute("SELECT choice FROM revised").fetchall() == [("first",)]
            assert len(list(stored_answers(connection))) == 1


def test_a_second_server_on_the_same_file_is_refused(tmp_path: Path) -> None:
    with (
        open_store(tmp_path / "v.sqlite", seed=0, served_at="at http://127.0.0.1:8765"),
        pytest.raises(PreftuneError, match=r"Another server has it open \(pid \d+ on .* at http://127.0.0.1:8765\)"),
        open_store(tmp_path / "v.sqlite", seed=0),
    ):
        pass
    with open_store(tmp_path / "v.sqlite", seed=0):
        pass  # free again


def test_other_files_are_refused_and_left_as_they_are(tmp_path: Path) -> None:
    text, other = tmp_path / "text.sqlite", tmp_path / "other.sqlite"
    text.write_text("no database at all, but long enough to be looked at\n" * 50)
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE mine (x)")
    connection.close()
    for path in (text, other):
        before = path.read_bytes()
        with pytest.raises(PreftuneError), open_store(path, seed=0):
            pass
        if path is text:
            assert path.read_bytes() == before
    with sqlite3.connect(other) as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("mine",)]
    connection.close()


def test_a_row_that_changed_after_it_was_answered_is_refused(tmp_path: Path) -> None:
    with open_store(tmp_path / "v.sqlite", seed=0) as store:
        store.take_in(items(2))
        hand_and_answer(store, store.numbers(is_gold=False)[0], "ann", "first", "request-1")
        with pytest.raises(PreftuneError, match='"q0" says something else'):
            store.take_in(items(2, answer="changed"))
        assert store.item(store.numbers(is_gold=False)[0]).comparison.response_1 == "yes"


def test_rows_that_left_the_data_keep_their_answers(tmp_path: Path) -> None:
    with open_store(tmp_path / "v.sqlite", seed=0) as store:
        store.take_in(items(3))
        hand_and_answer(store, store.numbers(is_gold=False)[2], "ann", "first", "request-1")
        assert store.take_in(items(2)) == 1
        assert len(store.numbers(is_gold=False)) == 2
        with reading(store.path) as connection:
            assert len(list(stored_answers(connection))) == 1
        assert store.take_in(items(4)) == 0
        assert len(store.numbers(is_gold=False)) == 4


def test_a_full_disk_is_said_and_loses_nothing(tmp_path: Path) -> None:
    with open_store(tmp_path / "v.sqlite", seed=0) as store:
        store.take_in(items(1))
        (number,) = store.numbers(is_gold=False)
        hand_and_answer(store, number, "ann", "first", "request-1")
        store._connection.execute("PRAGMA max_page_count = 1")  # no page more than there are
        with pytest.raises(PreftuneError, match="no room left"):
            for k in range(2000):
                store.put_setting(f"filler {k}", "x" * 2000)
        assert store.answer(number, "ann") is not None
        store.put_setting("seed", "7")  # what needs no room goes on


WRITER = """
import sys
import time
from pathlib import Path
from tests.collect.test_people_store import hand_and_answer, items
from preftune.collect.people_store import open_store
with open_store(Path(sys.argv[1]), seed=0) as store:
    store.take_in(items(1000))
    numbers = store.numbers(is_gold=False)
    begin = int(sys.argv[2])
    for place in range(begin, 1000):
        hand_and_answer(store, numbers[place], "ann", "first", f"request-{place}")
        print(place, flush=True)  # acknowledged
        time.sleep(0.002)  # four lives of 0.2 seconds do not reach the last row, however fast the disk
"""


def test_every_acknowledged_answer_survives_a_killed_server(tmp_path: Path) -> None:
    path, acknowledged = tmp_path / "v.sqlite", -1
    rng = random.Random(1)
    for _ in range(4):
        command = [sys.executable, "-c", WRITER, str(path), str(acknowledged + 1)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        acknowledged = int(process.stdout.readline())
        time.sleep(rng.random() * 0.2)
        process.send_signal(signal.SIGKILL)
        acknowledged = max([acknowledged, *(int(line) for line in process.stdout.read().split("\n")[:-1])])
        process.wait()
        with open_store(path, seed=0), reading(path) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            kept = {stored.answer.request for stored in stored_answers(connection)}
        assert {f"request-{place}" for place in range(acknowledged + 1)} <= kept
        acknowledged = len(kept) - 1
