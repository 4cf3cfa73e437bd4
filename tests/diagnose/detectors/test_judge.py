"""What the audits of data and judges say, as findings: from a run's folder, named beside a run, and alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from preftune.audit.basics import audit_basics
from preftune.cli.main import main
from preftune.collect.judge_audit import audit_judge
from preftune.collect.verdicts import Verdict
from preftune.data.read import read_pairs
from preftune.diagnose.doctor import Diagnosis, diagnose
from preftune.diagnose.readers.documents import kind_of
from preftune.diagnose.readers.find import read_log


def verdicts(n: int, biased: int, judge: str = "gpt") -> list[Verdict]:
    """Both orders of ``n`` comparisons; in ``biased`` of them the answer shown first wins."""
    found = []
    for number in range(n):
        for is_swapped in (False, True):
            kind = "first" if number >= biased or not is_swapped else "second"
            found.append(
                Verdict(f"c{number}", judge, kind, is_swapped=is_swapped, lengths=(12, 10) if number % 2 else (10, 12))
            )
    return found


def document(*audits: Any) -> dict[str, Any]:
    return json.loads(json.dumps({"rows": 60, "judges": {one.judges[0]: one.as_dict() for one in audits}}))


def of(found: dict[str, Any], tmp_path: Path) -> Diagnosis:
    path = tmp_path / "judge.json"
    path.write_text(json.dumps(found))
    (log,) = read_log(path)
    return diagnose(log)


def test_judge_that_goes_by_place_is_found_with_its_figures(tmp_path: Path) -> None:
    found = of(document(audit_judge(verdicts(60, 30))), tmp_path)
    (one,) = [finding for finding in found.findings if finding.id == "D31"]
    assert one.severity == "warning"
    assert "50.0%" in one.what and "at least 80% are wanted" in one.what
    figures = {figure.what: figure.value for figure in one.evidence}
    assert figures["verdicts that hold in both orders (of 60)"] == 0.5
    assert figures["verdicts for the answer shown first (of 120)"] == 0.75
    assert "D33" in found.checked


def test_sound_judge_has_nothing_found_and_nothing_of_curves_is_told(tmp_path: Path) -> None:
    found = of(document(audit_judge(verdicts(60, 2))), tmp_path)
    assert found.findings == ()
    assert {"D31", "D33"} <= set(found.checked)
    assert {one.id for one in found.cannot_tell} <= {"D32"}


def test_of_few_verdicts_nothing_is_told(tmp_path: Path) -> None:
    found = of(document(audit_judge(verdicts(60, 0)), audit_judge(verdicts(12, 0, "small"))), tmp_path)
    assert found.checked == ()
    why = {one.id: one.why for one in found.cannot_tell}
    assert why["D31"] == "small has 12 comparisons in both orders, and 30 are needed."


def test_audit_of_one_judge_is_read_too(tmp_path: Path) -> None:
    found = of(json.loads(json.dumps(audit_judge(verdicts(60, 60)).as_dict())), tmp_path)
    assert [(one.id, one.severity) for one in found.findings if one.id == "D31"] == [("D31", "error")]


def data_audit(tmp_path: Path, rows: int = 40, twice: int = 0) -> dict[str, Any]:
    path = tmp_path / "pairs.jsonl"
    listed = [{"prompt": f"p{i}", "chosen": f"good {i}", "rejected": f"bad {i}"} for i in range(rows)]
    path.write_text("".join(json.dumps(row) + "\n" for row in [*listed, *listed[:twice]]))
    records = read_pairs(str(path)).records
    audit = audit_basics(read_pairs(str(path)), records[:5] if twice else []).as_dict()
    path.unlink()
    return json.loads(json.dumps(audit))


def test_runs_own_audit_says_what_was_looked_for(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "metrics.jsonl").write_text("".join(json.dumps({"step": i, "loss": 0.5}) + "\n" for i in range(1, 40)))
    (run / "audit.json").write_text(json.dumps(data_audit(tmp_path) | {"evaluation": 0}))
    found = diagnose(read_log(run)[0])
    assert "D25" in found.checked
    assert {"D24", "D26", "D31"} <= {
        one.id for one in found.cannot_tell
    }  # nothing was held out; no tokenizer, no judge
    (run / "audit.json").write_text(json.dumps(data_audit(tmp_path, twice=20) | {"evaluation": 5}))
    (run / "judge.json").write_text(json.dumps(document(audit_judge(verdicts(60, 40)))))
    assert {"D24", "D25", "D31"} <= {one.id for one in diagnose(read_log(run)[0]).findings}


def test_audits_named_with_a_run_are_taken_as_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text("".join(json.dumps({"step": i, "loss": 0.5}) + "\n" for i in range(1, 40)))
    audit, judge = tmp_path / "my-data.json", tmp_path / "judge.json"
    audit.write_text(json.dumps(data_audit(tmp_path, twice=20)))
    judge.write_text(json.dumps(document(audit_judge(verdicts(60, 0)))))
    assert main(["doctor", str(log), str(audit), str(judge), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["name"] == "log" and {"D24", "D25"} <= {one["id"] for one in found["findings"]}
    assert "D31" in found["checked"]
    assert "my-data.json is taken for an audit of what this run was trained on." in found["notes"]
    assert main(["doctor", str(judge)]) == 0
    assert "judge.json (an audit of judges)" in capsys.readouterr().out


@pytest.mark.parametrize("found", [None, [], 3, {}, {"judges": {}}, {"judges": {"a": 1}}, {"findings": []}])
def test_other_documents_are_none_of_the_two(found: Any) -> None:
    assert kind_of(found) is None
