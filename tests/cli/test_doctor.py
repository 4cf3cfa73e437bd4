"""``preftune doctor``: its exit codes, what it prints, what it writes, and what it says of bad input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import preftune
from preftune.cli.main import main
from preftune.diagnose import doctor
from preftune.diagnose.detector import Detector
from preftune.diagnose.findings import CannotTell, Evidence, Finding, Nothing
from preftune.diagnose.given import diagnose_runs
from preftune.diagnose.series import RunLog
from preftune.errors import PreftuneError

FOUND = Finding(
    "D08", "warning", "likely", "KL explodes", "It grows ever faster.", "No price.", "Raise beta.", 20, 40,
    (Evidence("kl", "KL at the end", 61.5, 50.0),), "arXiv:2210.10760",
)  # fmt: skip


@pytest.fixture
def detects(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets the detectors: a function for D08, which needs kl, and one that can never tell."""

    def set_to(outcome: Any) -> None:
        import preftune.diagnose.detectors as package

        detectors = (
            Detector("D08", "KL explosion", lambda log: outcome, needs=[["kl"]]),
            Detector("D01", "reward hacking", lambda log: CannotTell("The log has no gold/score.")),
        )
        monkeypatch.setattr(package, "DETECTORS", detectors, raising=False)

    return set_to


def write_log(path: Path, name: str = "kl") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"step": step, name: step / 10}) + "\n" for step in range(1, 41)))
    return path


def test_finding_is_printed_with_its_figures_and_the_exit_code_is_1(
    detects: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    detects(FOUND)
    run = write_log(tmp_path / "run" / "metrics.jsonl").parent
    assert main(["doctor", str(run)]) == 1
    told = " ".join(capsys.readouterr().out.split())
    for part in (
        "run (preftune, method not known, 40 steps)",
        "1 warning found; the first: KL explodes.",
        "warning KL explodes D08, steps 20 to 40, likely",
        "It grows ever faster.",
        "figures KL at the end 61.5 (bound 50)",
        "cause No price.",
        "mend Raise beta.",
        "source arXiv:2210.10760",
        "Cannot be told (1): reward hacking (gold/score) - The log has none of these",
    ):
        assert part in told
    document = json.loads((run / "findings.json").read_text())
    assert [one["id"] for one in document["findings"]] == ["D08"] and document["checked"] == ["D08"]


@pytest.mark.parametrize(("outcome", "name", "code"), [(Nothing(), "kl", 0), (Nothing(), "loss", 2)])
def test_exit_code_tells_healthy_from_cannot_tell(
    outcome: Any, name: str, code: int, detects: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    detects(outcome)
    assert main(["doctor", str(write_log(tmp_path / "a.jsonl", name))]) == code
    told = capsys.readouterr().out
    assert ("Nothing was found by 1 check, but 1 cannot tell" if code == 0 else "Nothing can be told") in told


def test_hints_count_only_where_it_is_strict(detects: Any, tmp_path: Path) -> None:
    from dataclasses import replace

    detects(replace(FOUND, severity="hint", certainty="hint"))
    log = str(write_log(tmp_path / "a.jsonl"))
    assert (main(["doctor", log]), main(["doctor", log, "--strict"])) == (0, 1)


def test_json_holds_every_run_of_a_folder(detects: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    detects(FOUND)
    for name in ("a", "b"):
        write_log(tmp_path / name / "metrics.jsonl")
    output = tmp_path / "out" / "found.json"
    assert main(["doctor", str(tmp_path), "--output", str(output), "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert [run["name"] for run in document["runs"]] == ["a", "b"]
    assert json.loads(output.read_text()) == document


def test_only_what_is_asked_for_is_told_and_nothing_is_overwritten(
    detects: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    detects(FOUND)
    run = write_log(tmp_path / "run" / "metrics.jsonl").parent
    assert main(["doctor", str(run), "--only", "hacking"]) == 2
    assert "KL explodes" not in capsys.readouterr().out
    assert not (run / "findings.json").exists()
    assert main(["doctor", str(run), "--only", "nonsense"]) == 2
    assert "No detector is called nonsense" in capsys.readouterr().err


def test_what_was_looked_for_and_not_found_is_told_when_asked_for(
    detects: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    detects(Nothing())
    log = str(write_log(tmp_path / "a.jsonl"))
    assert main(["doctor", log, "--only", "kl explosion", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["checked"], document["verdict"]) == (["D08"], "Nothing wrong was found by 1 check.")


def test_single_logged_step_is_too_little(detects: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    detects(Nothing())
    path = tmp_path / "a.jsonl"
    path.write_text('{"step": 1, "kl": 0.1}\n')
    assert main(["doctor", str(path)]) == 2
    told = capsys.readouterr().out
    assert "method not known, 1 step)" in told and "A single logged step is no curve" in told


def test_hostile_names_are_printed_as_they_are(
    detects: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    detects(Nothing())
    path = tmp_path / "[bold]x[" / "metrics.jsonl"
    write_log(path)
    with path.open("a") as file:
        file.write(json.dumps({"step": 41, "kl": 1.0, "[red]odd[/nope]": 2.0}) + "\n")
    main(["doctor", str(path.parent)])
    told = capsys.readouterr().out
    assert "[bold]x[ (" in told and "[red]odd[/nope]" in told


def test_log_cannot_write_into_the_terminal(detects: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    detects(Nothing())
    path = write_log(tmp_path / "a.jsonl")
    with path.open("a") as file:
        file.write(json.dumps({"step": 41, "kl": 1.0, "\x1b]0;owned\x07\x1b[31mred\u009b2J": 2.0}) + "\n")
    main(["doctor", str(path)])
    told = capsys.readouterr().out
    assert "red" in told
    assert not [letter for letter in told if (letter < " " and letter != "\n") or "\x7f" <= letter < "\xa0"]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "There is nothing here."),
        ('{"step": 1, "temprature": 2}\n', "None of its metrics is known: temprature"),
        ("", "No step is logged in it."),
        ('{"step"', "No step is logged in it."),
    ],
)
def test_bad_input_is_a_sentence_and_exit_code_2(
    content: str | None, told: str, detects: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    detects(Nothing())
    path = tmp_path / "metrics.jsonl"
    if content is not None:
        path.write_text(content)
    assert main(["doctor", str(path)]) == 2
    found = capsys.readouterr().err
    assert told in " ".join(found.split()) and "Traceback" not in found


def test_what_cannot_be_read_costs_nobody_the_rest(
    detects: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log, absent = str(write_log(tmp_path / "a.jsonl")), str(tmp_path / "absent")
    for outcome, code in ((FOUND, 1), (Nothing(), 2)):
        detects(outcome)
        assert main(["doctor", absent, log, "--json"]) == code
        told = capsys.readouterr()
        document = json.loads(told.out)
        assert [run["name"] for run in document["runs"]] == ["a"]
        assert "There is nothing here" in document["problems"][0] and "There is nothing here" in told.err


def test_finding_outweighs_a_run_of_which_nothing_can_be_told(detects: Any, tmp_path: Path) -> None:
    detects(FOUND)
    logs = [str(write_log(tmp_path / "a.jsonl")), str(write_log(tmp_path / "b.jsonl", "loss"))]
    assert main(["doctor", *logs]) == 1
    detects(Nothing())
    assert main(["doctor", *logs]) == 2


def test_no_run_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 2
    assert "No run is given." in capsys.readouterr().err


# --- from Python ----------------------------------------------------------------------------------------


class FakeTrainer:
    """What of a transformers Trainer is looked at."""

    class state:
        log_history = tuple({"step": step, "kl": 0.1} for step in range(1, 41))

    class args:
        @staticmethod
        def to_dict() -> dict[str, Any]:
            return {"beta": 0.3}


class FakeTable:
    """What of a pandas table is looked at."""

    columns = ("step", "kl")

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows

    def to_dict(self, how: str) -> list[dict[str, Any]]:
        assert how == "records"
        return self.rows


@pytest.mark.parametrize("how", ["path", "rows", "log", "trainer", "table"])
def test_runs_are_diagnosed_in_whatever_form_they_are(how: str, detects: Any, tmp_path: Path) -> None:
    detects(FOUND)
    path = write_log(tmp_path / "a.jsonl")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    run = {"path": path, "rows": rows, "log": doctor_log(path), "trainer": FakeTrainer(), "table": FakeTable(rows)}[how]
    diagnosis = preftune.diagnose(run)
    assert isinstance(diagnosis, doctor.Diagnosis)
    assert [one.id for one in diagnosis.findings] == ["D08"]


def test_several_runs_are_asked_for_by_another_name(detects: Any, tmp_path: Path) -> None:
    detects(FOUND)
    for name in ("a", "b"):
        write_log(tmp_path / name / "metrics.jsonl")
    with pytest.raises(PreftuneError, match="It holds 2 runs: a, b"):
        preftune.diagnose(tmp_path)
    assert diagnose_runs(tmp_path).keys() == {"a", "b"}


def test_what_is_no_run_is_refused() -> None:
    with pytest.raises(PreftuneError, match="A int is no run"):
        preftune.diagnose(7)
    with pytest.raises(PreftuneError, match="No row is logged"):
        preftune.diagnose([])
    with pytest.raises(PreftuneError, match="A dict is no run"):
        preftune.diagnose({"loss": 1.0})


def doctor_log(path: Path) -> RunLog:
    from preftune.diagnose.readers.find import read_log

    return read_log(path)[0]


def test_log_without_a_finite_value_is_bad_input_though_that_is_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text("".join(f'{{"step": {step}, "loss": NaN, "grad_norm": NaN}}\n' for step in range(60)))
    assert main(["doctor", str(path)]) == 2
    told = capsys.readouterr().out
    assert "Figures are not finite" in told and "Not one logged value is finite" in told
