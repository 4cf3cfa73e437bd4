"""Records that are there or not there, never half there; and never made twice."""

from __future__ import annotations

import errno
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from preftune.collect import writing
from preftune.collect.writing import FAILED, LeftOut, item_id, left_out_file, open_growing, provenance, write_in_blocks
from preftune.data.records import PromptRecord
from preftune.errors import PreftuneError, StorageFullError
from tests.tiny_world import read_rows

ITEMS = {f"item-{number}": number for number in range(10)}


def make(members: Sequence[tuple[str, int]], block: int) -> list[Any]:
    """Multiples of four are left out; the rest say which block and place they were made in."""
    return [
        LeftOut(name, "even-odder", "Give another.", {"number": number})
        if number % 4 == 0
        else {"id": name, "text": f"ü {number}", "made": [block, place]}
        for place, (name, number) in enumerate(members)
    ]


def test_every_item_is_one_row_made_or_left_out(tmp_path: Path) -> None:
    told: list[int] = []
    written = write_in_blocks(tmp_path / "new" / "a.jsonl", ITEMS, make, block=3, done=told.append)
    assert [row["id"] for row in written.made] == [f"item-{n}" for n in range(10) if n % 4]
    assert written.reasons() == {"even-odder": 3} and written.new == 10
    assert told == [3, 3, 3, 1]
    assert read_rows(tmp_path / "new" / "a.jsonl") == list(written.made)
    assert read_rows(tmp_path / "new" / "a.left-out.jsonl") == list(written.left_out)


def test_what_is_there_is_not_made_again(tmp_path: Path) -> None:
    output, calls = tmp_path / "a.jsonl", list[int]()

    def counted(members: Sequence[tuple[str, int]], block: int) -> list[Any]:
        calls.append(block)
        return make(members, block)

    first = write_in_blocks(output, ITEMS, counted, block=3)
    again = write_in_blocks(output, ITEMS, counted, block=3)
    assert calls == [0, 1, 2, 3]
    assert again.made == first.made and again.left_out == first.left_out and again.new == 0


@pytest.mark.parametrize("file", ["a.jsonl", "a.left-out.jsonl"])
def test_a_run_killed_at_any_byte_ends_as_one_that_was_not(tmp_path: Path, file: str) -> None:
    whole = tmp_path / "whole" / "a.jsonl"
    write_in_blocks(whole, ITEMS, make, block=4)
    content = (whole.parent / file).read_bytes()
    for end in range(0, len(content), 7):
        folder = tmp_path / f"cut-{end}"
        write_in_blocks(folder / "a.jsonl", dict(list(ITEMS.items())[:8]), make, block=4)
        (folder / file).write_bytes(content[:end])
        notes: list[str] = []
        write_in_blocks(folder / "a.jsonl", ITEMS, make, block=4, note=notes.append)
        for name in ("a.jsonl", "a.left-out.jsonl"):
            assert sorted(read_rows(folder / name), key=str) == sorted(read_rows(whole.parent / name), key=str)
        is_clean = end == 0 or content[:end].endswith(b"\n") or content[end : end + 1] == b"\n"
        assert bool(notes) is not is_clean


def test_the_half_line_is_cut_off_and_said(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"id": "1"}\n{"id": "2", "te')
    notes: list[str] = []
    with open_growing(path, notes.append) as file:
        assert file.ids == {"1"}
        file.append([{"id": "3"}])
    assert read_rows(path) == [{"id": "1"}, {"id": "3"}]
    assert notes == [f"{path}: the last line was half written (15 bytes); it is cut off"]


def test_a_last_line_that_lacks_only_its_end_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"id": "1"}\n{"id": "2"}')
    notes: list[str] = []
    with open_growing(path, notes.append) as file:
        file.append([{"id": "3"}])
    assert [row["id"] for row in read_rows(path)] == ["1", "2", "3"] and not notes


@pytest.mark.parametrize("content", [b"my notes\nof the day\n", b"a line without end", b"a,b\n1,2"])
def test_a_file_of_something_else_is_refused_and_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    with pytest.raises(PreftuneError, match=r"other content.*another --output"), open_growing(path, print):
        pass
    assert path.read_bytes() == content


def test_lines_that_are_no_rows_stay_and_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"id": "1"}\n{"id": broken\n')
    notes: list[str] = []
    with open_growing(path, notes.append) as file:
        file.append([{"id": "2"}])
    assert path.read_bytes() == b'{"id": "1"}\n{"id": broken\n{"id": "2"}\n'
    assert "1 lines are no JSON objects" in notes[0]


def test_one_file_has_one_writer(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    refused = pytest.raises(PreftuneError, match="Another process is writing it")
    with open_growing(path, print), refused, open_growing(path, print):
        pass
    with open_growing(path, print) as file:
        file.append([{"id": "1"}])


def test_a_write_that_fails_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.jsonl"

    def half(descriptor: int, data: bytes) -> None:
        write_all(descriptor, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    write_all = writing.write_all
    with open_growing(path, print) as file:
        file.append([{"id": "1"}])
        monkeypatch.setattr(writing, "write_all", half)
        with pytest.raises(StorageFullError):
            file.append([{"id": "2"}])
        monkeypatch.setattr(writing, "write_all", write_all)
        assert "2" not in file.ids
        file.append([{"id": "3"}])
    assert read_rows(path) == [{"id": "1"}, {"id": "3"}]


def test_what_failed_is_tried_again_and_the_last_row_counts(tmp_path: Path) -> None:
    output = tmp_path / "a.jsonl"

    def down(members: Sequence[tuple[str, int]], block: int) -> list[Any]:
        return [LeftOut(name, FAILED, "Run it again.") for name, _ in members]

    assert write_in_blocks(output, ITEMS, down, block=5).reasons() == {FAILED: 10}
    assert write_in_blocks(output, ITEMS, down, block=5).reasons() == {FAILED: 10}
    written = write_in_blocks(output, ITEMS, make, block=5)
    assert len(written.made) == 7 and written.reasons() == {"even-odder": 3}


def test_a_block_is_made_again_as_a_whole_and_only_what_lacked_is_written(tmp_path: Path) -> None:
    output = tmp_path / "a.jsonl"
    write_in_blocks(output, ITEMS, make, block=5)
    rows = read_rows(output)
    lost = next(row for row in rows if row["id"] == "item-7")
    output.write_text("".join(json.dumps(row) + "\n" for row in rows if row is not lost))
    again = write_in_blocks(output, ITEMS, make, block=5)
    assert next(row for row in again.made if row["id"] == "item-7") == lost
    assert len(read_rows(output)) == len(rows) and again.new == 1


def test_rows_of_other_jobs_stay_and_do_not_count(tmp_path: Path) -> None:
    output = tmp_path / "a.jsonl"
    write_in_blocks(output, {"other": 1}, make, block=5)
    written = write_in_blocks(output, ITEMS, make, block=5)
    assert len(written.made) == 7 and len(read_rows(output)) == 8
    assert left_out_file(output).name == "a.left-out.jsonl"


def test_ids_follow_from_the_job_and_from_what_is_asked() -> None:
    one, two = PromptRecord(prompt="one", id="same"), PromptRecord(prompt="two", id="same")
    names = {item_id(job, record) for job in ({"seed": 1}, {"seed": 2}) for record in (one, two)}
    assert len(names) == 4 and all(int(name, 16) >= 0 and len(name) == 16 for name in names)
    assert item_id({"seed": 1}, one) in names


def test_every_record_says_where_it_comes_from() -> None:
    source = provenance("constitution", model="m", prompt_version="v", rounds=2)
    assert source.keys() == {"kind", "model", "judge", "prompt_version", "time", "cost", "rounds"}
    assert source["time"].endswith("+00:00") and source["cost"] is None
