"""Rates between two calls, without the time spent on other things."""

from __future__ import annotations

import pytest

from preftune.training import throughput
from preftune.training.throughput import Throughput


def test_rates_are_of_all_processes_and_leave_pauses_out(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(throughput.time, "perf_counter", lambda: clock[0])
    meter = Throughput()
    meter.count(items=4, tokens=100)
    clock[0] += 2
    with meter.paused():
        clock[0] += 50
    meter.count(items=2, tokens=20)
    clock[0] += 1
    assert meter.take(processes=2) == {"pairs_per_second": pytest.approx(4.0), "tokens_per_second": pytest.approx(80.0)}
    clock[0] += 1
    assert meter.take() == {"pairs_per_second": 0.0, "tokens_per_second": 0.0}
