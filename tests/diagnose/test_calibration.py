"""The doctor's promise, on the runs that are kept: real ones, made by `python -m benchmarks.doctor.make`."""

from __future__ import annotations

import pytest

from benchmarks.doctor.calibrate import broken_promises, calibration
from benchmarks.doctor.kinds import ALL, BROKEN, HEALTHY
from benchmarks.doctor.storage import RUNS, read_runs

LARGEST = 5_000_000  # bytes of all runs


def test_the_promise_holds_on_the_runs_that_are_kept() -> None:
    result = calibration(live=False)
    if not result["alarmed"]["tuned"]["runs"]:
        pytest.skip("no runs are kept")
    assert broken_promises(result) == []


def test_runs_are_kept_small_and_of_known_kinds() -> None:
    files = list(RUNS.glob("*.jsonl.gz"))
    assert sum(file.stat().st_size for file in files) < LARGEST
    assert {file.name.removesuffix(".jsonl.gz") for file in files} <= set(ALL)


def test_a_run_is_read_as_it_was_kept() -> None:
    for kind in ALL:
        for run in read_runs(kind)[:1]:
            log = run.as_log()
            assert log.method == run.method
            assert log.last_step > 0


def test_every_broken_kind_has_its_detectors() -> None:
    assert all(kind.caught_by for kind in BROKEN)
    assert not any(kind.caught_by for kind in HEALTHY)
    assert len(HEALTHY) == 6
