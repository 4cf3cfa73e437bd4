"""``preftune align`` on the tiny world: the way, its record, and going on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from preftune.advise.machine_facts import MachineFacts, read_machine
from preftune.cli.main import main
from preftune.pipeline import stages as stages_module
from tests.methods.tiny_runs import stopping_at
from tests.pipeline.tiny_pipelines import QUICK
from tests.tiny_world import World, pair_rows, write_rows


@pytest.fixture(autouse=True)
def _no_stage_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """The charts of every stage's page would take longer than the stages."""
    monkeypatch.setattr(stages_module, "write_report", lambda folder: folder / "report.html")


def command(world: World, folder: Path, **more: Any) -> list[str]:
    """The command with settings that make a stage short."""
    config = folder / "settings.yaml"
    quick = {key: value for key, value in QUICK.items() if key not in ("eval_fraction", "save_steps")}
    config.write_text(yaml.safe_dump(quick | {"use_peft": False, "num_samples": 0, "max_completion_length": 4}))
    data = write_rows(folder / "pairs.jsonl", pair_rows(80))
    asked = ["align", "--model", str(world.model), "--data", str(data), "--output", str(folder / "out")]
    options = {"config": config, "betas": 0.1, "prompts": 4, "max-new-tokens": 4} | more
    return asked + [text for name, value in options.items() for text in (f"--{name}", str(value))]


def test_the_way_is_told_and_a_second_call_finds_it_done(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = command(world, tmp_path, online="never")
    assert main([*asked, "--json"]) in (0, 1)
    document = json.loads(capsys.readouterr().out)
    record = json.loads((tmp_path / "out" / "align.json").read_text())
    assert sum(record["sizes"].values()) == 80  # no pair in two parts: what the judge learned from is not the test
    names = [one["name"] for one in record["decisions"]]
    assert names == ["sft", "judge", "plateau", "worth-trying", "gate"]
    assert all(one["why"] and "figures" in one for one in record["decisions"])
    assert (tmp_path / "out" / "model" / "config.json").is_file()
    page = Path(document["report"]).read_text()
    assert "Would more of DPO help?" in page and "<script" not in page
    monkeypatch.setattr(stages_module, "run", lambda *_: pytest.fail("a finished stage was run again"))
    monkeypatch.setattr("preftune.evaluate.everything.evaluate", lambda *_, **__: pytest.fail("measured again"))
    assert main([*asked, "--json"]) in (0, 1)
    again = json.loads(capsys.readouterr().out)
    assert again["decisions"] == document["decisions"]
    monkeypatch.setattr("preftune.pipeline.align_stages.read_machine", lambda: _machine_with_less(read_machine()))
    assert main([*asked, "--json"]) in (0, 1)  # less memory is free now, and what was begun has its settings still
    assert json.loads(capsys.readouterr().out)["decisions"] == document["decisions"]
    assert main([*asked, "--seed", "7"]) == 2
    assert "seed was 42, is 7" in capsys.readouterr().err


def _machine_with_less(machine: MachineFacts) -> MachineFacts:
    return replace(machine, available=1.0)


def test_a_stopped_way_goes_on_by_the_same_command(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = command(world, tmp_path, online="never")
    real = stages_module.run
    with monkeypatch.context() as patch:
        patch.setattr(stages_module, "run", lambda config, prepare, *more: real(config, prepare, stopping_at(1)))
        assert main(asked) == 143
    assert "the same command goes on" in capsys.readouterr().err
    assert main(asked) in (0, 1)
    assert "goes on" in capsys.readouterr().err


def test_ctrl_c_between_the_steps_of_trainings_is_told_and_goes_on(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    asked = command(world, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("preftune.pipeline.align.lay_ground", interrupted)
        assert main(asked) == 130
    assert "stopped by SIGINT; the same command goes on" in capsys.readouterr().err
    assert "On the way" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.slow  # half a minute: the whole way with both reward models, an online method and every page
def test_the_whole_way_with_an_online_method(world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command(world, tmp_path, online="online-dpo"), "--json"]) in (0, 1)
    document = json.loads(capsys.readouterr().out)
    names = [one["name"] for one in document["decisions"]]
    assert names[:4] == ["sft", "judge", "plateau", "worth-trying"] and names[-1] == "gate"
