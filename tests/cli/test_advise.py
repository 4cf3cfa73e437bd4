"""``preftune advise`` as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import preftune.advise
from preftune.cli.main import main
from preftune.config import load_config
from preftune.methods.registry import METHODS
from preftune.pipeline.plan import read_plan
from tests.tiny_world import World, write_rows


def test_advice_says_why_and_its_config_is_one_that_the_method_takes(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "config.yaml"
    command = ["advise", str(world.standard), "--model", str(world.model), "--no-timing", "--output", str(config)]
    assert main([*command, "--epochs", "1"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("DPO, with LoRA")
    assert "arXiv:2305.18290" in shown and f"  preftune dpo --config {config}\n" in shown
    loaded = load_config(METHODS["dpo"].config_class(), file=config, values={}).config
    assert loaded.model == str(world.model) and loaded.use_peft
    assert config.read_text().startswith("# dpo: ")


def test_a_base_model_gets_sft_first_in_a_pipeline(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "way.yaml"
    command = ["advise", str(world.standard), "--model", str(world.model), "--base", "--no-timing", "--json"]
    assert main([*command, "--output", str(config), "--run-output", str(tmp_path / "out")]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["stages"] == ["sft", document["method"]]
    assert [stage.method for stage in read_plan(config).stages] == document["stages"]
    assert "sft-first" in [one["id"] for one in document["why"]]


def test_nothing_is_advised_where_there_is_too_little_and_the_exit_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = write_rows(tmp_path / "prompts.jsonl", [{"prompt": f"question {i}"} for i in range(20)])
    assert main(["advise", str(prompts)]) == 1
    shown = capsys.readouterr().out
    assert shown.startswith("Nothing is advised") and "Instead" in shown


def test_checkable_prompts_call_for_grpo(tmp_path: Path) -> None:
    rows = [{"prompt": f"what is {i} + {i}?", "solution": str(2 * i)} for i in range(40)]
    found = preftune.advise(rows, timing=False)
    assert found.method == "grpo" and found.estimates.memory is None
    assert found.recipe is not None and found.recipe.settings["reward_funcs"] == ["accuracy"]


def test_data_that_hold_nothing_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", [{"a": 1}] * 3)
    assert main(["advise", str(rows)]) == 2
    assert "No row is a pair" in capsys.readouterr().err


def test_layers_are_timed_and_the_model_s_own_files_are_enough(world: World, tmp_path: Path) -> None:
    found = preftune.advise(str(world.standard), str(world.model), epochs=1.0)
    duration, memory = found.estimates.duration, found.estimates.memory
    assert duration is not None and memory is not None and found.recipe is not None
    assert duration.seconds > duration.step > 0
    assert found.estimates.speed is not None and found.estimates.speed.optimiser > 0
    assert duration.step == pytest.approx(
        sum(duration.parts[name] for name in ("forward and backward", "optimiser", "reference"))
    )
