"""A pipeline that is called again: what is finished stays, what was stopped goes on, what has changed is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from preftune.errors import PreftuneError
from preftune.methods.registry import METHODS
from preftune.methods.run import run
from preftune.pipeline import stages as stages_module
from preftune.pipeline.plan import read_plan
from preftune.pipeline.record import read_record
from preftune.pipeline.stages import describe
from tests.methods.tiny_runs import listener, saved_weights, stopping_at
from tests.pipeline.tiny_pipelines import MEASURED, run_file, write_pipeline
from tests.tiny_world import World, pair_rows, write_rows

THREE: tuple[dict[str, Any], ...] = ({"sft": {}}, {"reward": {}}, {"dpo": {"beta": 0.1}})


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bool]]:
    """Fills with the stages that are trained, and whether they resume."""
    found: list[tuple[str, bool]] = []
    real = stages_module.run

    def keep(config: Any, *arguments: Any) -> Any:
        found.append((Path(config.output_dir).name, config.resume))
        return real(config, *arguments)

    monkeypatch.setattr(stages_module, "run", keep)
    return found


@pytest.fixture(autouse=True)
def _no_stage_pages(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The charts of every stage's page would take longer than the stages; the first test has them."""
    if "measured" not in request.fixturenames:
        monkeypatch.setattr(stages_module, "write_report", lambda folder: folder / "report.html")


@pytest.fixture(scope="module")
def finished(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished pipeline of SFT and DPO."""
    folder = tmp_path_factory.mktemp("finished")
    run_file(write_pipeline(world, folder, {"sft": {}}, {"dpo": {}}))
    return folder


@pytest.fixture
def again(finished: Path, world: World, tmp_path: Path) -> Path:
    """A copy of it elsewhere, and the file that asks for it."""
    shutil.copytree(finished / "out", tmp_path / "out")
    return write_pipeline(world, tmp_path, {"sft": {}}, {"dpo": {}})


@pytest.fixture
def measured(world: World) -> dict[str, Any]:
    """Defaults of stages that are measured and have a page."""
    return MEASURED | {"data": str(world.standard)}


def modified(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in sorted(folder.rglob("*")) if path.is_file()}


def test_each_stage_is_the_run_that_its_own_command_would_make(
    world: World, tmp_path: Path, runs: list[tuple[str, bool]], measured: dict[str, Any]
) -> None:
    result = run_file(write_pipeline(world, tmp_path, *THREE, defaults=measured))
    assert runs == [("01-sft", False), ("02-reward", False), ("03-dpo", False)]
    assert (result.ran, result.skipped, result.stopped) == (("sft", "reward", "dpo"), (), None)
    out = tmp_path / "out"
    for name in ("01-sft", "02-reward", "03-dpo"):
        assert {"config.yaml", "eval.json", "metrics.jsonl", "model", "report.html"} <= {
            path.name for path in (out / name).iterdir()
        }
    assert (out / "02-reward" / "model" / "reward.json").is_file()
    plan = read_plan(tmp_path / "pipeline.yaml")
    alone = plan.stage("dpo").config.model_copy(update={"output_dir": str(tmp_path / "alone")})
    run(alone, METHODS["dpo"].prepare())
    ours, theirs = saved_weights(out / "03-dpo"), saved_weights(tmp_path / "alone")
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    started = saved_weights(out / "01-sft")
    assert not all(torch.equal(ours[name], started[name]) for name in ours)


def test_called_again_everything_is_skipped_and_nothing_touched(
    again: Path, tmp_path: Path, runs: list[tuple[str, bool]]
) -> None:
    before = modified(tmp_path / "out" / "01-sft")
    notes: list[str] = []
    result = run_file(again, listener(notes))
    assert (result.ran, result.skipped) == ((), ("sft", "dpo"))
    assert runs == []
    assert sum("is finished: skipped" in note for note in notes) == 2
    assert modified(tmp_path / "out" / "01-sft") == before


def test_a_stopped_stage_goes_on_to_the_same_bits(world: World, tmp_path: Path, runs: list[tuple[str, bool]]) -> None:
    stages = ({"sft": {}}, {"dpo": {"max_steps": 4}})
    run_file(write_pipeline(world, tmp_path / "whole", *stages))
    file = write_pipeline(world, tmp_path / "stopped", *stages)
    stopped = run_file(file, stopping_at(3))  # the first stage has two steps
    assert (stopped.stopped, stopped.stopped_in, stopped.ran) == ("SIGTERM", "dpo", ("sft", "dpo"))
    record = read_record(tmp_path / "stopped" / "out")
    assert [record[name]["status"] for name in ("sft", "dpo")] == ["finished", "stopped"]
    assert "stopped: the same command goes on" in stopped.report.read_text()
    resumed = run_file(file)
    assert (resumed.ran, resumed.skipped) == (("dpo",), ("sft",))
    assert runs[-1] == ("02-dpo", True)
    whole, again = (saved_weights(tmp_path / name / "out" / "02-dpo") for name in ("whole", "stopped"))
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_a_stage_killed_at_any_moment_goes_on(again: Path, tmp_path: Path, runs: list[tuple[str, bool]]) -> None:
    out = tmp_path / "out"
    (out / "02-dpo" / "eval.json").unlink()  # as if it had died while measuring
    document = json.loads((out / "pipeline.json").read_text())
    document["stages"][1]["status"] = "running"
    (out / "pipeline.json").write_text(json.dumps(document))
    assert run_file(again).ran == ("dpo",)
    assert runs == [("02-dpo", True)]
    assert (out / "02-dpo" / "eval.json").is_file()


@pytest.mark.parametrize(
    ("stages", "told", "mend"),
    [
        (({"sft": {"max_steps": 3}}, {"dpo": {}}), "max_steps changed (was 2, is 3)", "--from sft"),
        (({"sft": {}}, {"dpo": {"beta": 0.5}}), "beta changed (was 0.1, is 0.5)", "--from dpo"),
        (({"sft": {}}, {"dpo": {"model": "MODEL"}}), "model changed (was 'model of sft', is ", "--from dpo"),
        (({"dpo": {}}, {"sft": {}}), "its place changed (was stage 2, dpo; is stage 1, dpo)", "--from dpo"),
        (
            ({"sft": {}}, {"ipo": {"name": "dpo"}}),
            "its place changed (was stage 2, dpo; is stage 2, ipo)",
            "--from dpo",
        ),
    ],
)
def test_a_stage_that_changed_is_refused_before_anything_runs(
    stages: tuple[dict[str, Any], ...],
    told: str,
    mend: str,
    again: Path,
    world: World,
    tmp_path: Path,
    runs: list[tuple[str, bool]],
) -> None:
    if stages[1].get("dpo", {}).get("model"):
        stages[1]["dpo"]["model"] = str(world.model)
    before = modified(tmp_path / "out")
    with pytest.raises(PreftuneError) as error:
        run_file(write_pipeline(world, tmp_path, *stages))
    assert told in str(error.value) and mend in str(error.value)
    after = modified(tmp_path / "out")
    after.pop(tmp_path / "out" / ".lock")
    assert after.items() <= before.items()
    assert runs == []


def test_changed_data_is_refused_and_from_runs_again_what_follows(
    world: World, tmp_path: Path, runs: list[tuple[str, bool]]
) -> None:
    pairs = write_rows(tmp_path / "pairs.jsonl", pair_rows(40))
    file = write_pipeline(world, tmp_path, {"sft": {}}, {"reward": {"data": str(pairs)}}, {"dpo": {}})
    run_file(file)
    write_rows(pairs, pair_rows(40, seed=3))
    with pytest.raises(PreftuneError, match=rf"data {pairs} is another"):
        run_file(file)
    old = (tmp_path / "out" / "02-reward" / "eval.json").read_bytes()
    notes: list[str] = []
    result = run_file(file, listener(notes), again_from="reward")
    assert (result.ran, result.skipped) == (("reward", "dpo"), ("sft",))
    (aside,) = (tmp_path / "out" / "aside").iterdir()
    assert sorted(path.name for path in aside.iterdir()) == ["02-reward", "03-dpo"]
    assert (aside / "02-reward" / "eval.json").read_bytes() == old
    assert sum("is kept as" in note for note in notes) == 2
    assert run_file(file).skipped == ("sft", "reward", "dpo")


def test_a_model_that_changed_under_a_later_stage_is_refused(again: Path, tmp_path: Path) -> None:
    weights = tmp_path / "out" / "01-sft" / "model" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(PreftuneError, match="the model of sft is another"):
        run_file(again)


def test_what_changes_no_outcome_may_change(again: Path, world: World, tmp_path: Path) -> None:
    changed = write_pipeline(world, tmp_path, {"sft": {"run_name": "later", "save_total_limit": 5}}, {"dpo": {}})
    assert run_file(changed).skipped == ("sft", "dpo")


def test_a_pipeline_may_grow(again: Path, world: World, tmp_path: Path, runs: list[tuple[str, bool]]) -> None:
    grown = run_file(write_pipeline(world, tmp_path, {"sft": {}}, {"dpo": {}}, {"orpo": {}}))
    assert (grown.ran, grown.skipped) == (("orpo",), ("sft", "dpo"))


def test_an_error_names_its_stage_and_once_mended_the_pipeline_goes_on(world: World, tmp_path: Path) -> None:
    bad = write_rows(tmp_path / "bad.jsonl", [{"prompt": "x", "chosen": "y", "rejected": "y"}])
    file = write_pipeline(world, tmp_path, {"sft": {}}, {"dpo": {"data": str(bad)}})
    with pytest.raises(PreftuneError) as error:
        run_file(file)
    assert (error.value.where or "").startswith("stage dpo")
    record = read_record(tmp_path / "out")
    assert record["dpo"]["status"] == "failed" and "identical" in record["dpo"]["error"]
    mended = run_file(write_pipeline(world, tmp_path, {"sft": {}}, {"dpo": {}}))
    assert (mended.ran, mended.skipped) == (("dpo",), ("sft",))


def test_adapters_are_handed_from_stage_to_stage(world: World, tmp_path: Path) -> None:
    stages = ({"sft": {"use_peft": True, "lora_r": 4}}, {"reward": {"use_peft": True, "lora_r": 4}}, {"dpo": {}})
    result = run_file(write_pipeline(world, tmp_path, *stages))
    assert (tmp_path / "out" / "01-sft" / "model" / "adapter_config.json").is_file()
    assert result.ran == ("sft", "reward", "dpo")


@pytest.mark.parametrize(
    ("content", "told"), [(b"{", "cannot be read"), (b'{"format": 9, "stages": []}', "format 9"), (b"[]", "cannot be")]
)
def test_a_damaged_record_is_told_and_nothing_run(content: bytes, told: str, world: World, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "pipeline.json").write_bytes(content)
    with pytest.raises(PreftuneError, match=told):
        run_file(write_pipeline(world, tmp_path, {"sft": {}}))
    assert (tmp_path / "out" / "pipeline.json").read_bytes() == content


def test_a_stage_without_a_record_is_not_taken_for_finished(again: Path, tmp_path: Path) -> None:
    (tmp_path / "out" / "pipeline.json").unlink()
    with pytest.raises(PreftuneError, match="no record of how it was run"):
        run_file(again)


def test_the_folder_of_a_single_run_is_refused(world: World, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "metrics.jsonl").touch()
    with pytest.raises(PreftuneError, match="holds a single run"):
        run_file(write_pipeline(world, tmp_path, {"sft": {}}))


def test_several_processes_are_refused(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(PreftuneError, match="runs in one process"):
        run_file(write_pipeline(world, tmp_path, {"sft": {}}))


def test_the_plan_says_where_each_stage_stands(again: Path, world: World, tmp_path: Path) -> None:
    assert [stage["standing"] for stage in describe(read_plan(again, tmp_path / "new"), {})] == ["waiting"] * 2
    changed = write_pipeline(world, tmp_path, {"sft": {"seed": 7}}, {"dpo": {}}, {"orpo": {}})
    told = describe(read_plan(changed), read_record(tmp_path / "out"))
    assert [stage["standing"] for stage in told] == ["changed", "finished", "waiting"]
    assert "seed changed (was 42, is 7)" in told[0]["changed"]
