"""The pass that keeps facts and no text: it reads exactly as the readers do, in blocks, here or in other processes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from preftune.audit import blocks, processes
from preftune.audit.blocks import examine, examine_request, line_blocks, piece_of, request_of
from preftune.audit.columns import FIRST, NEITHER, SECOND, Columns, Texts, columns_of, joined_columns, mixed
from preftune.audit.scan import Scan, kind_of_source, records_at, scan
from preftune.data.read import Reading, read_comparisons, read_labels, read_pairs
from preftune.data.sources import line_files
from preftune.errors import PreftuneError


def pair(number: int, **more: Any) -> dict[str, Any]:
    return {"id": f"p{number}", "prompt": f"q {number}", "chosen": f"yes {number}", "rejected": "no"} | more


CHAT = {
    "prompt": [{"role": "user", "content": "Wie geht’s?"}],
    "chosen": [{"role": "assistant", "content": "Gut,  danke."}],
    "rejected": [{"role": "assistant", "content": "…"}],
}
GROUP = {"id": "g", "prompt": "q", "completions": ["a", "b", "c"], "ranks": [1, 2, 3]}
VOTED = {"id": "v", "prompt": "q", "response_1": "one", "response_2": "two", "annotators": [2, 2, 0]}
NASTY = b"\n".join(
    [
        b"\xef\xbb\xbf" + json.dumps(pair(0)).encode(),
        b"",
        b"   \r",
        json.dumps(CHAT, ensure_ascii=False).encode(),
        b"{broken",
        b'{"prompt": "q", "chosen": "\xff", "rejected": "b"}',
        b'{"prompt": "q", "chosen": "\\ud800", "rejected": "b"}',
        b"[1, 2]",
        b"null",
        json.dumps(pair(1, chosen="no")).encode(),
        json.dumps(pair(2, rejected=" ")).encode(),
        json.dumps(pair(3, confidence="high")).encode(),
        json.dumps(pair(4, confidence=0.25, margin=2, meta={"a": [1]}, extra=None)).encode() + b"\r",
        json.dumps(GROUP).encode(),
        json.dumps(VOTED).encode(),
        json.dumps(VOTED | {"annotators": [1, 2]}).encode(),
        b'{"prompt": "q", "chosen": "a"}',
        json.dumps({"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: a\n\nAssistant: c"}).encode(),
        b'{"prompt": "q", "chosen": NaN, "rejected": "b"}',
        json.dumps(pair(5)).encode(),
    ]
)


@pytest.fixture
def nasty(tmp_path: Path) -> Path:
    path = tmp_path / "nasty.jsonl"
    path.write_bytes(NASTY)
    return path


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 150)
    monkeypatch.setattr(blocks, "BLOCK_ROWS", 3)


def require_same(found: Scan, reading: Reading[Any]) -> None:
    """All that a scan keeps is what the reading of the same source gives."""
    assert (found.read, found.reasons, found.rejected) == (reading.read, reading.reasons(), reading.rejected)
    assert found.used + len(found.rejected) == found.read
    assert found.notes == reading.notes
    expected, given_ = columns_of(reading.records).arrays(), found.columns.arrays()
    for name in expected.keys() - {"row"}:
        np.testing.assert_array_equal(given_[name], expected[name], err_msg=name)
    assert records_at(found, np.arange(len(found))) == reading.records


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("count", [1, 2], ids=["here", "in two processes"])
def test_a_nasty_file_is_scanned_as_it_is_read(nasty: Path, count: int) -> None:
    found = scan(nasty, processes=count)
    reading = read_pairs(nasty)
    assert len(found.blocks) > 3 and len(reading.rejected) == 11 and reading.read == 18
    require_same(found, reading)


def test_one_block_gives_the_same(nasty: Path) -> None:
    found = scan(nasty)
    assert len(found.blocks) == 1
    require_same(found, read_pairs(nasty))


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("count", [1, 2], ids=["here", "in two processes"])
def test_rows_in_memory_and_in_tables_are_scanned_as_they_are_read(tmp_path: Path, count: int) -> None:
    rows = [pair(number) for number in range(8)] + [
        {"prompt": 1},
        GROUP,
        CHAT | {"when": object()},
        read_pairs([CHAT]).records[0],
    ]
    require_same(scan(rows, processes=count), read_pairs(rows))
    path = tmp_path / "pairs.csv"
    path.write_text("prompt,chosen,rejected\n" + "q,yes,no\n" * 4 + 'q,"yes\nand",no\nq,,no\n"q"x,y\n' + "q,1,2\n" * 4)
    require_same(scan(path, processes=count), read_pairs(path))


@pytest.mark.usefixtures("small_blocks")
def test_rows_read_once_can_still_be_looked_at_again() -> None:
    found = scan((pair(number) for number in range(5)), processes=1)
    assert [record.id for record in records_at(found, [4, 1])] == ["p4", "p1"]


@pytest.mark.usefixtures("small_blocks")
def test_a_folder_of_files_is_one_source_with_places_of_its_own(tmp_path: Path) -> None:
    for part in range(3):
        lines = "".join(json.dumps(pair(10 * part + number)) + "\n" for number in range(5))
        (tmp_path / f"part-{part}.jsonl").write_text(lines + "\n{broken\n")
    found = scan(tmp_path, processes=1)
    assert [row.where for row in found.rejected] == [f"part-{part}.jsonl:7" for part in range(3)]
    require_same(found, read_pairs(tmp_path))


def test_a_limit_counts_rows_read(nasty: Path) -> None:
    require_same(scan(nasty, limit=5), read_pairs(nasty, limit=5))
    with pytest.raises(PreftuneError, match="limit is 0"):
        scan(nasty, limit=0)


MESSAGE = st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", ""]), "content": st.text(max_size=5)})
TRICKY = ["\n\nHuman: a\n\nAssistant: b", "Human: q\n\nAssistant:", "q", "Q ", "é", "e\u0301"]
PART = st.one_of(st.text(max_size=12), st.none(), st.integers(), st.lists(MESSAGE, max_size=3), st.sampled_from(TRICKY))
BESIDE = {"id": st.text(max_size=3) | st.integers(), "confidence": st.floats(), "margin": st.integers(), "x": PART}
VOTE = st.sampled_from([0, 1, 2, None, 5])
ROW = st.one_of(
    st.fixed_dictionaries({"prompt": PART, "chosen": PART, "rejected": PART}, optional=BESIDE),
    st.fixed_dictionaries(
        {"prompt": PART, "response_1": PART, "response_2": PART, "annotators": st.lists(VOTE, max_size=3)}
    ),
    st.fixed_dictionaries(
        {"prompt": PART, "completions": st.lists(PART, max_size=3), "ranks": st.lists(st.integers(1, 3), max_size=3)}
    ),
    st.sampled_from([None, 3, "row", [], {}, pair(7), CHAT, VOTED, GROUP]),
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(ROW, min_size=1, max_size=8))
def test_any_rows_are_scanned_as_they_are_read(tmp_path: Path, rows: list[Any]) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    try:
        reading = read_pairs(path)
    except PreftuneError as error:
        with pytest.raises(PreftuneError) as caught:
            scan(path, kind="pair")
        assert str(caught.value) == str(error)
        return
    require_same(scan(path, kind="pair"), reading)
    pieces = [piece_of(examine_request(request_of(block, "pair") or b"")) for block in line_blocks(line_files(path))]
    assert tuple(row for piece in pieces for row in piece.rejected) == reading.rejected


def test_the_kind_is_that_of_most_rows() -> None:
    label = {"prompt": "q", "completion": "a", "label": True}
    assert kind_of_source([VOTED, VOTED, pair(1)]) == "comparison"
    assert kind_of_source([GROUP, pair(1), VOTED]) == "pair"
    assert kind_of_source([label, {"prompt": "q"}]) == "label"
    assert kind_of_source([{"prompt": "q"}]) == "pair"
    require_same(scan([VOTED, VOTED | {"annotators": ["?"]}]), read_comparisons([VOTED, VOTED | {"annotators": ["?"]}]))
    require_same(scan([label, label]), read_labels([label, label]))
    with pytest.raises(PreftuneError, match=r"These are demonstrations, not pairs"):
        scan([{"prompt": "q", "completion": "a"}])


def test_columns_say_who_won_and_how_long_the_texts_are() -> None:
    records = read_comparisons([VOTED, VOTED | {"annotators": [1]}, VOTED | {"annotators": [0, 0]}]).records
    columns = columns_of(records)
    assert columns.verdict.tolist() == [SECOND, FIRST, NEITHER] and columns.votes.tolist() == [3, 1, 2]
    chat = columns_of(read_pairs([CHAT, pair(1, prompt=" a  b\nc ", confidence=0.5)]).records)
    assert chat.characters.tolist() == [[11, 12, 1], [8, 5, 2]]
    assert chat.words.tolist() == [[2, 2, 1], [3, 2, 1]]
    assert chat.is_chat.tolist() == [True, False]
    assert np.isnan(chat.confidence[0]) and chat.confidence[1] == 0.5 and np.isnan(chat.margin).all()
    label = columns_of(read_labels([{"prompt": "q", "completion": "a b", "label": False}]).records)
    assert label.parts[0, 2] == 0 and label.words.tolist() == [[1, 2, 0]] and label.verdict.tolist() == [SECOND]


def test_hashes_are_those_of_texts_made_equal() -> None:
    prompts = ("Caf\u00e9  au lait", "Cafe\u0301 au\nlait", "caf\u00e9 au lait")
    first, second, third = columns_of(read_pairs([pair(1, prompt=prompt) for prompt in prompts]).records).parts[:, 0]
    assert first == second != third
    columns = columns_of(read_pairs([pair(1, prompt="STRASSE"), pair(1, prompt="Stra\u00dfe")]).records)
    assert columns.asked[0] == columns.asked[1] and columns.parts[0, 0] != columns.parts[1, 0]


def test_order_counts_in_a_hash_of_several() -> None:
    one = np.arange(1000, dtype=np.uint64)
    two = one + np.uint64(5000)
    hashes = [mixed(one, two), mixed(two, one), mixed(one), mixed(two), mixed(one, one), mixed(one, two, two)]
    assert len(np.unique(np.concatenate(hashes))) == 6000


@given(st.lists(st.text(max_size=5)))
def test_texts_in_one_piece_are_the_texts(texts: list[str]) -> None:
    texts = [text.encode(errors="replace").decode() for text in texts]
    packed = Texts.of(texts)
    assert list(packed) == texts and packed[1:] == tuple(texts[1:]) and packed.at(range(len(texts))) == tuple(texts)
    if texts:
        assert packed[-1] == texts[-1]
    with pytest.raises(IndexError):
        packed[len(texts)]


def test_columns_survive_being_packed_and_joined() -> None:
    records = read_pairs([pair(number) for number in range(5)]).records
    whole = columns_of(records)
    joined = joined_columns([Columns.from_arrays(columns_of(part).arrays()) for part in (records[:2], (), records[2:])])
    for name, column in whole.arrays().items():
        if name != "row":
            np.testing.assert_array_equal(joined.arrays()[name], column)
    assert len(joined_columns([])) == 0


def test_rows_left_out_are_all_told_and_kept_up_to_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("preftune.audit.scan.MOST_REJECTED", 2)
    told: list[str] = []
    found = scan(
        [{"prompt": str(number)} for number in range(5)] + [pair(1)],
        kind="pair",
        on_rejected=lambda row: told.append(row.where),
    )
    assert len(found.rejected) == 2 and found.reasons == {"missing-field": 5} and found.read == 6 and found.used == 1
    assert told == [f"row {number}" for number in range(1, 6)]


def test_data_that_changes_meanwhile_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(pair(number)) + "\n" for number in range(3)))
    found = scan(path)
    path.write_text(path.read_text().replace("p1", "p9"))
    assert records_at(found, [0])[0].id == "p0"
    with pytest.raises(PreftuneError, match="changed while it was audited"):
        records_at(found, [1])


@pytest.mark.usefixtures("small_blocks")
def test_the_work_of_a_process_that_dies_is_done_here(nasty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def dead() -> Any:
        return subprocess.Popen([sys.executable, "-c", ""], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    monkeypatch.setattr(processes, "_start", dead)
    require_same(scan(nasty, processes=2), read_pairs(nasty))


@pytest.mark.usefixtures("small_blocks")
def test_a_row_that_no_message_can_hold_is_examined_here() -> None:
    (block,) = blocks.row_blocks(iter([blocks.RawRow("row 1", pair(1, when=object()))]))
    assert request_of(block, "pair") is None and len(examine(block, "pair").columns) == 1


def test_a_script_without_a_main_guard_is_not_run_again(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from preftune.audit import blocks\n"
        "blocks.BLOCK_ROWS = 2\n"
        "from preftune.audit.scan import scan\n"
        "print('started')\n"
        "rows = [{'prompt': str(i), 'chosen': 'a', 'rejected': 'b'} for i in range(20)]\n"
        "print(len(scan(rows, processes=2)))\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, cwd=root, env={"PYTHONPATH": str(root)}
    )
    assert (done.stdout.split(), done.stderr) == (["started", "20"], "")
