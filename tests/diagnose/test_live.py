"""The doctor while a run goes on: when it looks, what it tells, when it ends the run."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from preftune.diagnose import live
from preftune.diagnose.doctor import Diagnosis, Unknown
from preftune.diagnose.findings import Finding
from preftune.diagnose.live import LINES, LiveDoctor
from preftune.diagnose.series import RunLog
from preftune.errors import PreftuneError

Detect = Callable[[RunLog], tuple[Finding, ...]]


def finding(id: str = "D08", severity: Any = "warning") -> Finding:
    return Finding(id, severity, "likely", "KL explodes", "It grows.", "No price.", "Raise beta.", 3, 9)


class Scene:
    """A doctor whose detectors are a function, whose clock is a number, and who writes down what it says."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, detect: Detect, **options: Any) -> None:
        self.looks: list[RunLog] = []
        self.notes: list[str] = []
        self.now = 0.0
        self.ticks = 0.0  # of the clock that looks are timed by, where a test sets it

        def diagnose(log: RunLog, *, only_live: bool = False) -> Diagnosis:
            self.looks.append(log)
            return Diagnosis(detect(log), (Unknown("D01", "hacking", "No gold score."),), ("D08",))

        monkeypatch.setattr(live, "diagnose", diagnose)
        self.doctor = LiveDoctor(folder, "dpo", {"beta": 0.1}, self.notes.append, clock=lambda: self.now, **options)

    def log(self, first: int, last: int, seconds: float = 1000.0, **values: float) -> list[str | None]:
        """What the doctor answers to a line a step."""
        answers = []
        for step in range(first, last + 1):
            self.now += seconds
            answers.append(self.doctor.on_log(step, {"loss": 1.0, **values}))
        return answers


def test_finding_is_told_and_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(tmp_path, monkeypatch, lambda log: (finding(),) if log.last_step >= 10 else ())
    assert set(scene.log(1, 40)) == {None}
    assert scene.notes == ["warning, likely: KL explodes (D08, steps 3 to 9). Raise beta."]
    document = json.loads((tmp_path / "findings.json").read_text())
    assert [one["id"] for one in document["findings"]] == ["D08"]
    assert document["cannot_tell"] == [{"id": "D01", "name": "hacking", "why": "No gold score."}]
    assert (document["tool"], document["method"], document["steps"]) == ("preftune", "dpo", 10)


@pytest.mark.parametrize(
    ("stop_on", "severity", "stops"),
    [
        ("never", "error", False),
        ("error", "error", True),
        ("error", "warning", False),
        ("warning", "warning", True),
        ("warning", "hint", False),
    ],
)
def test_what_ends_the_run_is_as_grave_as_is_said(
    stop_on: Any, severity: str, stops: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = Scene(tmp_path, monkeypatch, lambda log: (finding(severity=severity),), stop_on=stop_on)
    answers = [answer for answer in scene.log(1, 20) if answer]
    assert answers == ([f"D08, KL explodes (--stop_on {stop_on})"] if stops else [])


def test_looks_take_a_hundredth_of_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(log: RunLog) -> tuple[Finding, ...]:
        scene.ticks += 0.5
        return ()

    monkeypatch.setattr(live.time, "perf_counter", lambda: scene.ticks)
    scene = Scene(tmp_path, monkeypatch, slow)
    scene.log(1, 3000, seconds=0.1)  # 300 seconds, of which three may be spent
    assert 1 <= len(scene.looks) <= 5
    assert scene.ticks <= 0.01 * scene.now


def test_looks_are_lines_apart_however_much_time_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(tmp_path, monkeypatch, lambda log: ())
    scene.log(1, 400)
    steps = [log.last_step for log in scene.looks]
    assert steps[0] == LINES
    gaps = [later - sooner for sooner, later in itertools.pairwise(steps)]
    assert min(gaps) == LINES and gaps[-1] > LINES


def test_detectors_see_every_line_so_far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(tmp_path, monkeypatch, lambda log: ())
    scene.doctor.on_log(1, {"loss": 0.5})
    scene.doctor.on_log(1, {"eval_loss": 0.6})
    scene.log(2, 8)
    log = scene.looks[0]
    assert log.series["loss"].steps.tolist() == [1, 2, 3, 4]
    assert log.series["eval_loss"].values.tolist() == [0.6]
    assert (log.method, log.config["beta"]) == ("dpo", 0.1)


def test_kl_above_its_cap_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(tmp_path, monkeypatch, lambda log: (), kl_cap=10.0)
    nan = float("nan")
    assert [scene.doctor.on_log(step, {"kl": kl}) for step, kl in ((1, 9.9), (2, nan))] == [None, None]
    assert scene.doctor.on_log(3, {"kl": 0.2, "objective/kl": 12.34}) == (
        "objective/kl is 12.34 nats at step 3, above --kl_cap 10"
    )


def test_resumed_run_knows_its_past_and_is_not_told_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"step": step, "epoch": 0.1, "time": 1.0, "loss": 2.0, "kl": None} for step in range(1, 8)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "findings.json").write_text(json.dumps({"findings": [finding().as_dict()]}))
    scene = Scene(
        tmp_path, monkeypatch, lambda log: (finding(), finding("D29", "error")), resumes=True, stop_on="warning"
    )
    assert scene.log(6, 7) == [None, "D29, KL explodes (--stop_on warning)"]
    assert scene.looks[0].series["loss"].values.tolist() == [2.0] * 5 + [1.0, 1.0]
    assert [note[:5] for note in scene.notes] == ["error"]


def test_detector_that_fails_costs_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(log: RunLog) -> tuple[Finding, ...]:
        raise ZeroDivisionError("by mistake")

    scene = Scene(tmp_path, monkeypatch, fail)
    assert set(scene.log(1, 60)) == {None}
    assert len(scene.looks) == 1
    assert scene.notes == ["the diagnosis failed (ZeroDivisionError: by mistake); the run goes on without it"]


def test_end_of_the_run_looks_at_all_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 0.5}\n{"step": 2, "loss": 0.4}\n')
    (tmp_path / "config.yaml").write_text("method: ipo\n")
    scene = Scene(tmp_path, monkeypatch, lambda log: (finding(),))
    document = scene.doctor.conclude()
    assert document["method"] == "ipo"
    assert json.loads((tmp_path / "findings.json").read_text())["steps"] == 2
    assert len(scene.notes) == 1


def test_what_was_done_before_the_first_line_buys_no_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(tmp_path, monkeypatch, lambda log: ())
    scene.now = 1e6  # models were loaded, and measured
    scene.log(1, 40, seconds=0.01)
    assert scene.looks == []


def test_full_disk_costs_neither_the_run_nor_what_was_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(folder: Path, document: Any) -> None:
        raise PreftuneError("No space is left.", where="findings.json")

    monkeypatch.setattr(live, "write_findings", refuse)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 0.5}\n')
    scene = Scene(tmp_path, monkeypatch, lambda log: (finding(),))
    assert set(scene.log(1, 10)) == {None}
    assert [one["id"] for one in scene.doctor.conclude()["findings"]] == ["D08"]
    assert sorted(note[:12] for note in scene.notes) == ["the findings", "the findings", "warning, lik"]


def test_cost_of_a_line_does_not_grow_with_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look at n lines costs n, and yet: with all the time there is, the later half is no dearer than the earlier."""
    scene = Scene(tmp_path, monkeypatch, lambda log: ())
    scene.log(1, 4000)
    costs = {
        half: sum(len(log.series["loss"]) for log in scene.looks if log.last_step > 2000 * half) for half in (0, 1)
    }
    assert costs[1] <= 20 * 2000 * 1.5  # a look every twentieth of n lines: twenty a line
    assert costs[1] / 2000 <= 1.5 * (costs[0] - costs[1]) / 2000


def test_run_without_a_line_has_no_findings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "metrics.jsonl").write_text("")
    scene = Scene(tmp_path, monkeypatch, lambda log: (finding(),))
    assert scene.doctor.conclude() == {}
    assert not (tmp_path / "findings.json").exists()
