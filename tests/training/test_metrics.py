"""Curves that survive a crash, and averages that survive a resume to the last bit."""

from __future__ import annotations

import errno
import json
import math
import os
import random
import resource
import signal
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from preftune.errors import StorageFullError
from preftune.training.metrics import Averages, MetricsLog, read_metrics, truncate_after


def _write(path: Path, steps: range) -> None:
    with MetricsLog(path) as log:
        for step in steps:
            log.log(step, step / 10, {"loss": 1 / (step + 1)})


def _steps(path: Path) -> list[int]:
    return [row["step"] for row in read_metrics(path)]


def test_rows_come_back_with_step_epoch_and_time(tmp_path: Path) -> None:
    before = time.time()
    with MetricsLog(tmp_path / "metrics.jsonl") as log:
        log.log(3, 0.25, {"loss": 0.1 + 0.2, "rows": 7, "reward": None})
    (row,) = read_metrics(tmp_path / "metrics.jsonl")
    assert before <= row.pop("time") <= time.time()
    assert row == {"step": 3, "epoch": 0.25, "loss": 0.1 + 0.2, "rows": 7, "reward": None}


def test_non_finite_numbers_are_null_in_strict_json(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with MetricsLog(path) as log:
        log.log(1, math.nan, {"a": math.nan, "b": math.inf, "c": -math.inf})
    row = json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert [row["epoch"], row["a"], row["b"], row["c"]] == [None] * 4


def test_each_line_is_in_the_file_at_once_and_a_second_log_appends(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path)
    log.log(1, 0, {})
    assert _steps(path) == [1]
    log.close()
    log.close()
    _write(path, range(2, 4))
    assert _steps(path) == [1, 2, 3]


def test_lines_are_synced_on_close_and_not_line_by_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, syncs = [100.0], []
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(os, "fsync", lambda descriptor: syncs.append(clock[0]))
    with MetricsLog(tmp_path / "metrics.jsonl") as log:
        for _ in range(121):
            clock[0] += 0.125
            log.log(1, 0, {})
    assert syncs == [105.0, 110.0, 115.0, 115.125]


def test_a_log_cut_at_any_byte_is_read_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    _write(path, range(4))
    whole, rows = path.read_bytes(), read_metrics(path)
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        found = read_metrics(path)
        assert found == rows[: len(found)]
        assert len(found) >= whole[:length].count(b"\n")
        with MetricsLog(path) as log:
            log.log(9, 0, {})
        assert read_metrics(path)[:-1] == found
        assert _steps(path)[-1] == 9


def test_an_unreadable_line_amid_the_file_costs_only_itself_and_is_told(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = [b'{"step": 1}', b"\xff\x00", b'{"step": 2', b"[3]", b"", b'{"step": 4}', b'{"step": 5}']
    path.write_bytes(b"\n".join(lines) + b"\n")
    with pytest.warns(UserWarning, match=r"3 line\(s\).*first: line 2"):
        assert _steps(path) == [1, 4, 5]
    truncate_after(path, 4)
    assert path.read_bytes() == b"\n".join(lines[:-1]) + b"\n"


def test_later_steps_are_dropped_for_a_resume(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    _write(path, range(6))
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"step": 6, "lo')
    truncate_after(path, 3)
    assert path.read_bytes() == b"".join(line + b"\n" for line in whole.split(b"\n")[:4])
    _write(path, range(4, 6))
    assert _steps(path) == [0, 1, 2, 3, 4, 5]


def test_an_absent_log_has_no_rows_and_nothing_to_drop(tmp_path: Path) -> None:
    assert read_metrics(tmp_path / "metrics.jsonl") == []
    truncate_after(tmp_path / "metrics.jsonl", 3)
    assert list(tmp_path.iterdir()) == []


def test_a_killed_process_loses_no_line_it_had_logged(tmp_path: Path) -> None:
    path, choose, logged = tmp_path / "metrics.jsonl", random.Random(1), 0
    for _ in range(10):
        seen, tell = os.pipe()
        child = os.fork()
        if child == 0:
            log = MetricsLog(path)
            while True:
                logged += 1
                log.log(logged, 0, {"loss": 1 / logged})
                os.write(tell, b"x")
        os.close(tell)
        os.read(seen, 1)
        time.sleep(choose.uniform(0, 0.01))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        told = 1
        while part := os.read(seen, 65536):
            told += len(part)
        os.close(seen)
        rows = _steps(path)
        assert rows == list(range(1, len(rows) + 1))
        assert logged + told <= len(rows) <= logged + told + 1
        logged = len(rows)


def test_a_full_disk_leaves_no_half_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    log = MetricsLog(path)
    log.log(1, 0, {})
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 10, before[1]))
    try:
        with pytest.raises(StorageFullError, match=r"metrics\.jsonl"):
            log.log(2, 0, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert path.read_bytes().endswith(b"}\n")
    log.log(3, 0, {})
    log.close()
    assert _steps(path) == [1, 3]


def test_a_disk_that_turns_out_full_on_sync_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    log = MetricsLog(tmp_path / "metrics.jsonl")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageFullError):
        log.close()


def test_averages_are_sums_over_weights_and_start_anew() -> None:
    averages = Averages()
    averages.add({"loss": (6.0, 2), "rows": (1, 1)})
    averages.add({"loss": (torch.tensor(3.0), torch.tensor(4))})
    assert averages.take() == {"loss": 1.5, "rows": 1.0}
    assert averages.take() == {}


def test_an_average_over_nothing_is_nan() -> None:
    averages = Averages()
    averages.add({"clip_ratio": (0.0, torch.tensor(0.0))})
    assert math.isnan(averages.take()["clip_ratio"])


def test_sums_are_float64() -> None:
    averages = Averages()
    averages.add({"loss": (torch.tensor(2.0**24), 1)})
    averages.add({"loss": (torch.tensor(1.0), 0)})  # 2**24 + 1 is no float32
    assert averages.take() == {"loss": 2.0**24 + 1}


def test_tensors_changed_or_differentiated_later_count_as_they_were() -> None:
    averages, loss = Averages(), torch.tensor(2.0, requires_grad=True)
    tokens = torch.tensor(4)
    averages.add({"loss": (loss * 3, tokens)})
    tokens.add_(100)
    assert averages.take() == {"loss": 1.5}


NUMBERS = st.floats(width=32) | st.integers(-1000, 1000)
ADDITIONS = st.lists(st.tuples(st.sampled_from("abc"), NUMBERS, NUMBERS, st.booleans()), max_size=12)


@settings(max_examples=200, deadline=None)
@given(additions=ADDITIONS, cuts=st.sets(st.integers(0, 12)))
def test_averages_resumed_anywhere_are_the_same_to_the_last_bit(
    additions: list[tuple[str, float, float, bool]], cuts: set[int]
) -> None:
    straight, resumed = Averages(), Averages()
    for place, (name, total, weight, as_tensor) in enumerate(additions):
        pair = (torch.tensor(total), torch.tensor(weight)) if as_tensor else (total, weight)
        if place in cuts:
            state = json.loads(json.dumps(resumed.state()))
            resumed = Averages()
            resumed.add({"left over": (1.0, 1.0)})
            resumed.load_state(state)
        straight.add({name: pair})
        resumed.add({name: pair})
    assert repr(straight.take()) == repr(resumed.take())
