"""``preftune run`` as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from preftune.cli.main import main
from preftune.pipeline import stages as stages_module
from tests.methods.tiny_runs import stopping_at
from tests.pipeline.tiny_pipelines import MEASURED, write_pipeline
from tests.tiny_world import World


def test_a_dry_run_shows_the_plan_and_makes_nothing(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    stages = ({"sft": {}}, {"reward": {}}, {"dpo": {"beta": 0.3, "ref_model": "sft"}})
    file = write_pipeline(world, tmp_path, *stages)
    assert main(["run", str(file), "--dry-run"]) == 0
    shown = capsys.readouterr().out
    (beta,) = [line for line in shown.splitlines() if line.split()[1:2] == ["beta"]]
    assert [cell.strip() for cell in beta.split("│")[1:-1]] == ["beta", "-", "-", "0.3"]
    assert "model of sft" in shown and "waiting" in shown and "01-sft" in shown
    assert not (tmp_path / "out").exists()
    assert main(["run", str(file), "--dry-run", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [stage["settings"]["learning_rate"] for stage in document["stages"]] == [3e-3] * 3
    assert document["stages"][2]["uses"] == ["sft"]


def test_a_pipeline_runs_is_told_and_has_its_page_again(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    defaults = MEASURED | {"data": str(world.standard)}
    file = write_pipeline(world, tmp_path, {"sft": {}}, {"dpo": {}}, defaults=defaults)
    out = tmp_path / "elsewhere"
    assert main(["run", str(file), "--output", str(out), "--json"]) == 0
    shown = capsys.readouterr()
    document = json.loads(shown.out)
    assert document["ran"] == ["sft", "dpo"] and document["skipped"] == []
    assert Path(document["models"]["dpo"]).is_dir() and Path(document["report"]).is_file()
    assert document["evaluations"]["dpo"]["after"]["preference_accuracy"]["n"] == 15
    assert "stage 2 of 2, dpo, begins" in shown.err
    page = (out / "report.html").read_text()
    (out / "report.html").unlink()
    assert main(["report", str(out)]) == 0
    assert (out / "report.html").read_text().partition("<main")[2].partition("<footer")[0] in page
    assert main(["run", str(file), "--output", str(out), "--from", "dop"]) == 2
    assert "Did you mean dpo?" in capsys.readouterr().err


def test_a_stopped_pipeline_says_how_to_go_on_and_exits_as_a_run_does(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages_module, "write_report", lambda folder: folder)
    file = write_pipeline(world, tmp_path, {"sft": {"max_steps": 3}})
    real = stages_module.run
    monkeypatch.setattr(stages_module, "run", lambda config, prepare, *more: real(config, prepare, stopping_at(1)))
    assert main(["run", str(file)]) == 143
    assert f"stopped by SIGTERM in stage sft; its checkpoint is written. `preftune run {file}` goes on." in " ".join(
        capsys.readouterr().err.split()
    )
    monkeypatch.setattr(stages_module, "run", real)
    assert main(["run", str(file), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ran"] == ["sft"]


def test_a_wrong_file_is_one_message_a_problem_and_exits_2(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_pipeline(world, tmp_path, {"sft": {"max_stesp": 3}}, {"dpo": {"bta": 1}})
    assert main(["run", str(file)]) == 2
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: stage ")]
    assert len(told) == 2 and "max_steps?" in told[0] and "beta?" in told[1]
