"""Logs as they really lie about: packed, sorted the other way, exported by pandas or a spreadsheet, half a log."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest

from preftune.diagnose.doctor import diagnose
from preftune.diagnose.readers import text
from preftune.diagnose.readers.console import parse_console
from preftune.diagnose.readers.find import read_log
from preftune.diagnose.series import RunLog
from preftune.errors import PreftuneError

ROWS = [{"step": step, "loss": 0.7 - step / 1000, "grad_norm": 1.5, "learning_rate": 1e-6} for step in range(1, 61)]


def only(path: Path) -> RunLog:
    (log,) = read_log(path)
    return log


def lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def table(delimiter: str = ",", comma: bool = False) -> str:
    cells = [list(ROWS[0]), *(list(row.values()) for row in ROWS)]
    rows = (delimiter.join(str(cell) for cell in row) for row in cells)
    return "\r\n".join(row.replace(".", ",") if comma else row for row in rows) + "\r\n"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl.gz", gzip.compress(lines(ROWS).encode())),
        ("a.jsonl.gz", gzip.compress(lines(ROWS[:30]).encode()) + gzip.compress(lines(ROWS[30:]).encode())),
        ("a.csv.gz", gzip.compress(table().encode())),
        ("a.csv", b"\xef\xbb\xbf" + table().encode()),
        ("a.csv", table().encode("utf-16")),
        ("a.csv", table(";")),
        ("a.csv", table(";", comma=True)),
        ("a.tsv", table("\t")),
        ("a.csv", table("|")),
        ("a.jsonl", lines(ROWS[::-1])),
        ("a.json", json.dumps({name: [row[name] for row in ROWS] for name in ROWS[0]})),
        ("a.json", json.dumps({name: {str(i): row[name] for i, row in enumerate(ROWS)} for name in ROWS[0]})),
        ("a.jsonl", lines([{name: str(value) for name, value in row.items()} for row in ROWS])),
    ],
)
def test_same_curve_in_whatever_dress(name: str, content: str | bytes, tmp_path: Path) -> None:
    log = only(write(tmp_path / name, content))
    assert log.name == "a"
    assert log.series["loss"].steps.tolist() == list(range(1, 61))
    assert log.series["loss"].values.tolist() == [row["loss"] for row in ROWS]


def test_packed_log_that_is_still_written_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    whole = gzip.compress(lines(ROWS).encode(), 1)
    log = only(write(tmp_path / "a.jsonl.gz", whole[: len(whole) // 2]))
    assert 0 < len(log.series["loss"]) < 60
    with pytest.raises(PreftuneError, match="gzip cannot unpack it"):
        read_log(write(tmp_path / "b.jsonl.gz", whole[:10] + b"\xff" * 64))


def test_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "LARGEST", 10_000)
    with pytest.raises(PreftuneError, match="too large"):
        read_log(write(tmp_path / "a.jsonl.gz", gzip.compress(b"0" * 1_000_000)))


def test_bars_of_evaluations_and_of_loading_count_no_steps() -> None:
    text = (
        "Loading weights: 100%|█| 500/500 [00:00<00:00, 99it/s]\n"
        "  0%|          | 0/40 [00:00<?, ?it/s]\r 25%|██▌       | 10/40 [00:10<03:10,  1.00it/s]\n"
        "{'loss': 0.69, 'epoch': 0.25}\n  0%|  | 0/900 [00:00<?, ?it/s]\r100%|██| 900/900 [00:10<00:00,  1.00it/s]\n"
        "{'eval_loss': 0.6, 'epoch': 0.25}\n 50%|█████     | 20/40 [00:20<03:00,  1.00it/s]\n"
        "{'loss': '0.6', 'epoch': '0.5'}\n"
    )
    assert [(row["step"], row["epoch"]) for row in parse_console(text)[0]] == [(10, 0.25), (10, 0.25), (20, 0.5)]


# --- nulls ----------------------------------------------------------------------------------------------


def test_nulls_of_a_table_that_pandas_has_filled_are_no_failures(tmp_path: Path) -> None:
    names = dict.fromkeys((*ROWS[0], "eval_loss"))
    rows = [names | row for row in ROWS] + [names | {"step": step, "eval_loss": 0.6} for step in (20, 40, 60)]
    log = only(write(tmp_path / "a.jsonl", lines(rows)))
    assert (len(log.series["loss"]), len(log.series["eval_loss"])) == (60, 3)
    assert "D29" in diagnose(log).checked and not diagnose(log).findings


def test_loss_that_was_not_finite_stays_so_in_such_a_table(tmp_path: Path) -> None:
    names = dict.fromkeys((*ROWS[0], "eval_loss"))
    rows = [names | row | ({"loss": None, "grad_norm": None} if row["step"] > 40 else {}) for row in ROWS]
    rows += [names | {"step": step, "eval_loss": 0.6} for step in (20, 40, 60)]
    (found,) = diagnose(only(write(tmp_path / "a.jsonl", lines(rows)))).findings
    assert (found.id, found.first_step, found.last_step) == ("D29", 41, 60)


def test_run_that_is_nan_everywhere_is_an_error(tmp_path: Path) -> None:
    rows = [row | {"loss": float("nan"), "grad_norm": float("nan")} for row in ROWS]
    assert [one.id for one in diagnose(only(write(tmp_path / "a.jsonl", lines(rows)))).findings] == ["D29"]


def test_text_in_a_column_is_not_taken_for_nan(tmp_path: Path) -> None:
    rows = [row | ({"loss": "n/a"} if row["step"] % 7 == 0 else {}) | {"host": "node1"} for row in ROWS]
    log = only(write(tmp_path / "a.jsonl", lines(rows)))
    assert len(log.series["loss"]) == 52 and not diagnose(log).findings
    assert "8 of 60 values of loss are no numbers and were left out, such as 'n/a'." in log.notes


@pytest.mark.parametrize("value", ["50.0%", [0.5], True, {"mean": [1]}])
def test_known_metric_without_numbers_is_told(value: Any, tmp_path: Path) -> None:
    log = only(write(tmp_path / "a.jsonl", lines([row | {"kl": value} for row in ROWS])))
    assert "kl" not in log.series
    assert isinstance(value, dict) or any(note.startswith("kl was left out") for note in log.notes)
    assert not diagnose(log).notes


def test_number_too_large_for_any_is_infinite(tmp_path: Path) -> None:
    log = only(write(tmp_path / "a.jsonl", lines([{"step": 1, "loss": 10**400}, {"step": 2, "loss": 1}])))
    assert log.series["loss"].values.tolist() == [float("inf"), 1.0]


def test_step_that_is_never_a_number_is_counted_instead(tmp_path: Path) -> None:
    log = only(write(tmp_path / "a.jsonl", lines([row | {"step": float("inf")} for row in ROWS])))
    assert log.last_step == 60
    assert "The rows have no step: they are counted." in log.notes


# --- places ---------------------------------------------------------------------------------------------


def test_data_is_told_from_a_log(tmp_path: Path) -> None:
    path = write(tmp_path / "pairs.jsonl", '{"prompt": "a", "chosen": "b", "rejected": "c"}\n')
    with pytest.raises(PreftuneError, match="data to train on and no log") as caught:
        read_log(tmp_path)
    assert caught.value.where == str(path)
    write(tmp_path / "log.jsonl", lines(ROWS))
    assert "This is data to train on" in only(tmp_path).notes[-1]


def test_runs_far_down_are_found_and_told_apart_by_their_folders(tmp_path: Path) -> None:
    for place in ("runs/2026/lr1/seed1/dpo", "runs/2026/lr2/seed1/dpo"):
        write(tmp_path / "deep" / place / "metrics.jsonl", lines(ROWS))
    found = [log.name for log in read_log(tmp_path)]
    assert found == ["deep/runs/2026/lr1/seed1/dpo", "deep/runs/2026/lr2/seed1/dpo"]


def test_folder_that_may_not_be_opened_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "good" / "metrics.jsonl", lines(ROWS))
    closed = tmp_path / "closed"
    closed.mkdir()
    own = Path.iterdir

    def iterdir(self: Path) -> Any:
        if self == closed:
            raise PermissionError(13, "Permission denied")
        return own(self)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    assert "It cannot be opened (Permission denied)" in only(tmp_path).notes[-1]
    with pytest.raises(PreftuneError, match=r"cannot be opened \(Permission denied\)"):
        read_log(closed)


def test_more_logs_than_are_read_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("preftune.diagnose.readers.find._MOST_FILES", 2)
    monkeypatch.setattr("preftune.diagnose.readers.find._MOST_FOLDERS", 1)
    for name in ("a", "b", "c", "inner/d"):
        write(tmp_path / f"{name}.jsonl", lines(ROWS))
    logs = read_log(tmp_path)
    assert [log.name for log in logs] == ["a", "b"]
    assert "It holds 3 logs, of which 2 were read." in logs[0].notes[-1]
    assert "Only 1 folders are looked into." in logs[0].notes[-1]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jsonl")
    with pytest.raises(PreftuneError, match="neither a file nor a folder"):
        read_log(tmp_path / "a.jsonl")
    with pytest.raises(PreftuneError, match="No training log"):
        read_log(tmp_path)


def test_log_without_a_number_says_what_was_there(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", lines([{"step": 1, "loss": [0.5]}]))
    with pytest.raises(PreftuneError, match=r"no metric\. loss was left out: .* such as \[0\.5\]") as caught:
        read_log(path)
    assert caught.value.where == str(path)
