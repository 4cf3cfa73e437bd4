import csv
import gzip
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from preftune.data.read import Reading, read_demonstrations, read_labels, read_pairs, read_prompts
from preftune.errors import PreftuneError

ROWS = [{"prompt": f"q{number}", "chosen": f"yes {number}", "rejected": f"no {number}"} for number in range(5)]
CHAT_ROWS = [
    {
        "prompt": [{"role": "user", "content": row["prompt"]}],
        "chosen": [{"role": "assistant", "content": row["chosen"]}],
        "rejected": [{"role": "assistant", "content": row["rejected"]}],
    }
    for row in ROWS
]


def lines(rows: Iterable[Any]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def table(rows: list[dict[str, Any]], delimiter: str) -> bytes:
    cells = [[cell if isinstance(cell, str) else json.dumps(cell) for cell in row.values()] for row in rows]
    written: list[str] = []
    csv.writer(type("Lines", (), {"write": written.append}), delimiter=delimiter).writerows([list(rows[0]), *cells])
    return "".join(written).encode()


def parquet(rows: list[dict[str, Any]]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), sink, row_group_size=2)
    return sink.getvalue().to_pybytes()


def columns(rows: list[dict[str, Any]]) -> bytes:
    return json.dumps({name: [row[name] for row in rows] for name in rows[0]}).encode()


WRITERS: dict[str, tuple[str, Callable[[list[dict[str, Any]]], bytes]]] = {
    "JSON lines": ("d.jsonl", lines),
    "JSON lines with BOM, CRLF and blank lines": (
        "d.jsonl",
        lambda rows: b"\xef\xbb\xbf\r\n" + lines(rows).replace(b"\n", b"\r\n\r\n"),
    ),
    "gzipped JSON lines": ("d.jsonl.gz", lambda rows: gzip.compress(lines(rows))),
    "JSON list": ("d.json", lambda rows: json.dumps(rows, indent=1).encode()),
    "JSON list with BOM": ("d.json", lambda rows: b"\xef\xbb\xbf" + json.dumps(rows).encode()),
    "gzipped JSON": ("d.json.gz", lambda rows: gzip.compress(json.dumps(rows).encode())),
    "JSON with one list": (
        "d.json",
        lambda rows: json.dumps({"version": 1, "tags": [], "data": rows}).encode(),
    ),
    "JSON columns": ("d.json", columns),
    "JSON lines called JSON": ("d.json", lines),
    "CSV": ("d.csv", lambda rows: table(rows, ",")),
    "CSV with BOM": ("d.CSV", lambda rows: b"\xef\xbb\xbf" + table(rows, ",")),
    "TSV": ("d.tsv", lambda rows: table(rows, "\t")),
    "Parquet": ("d.parquet", parquet),
    "Parquet with JSON cells": (
        "d.parquet",
        lambda rows: parquet([{name: as_cell(value) for name, value in row.items()} for row in rows]),
    ),
}


def as_cell(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("rows", [ROWS, CHAT_ROWS], ids=["text", "chat"])
def test_every_kind_of_file_gives_the_same_pairs(tmp_path: Path, kind: str, rows: list[dict[str, Any]]) -> None:
    name, write = WRITERS[kind]
    path = tmp_path / name
    path.write_bytes(write(rows))
    reading = read_pairs(path)
    assert reading.records == read_pairs(rows).records
    assert reading.rejected == ()
    assert reading.source == str(path)


ANSWERS = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in ROWS]
CHAT_ANSWERS = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in CHAT_ROWS]
OTHER_ROWS: dict[str, tuple[Callable[[Any], Reading[Any]], list[dict[str, Any]]]] = {
    "text labels": (read_labels, [row | {"label": n % 2 == 0} for n, row in enumerate(ANSWERS)]),
    "chat labels": (read_labels, [row | {"label": n % 2} for n, row in enumerate(CHAT_ANSWERS)]),
    "answers": (read_demonstrations, ANSWERS),
    "chat answers": (read_demonstrations, CHAT_ANSWERS),
    "conversations": (read_demonstrations, [{"messages": row["prompt"] + row["chosen"]} for row in CHAT_ROWS]),
    "texts": (read_demonstrations, [{"text": row["chosen"]} for row in ROWS]),
    "prompts": (read_prompts, [{"prompt": row["prompt"], "answer": row["chosen"]} for row in ROWS]),
    "chat prompts": (read_prompts, [{"prompt": row["prompt"]} for row in CHAT_ROWS]),
    "groups": (read_pairs, [{"prompt": "q", "completions": ["a", f"b{n}"], "ranks": [2, 1]} for n in range(3)]),
}


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("records", OTHER_ROWS)
def test_every_kind_of_file_gives_the_same_other_records(tmp_path: Path, kind: str, records: str) -> None:
    name, write = WRITERS[kind]
    read, rows = OTHER_ROWS[records]
    path = tmp_path / name
    path.write_bytes(write(rows))
    assert read(path).records == read(rows).records
    assert read(path).rejected == ()


@pytest.mark.parametrize("records", OTHER_ROWS)
def test_a_single_row_of_any_kind_is_read_from_a_json_file(tmp_path: Path, records: str) -> None:
    read, rows = OTHER_ROWS[records]
    path = tmp_path / "one.json"
    path.write_text(json.dumps(rows[0]))
    assert read(path).records == read(rows[:1]).records


def test_labels_written_as_text_are_read_and_others_reported(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("prompt,completion,label\nq,a,True\nq,b,false\nq,c,1\nq,d,-1\nq,e,\nq,f,good\n")
    reading = read_labels(path)
    assert [label.label for label in reading.records] == [True, False, True, False]
    assert [(row.where, row.reason) for row in reading.rejected] == [
        ("labels.csv:6", "bad-value"),
        ("labels.csv:7", "bad-value"),
    ]
    assert reading.read == 6


def test_a_single_object_in_a_json_file_is_one_row(tmp_path: Path) -> None:
    path = tmp_path / "one.json"
    path.write_text(json.dumps(CHAT_ROWS[0]))
    assert read_pairs(path).records == read_pairs(CHAT_ROWS[:1]).records


def test_datasets_are_read_from_memory_and_from_disk(tmp_path: Path) -> None:
    expected = read_pairs(CHAT_ROWS).records
    train = datasets.Dataset.from_list(CHAT_ROWS)
    both = datasets.DatasetDict({"train": train, "test": train.select([0])})
    train.save_to_disk(str(tmp_path / "plain"))
    both.save_to_disk(str(tmp_path / "splits"))
    assert read_pairs(train).records == expected
    assert read_pairs(train.to_iterable_dataset()).records == expected
    assert read_pairs(both, split="test").records == expected[:1]
    assert read_pairs(tmp_path / "plain").records == expected
    assert read_pairs(tmp_path / "splits").records == expected
    assert read_pairs(tmp_path / "splits", split="test").records == expected[:1]
    with pytest.raises(PreftuneError, match=r'no split "dev".*train, test'):
        read_pairs(tmp_path / "splits", split="dev")
    with pytest.raises(PreftuneError, match=r'no split "dev".*train, test'):
        read_pairs(both, split="dev")


def test_a_folder_is_all_its_data_files_or_those_of_the_split(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("not data")
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache/x.jsonl").write_bytes(lines(ROWS))
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "a.jsonl").write_bytes(lines(ROWS[:2]))
    (tmp_path / "b.csv").write_bytes(table(ROWS[2:], ","))
    assert read_pairs(tmp_path).records == read_pairs(ROWS).records
    splits = tmp_path / "splits"
    (splits / "data").mkdir(parents=True)
    (splits / "data/train-00000-of-00001.parquet").write_bytes(parquet(ROWS[:3]))
    (splits / "data/test-00000-of-00001.parquet").write_bytes(parquet([*ROWS[3:], {"prompt": "x"}]))
    assert len(read_pairs(splits).records) == 3
    test = read_pairs(splits, split="test")
    assert len(test.records) == 2
    assert [row.where for row in test.rejected] == ["data/test-00000-of-00001.parquet row 3"]
    with pytest.raises(PreftuneError, match=r'no split "validation".*test, train'):
        read_pairs(splits, split="validation")


def reading_of(folder: Path, name: str, content: bytes) -> Reading:
    path = folder / name
    path.write_bytes(content)
    return read_pairs(path)


GOOD = json.dumps(ROWS[0]).encode()
GOOD_CELLS = b"prompt,chosen,rejected\nq0,yes 0,no 0\n"


@pytest.mark.parametrize(
    ("name", "content", "where", "reason", "field", "says"),
    [
        ("d.jsonl", GOOD + b'\n\n{"prompt": "q", \n', "d.jsonl:3", "broken-json", None, "column"),
        ("d.jsonl", GOOD + b"\n[1, 2]\n", "d.jsonl:2", "not-an-object", None, "not a list"),
        ("d.jsonl", GOOD + b'\n{"prompt": "caf\xe9"}\n', "d.jsonl:2", "not-utf-8", None, "byte 16"),
        (
            "d.jsonl",
            GOOD + b"\n" + b"[" * 200_000 + b"\n",
            "d.jsonl:2",
            "broken-json",
            None,
            "RecursionError",
        ),
        ("d.jsonl", GOOD + b"\n" + b"9" * 5000 + b"\n", "d.jsonl:2", "broken-json", None, "ValueError"),
        (
            "d.jsonl",
            GOOD + b'\n{"prompt": "q", "chosen": "a"}',
            "d.jsonl:2",
            "missing-field",
            "rejected",
            "rename",
        ),
        ("d.json", b"[" + GOOD + b", 3]", "d.json row 2", "not-an-object", None, "a number"),
        ("d.json", GOOD + b"\n{]\n", "d.json:2", "broken-json", None, "column"),
        ("d.json", b'{"data": [' + GOOD + b", null]}", "d.json row 2", "not-an-object", None, "null"),
        ("d.csv", GOOD_CELLS + b"q,caf\xe9,b\n", "d.csv:3", "not-utf-8", "chosen", "UTF-8"),
        ("d.csv", GOOD_CELLS + b"\nq,a,b,c\n", "d.csv:4", "wrong-columns", None, "4 cells meet 3"),
        ("d.csv", GOOD_CELLS + b"q,a\n", "d.csv:3", "missing-field", "rejected", "prompt, chosen"),
        ("d.csv", GOOD_CELLS + b'q,"a,b\n', "d.csv:3", "broken-csv", None, "quotes"),
        ("d.csv", GOOD_CELLS + b"q,,b\n", "d.csv:3", "empty-completion", "chosen", "Give chosen"),
    ],
)
def test_what_cannot_be_read_is_one_row_left_out(
    tmp_path: Path, name: str, content: bytes, where: str, reason: str, field: str | None, says: str
) -> None:
    reading = reading_of(tmp_path, name, content)
    assert reading.records == read_pairs(ROWS[:1]).records
    (row,) = reading.rejected
    assert (row.where, row.reason, row.field) == (where, reason, field)
    assert says in row.mend
    assert reading.reasons() == {reason: 1} and reading.read == 2


def test_rows_after_a_broken_one_are_still_read(tmp_path: Path) -> None:
    csv_file = b'prompt,chosen,rejected\nq0,yes 0,no 0\nq,"a"b,c\n"q1",yes 1,"no 1"\n'
    assert len(reading_of(tmp_path, "d.csv", csv_file).records) == 2
    multi_line = b'prompt,chosen,rejected\n"two\nlines",a,b\nq,,b\n'
    assert reading_of(tmp_path, "m.csv", multi_line).rejected[0].where == "m.csv:4"


def test_a_very_long_cell_is_read(tmp_path: Path) -> None:
    reading = reading_of(tmp_path, "d.csv", GOOD_CELLS + b"q," + b"a" * 300_000 + b",b\n")
    assert len(reading.records[1].chosen) == 300_000


def test_an_archive_that_is_cut_off_keeps_what_came_before(tmp_path: Path) -> None:
    many = [{**ROWS[0], "prompt": f"{number * 7919:x} " * 20} for number in range(2000)]
    whole = gzip.compress(lines(many))
    reading = reading_of(tmp_path, "d.jsonl.gz", whole[: len(whole) // 2])
    assert len(reading.records) > 500
    assert reading.rejected[-1].reason == "broken-file"
    assert reading.read == len(reading.records) + len(reading.rejected)


def test_parquet_text_that_is_not_utf8_costs_only_its_row(tmp_path: Path) -> None:
    prompts = pa.array([b"q", b"caf\xe9", b"r"], pa.binary()).view(pa.string())
    path = tmp_path / "d.parquet"
    pq.write_table(pa.table({"prompt": prompts, "chosen": ["a"] * 3, "rejected": ["b"] * 3}), path)
    reading = read_pairs(path)
    assert [pair.prompt for pair in reading.records] == ["q", "r"]
    assert [(row.where, row.reason) for row in reading.rejected] == [("d.parquet row 2", "not-utf-8")]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("d.jsonl", b"", "file is empty"),
        ("d.jsonl", b"\n \n", "There are no rows"),
        ("d.json", b"[]", "There are no rows"),
        ("d.csv", b"prompt,chosen,rejected\n", "There are no rows"),
        ("d.json", b'[{"prompt": ', "broken-json"),
        ("d.json", b'{"a": [{}], "b": [{}]}', "not-a-table.*a, b"),
        ("d.json", b"\xff\xfe[\x00]\x00", "not-utf-8.*UTF-8"),
        ("d.parquet", b"PAR1 but not really", "broken-file"),
        ("d.jsonl.gz", b"not gzip", "broken-file.*Compress"),
        ("d.txt", b"text", r"\.txt are not read.*\.jsonl.*\.parquet"),
        ("data", b"text", r"no ending.*\.jsonl"),
        (
            "d.jsonl",
            b'{"question": "q"}\n' * 3,
            'None of 3 rows can be used; 3 for missing-field in "chosen", first at d.jsonl:1. The row has',
        ),
    ],
)
def test_a_file_with_nothing_usable_is_an_error_that_names_it(
    tmp_path: Path, name: str, content: bytes, says: str
) -> None:
    with pytest.raises(PreftuneError, match=says) as caught:
        reading_of(tmp_path, name, content)
    assert str(tmp_path / name) in str(caught.value)


def test_a_missing_file_is_named_with_its_nearest_neighbours(tmp_path: Path) -> None:
    for name in ("train.jsonl", "test.jsonl", "README.md"):
        (tmp_path / name).touch()
    with pytest.raises(PreftuneError, match=r"trian.jsonl: There is no such file.*Near it: train.jsonl"):
        read_pairs(tmp_path / "trian.jsonl")
    with pytest.raises(PreftuneError, match=r"folder .*nowhere does not exist"):
        read_pairs(tmp_path / "nowhere" / "train.jsonl")
    with pytest.raises(PreftuneError, match=r"folder holds no data.*jsonl"):
        read_pairs(tmp_path)


def test_a_damaged_saved_data_set_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text("{}")
    with pytest.raises(PreftuneError, match=r"saved data set cannot be opened.*save_to_disk"):
        read_pairs(tmp_path)


def test_a_hub_name_is_loaded_with_its_split(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []

    def load(name: str, split: str) -> datasets.Dataset:
        asked.append((name, split))
        return datasets.Dataset.from_list([*ROWS, {"prompt": "q"}])

    monkeypatch.setattr(datasets, "load_dataset", load)
    reading = read_pairs("someone/pairs", split="test")
    assert asked == [("someone/pairs", "test")]
    assert len(reading.records) == 5
    assert (reading.rejected[0].where, reading.rejected[0].reason) == ("someone/pairs row 6", "null-field")


def test_a_hub_without_network_is_an_error_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str, split: str) -> None:
        raise ConnectionError("Couldn't reach the hub\nmore lines")

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(PreftuneError, match=r"someone/pairs: .*Couldn't reach the hub Check the name") as caught:
        read_pairs("someone/pairs")
    assert "more lines" not in str(caught.value)
