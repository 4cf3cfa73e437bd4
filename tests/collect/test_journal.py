"""The journal: what is kept is there after a kill, and nobody else writes it meanwhile."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from preftune.collect.journal import open_journal, request_key
from preftune.errors import PreftuneError


def test_an_answer_is_found_again_in_the_next_run(tmp_path: Path) -> None:
    place = tmp_path / "deep" / "job.journal"
    with open_journal(place) as journal:
        journal.keep("k", {"text": "ünï \ud800", "n": [1, None]})
        journal.keep("k", {"text": "the later one"})
        journal.remember("fact", {"a": 1})
        secret = journal.secret()
    with open_journal(place) as journal:
        assert len(journal) == 1
        assert journal.answer("k") == {"text": "the later one"}
        assert journal.answer("other") is None and journal.fact("other") is None
        assert journal.fact("fact") == {"a": 1}
        assert journal.secret() == secret and len(secret) == 32


def test_the_key_is_of_the_content_and_not_of_its_order() -> None:
    assert request_key({"a": 1, "b": [1, 2]}) == request_key({"b": [1, 2], "a": 1})
    assert request_key({"a": 1, "b": [1, 2]}) != request_key({"a": 1, "b": [2, 1]})
    assert request_key({"a": "\ud800"}) != request_key({"a": "\ud801"})


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    place = tmp_path / "job.journal"
    with (
        open_journal(place),
        pytest.raises(PreftuneError, match=r"job\.journal: Another process is writing"),
        open_journal(place),
    ):
        pass
    with open_journal(place) as journal:
        assert len(journal) == 0


_CHILD = """
    import os, sys
    from pathlib import Path
    from preftune.collect.journal import open_journal
    with open_journal(Path(sys.argv[1])) as journal:
        for number in range(200):
            journal.keep(str(number), {"n": number})
        print("kept", flush=True)
        sys.stdin.read()
"""


def test_a_killed_process_loses_no_answer_and_locks_nobody_out(tmp_path: Path) -> None:
    place = tmp_path / "job.journal"
    command = [sys.executable, "-c", textwrap.dedent(_CHILD), str(place)]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None and child.stdout.readline() == "kept\n"
    with pytest.raises(PreftuneError, match="Another process"), open_journal(place):
        pass
    os.kill(child.pid, signal.SIGKILL)
    child.communicate()
    with open_journal(place) as journal:
        assert [journal.answer(str(number)) for number in (0, 199)] == [{"n": 0}, {"n": 199}]
        assert len(journal) == 200


def test_a_file_that_is_no_journal_is_left_alone(tmp_path: Path) -> None:
    text = tmp_path / "pairs.jsonl"
    text.write_text('{"prompt": "p"}\n' * 100)
    before = text.read_bytes()
    with pytest.raises(PreftuneError, match="no journal"), open_journal(text):
        pass
    assert text.read_bytes() == before
    other = tmp_path / "other.db"
    connection = sqlite3.connect(other)
    connection.execute("CREATE TABLE mine (x)")
    connection.commit()
    connection.close()
    with pytest.raises(PreftuneError, match="no journal"), open_journal(other):
        pass


def test_a_damaged_answer_is_none(tmp_path: Path) -> None:
    place = tmp_path / "job.journal"
    with open_journal(place) as journal:
        journal.keep("k", {"text": "x"})
    connection = sqlite3.connect(place)
    connection.execute("UPDATE answers SET answer = '{half'")
    connection.commit()
    connection.close()
    with open_journal(place) as journal:
        assert journal.answer("k") is None
