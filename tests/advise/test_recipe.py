"""The advised config: one that runs as it is, on data of every kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

import preftune.advise
from preftune.advise.advice import Advice, write_config
from preftune.advise.recipe import make_recipe
from preftune.cli.main import main
from preftune.errors import PreftuneError
from tests.advise.test_rules import data
from tests.tiny_world import World, pair_rows, write_rows

Rows = list[dict[str, Any]]


def one_prompt() -> Rows:
    return [row | {"prompt": "what is to be done?"} for row in pair_rows(40)]


def labels() -> Rows:
    sides = [("chosen", "rejected")[i % 3 == 0] for i in range(80)]
    rows = zip(pair_rows(80), sides, strict=True)
    return [{"prompt": row["prompt"], "completion": row[side], "label": side == "chosen"} for row, side in rows]


def demonstrations() -> Rows:
    return [{"prompt": row["prompt"], "completion": row["chosen"]} for row in pair_rows(40)]


def sums() -> Rows:
    return [{"prompt": f"what is {i} + {i}?", "solution": str(2 * i)} for i in range(20)]


def advised(world: World, rows: Rows, folder: Path, **more: Any) -> Advice:
    source = write_rows(folder / "rows.jsonl", rows)
    return preftune.advise(str(source), str(world.model), timing=False, output=str(folder / "out"), **more)


@pytest.mark.parametrize(
    ("rows", "method", "more"),
    [
        (one_prompt, "ipo", {}),
        (labels, "kto", {}),
        (demonstrations, "sft", {}),
        (sums, "grpo", {"max_completion_length": 4}),
    ],
)
def test_the_config_runs(
    world: World,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    rows: Callable[[], Rows],
    method: str,
    more: Mapping[str, Any],
) -> None:
    monkeypatch.setattr("preftune.report.page.write_report", lambda folder: folder / "report.html")
    found = advised(world, rows(), tmp_path)
    assert found.method == method
    config = write_config(found, tmp_path / "config.yaml")
    short = {"max_steps": 1, "num_samples": 0, "num_completions": 0} | more
    options = [text for name, value in short.items() for text in (f"--{name}", str(value))]
    assert main([method, "--config", str(config), *options]) == 0
    assert (tmp_path / "out" / "model").is_dir()


def test_stages_before_keep_their_own_number_of_rows_a_step() -> None:
    """PPO's micro-batch is 8 completions; its reward model learns from 64 pairs a step all the same."""
    facts = {"epochs": 1.0}
    recipe = make_recipe("ppo", ("reward",), data(records=5000), None, None, _wishes(), facts, {}, {}, "out")
    reward = recipe.stages[0].settings
    assert reward["per_device_train_batch_size"] * reward["gradient_accumulation_steps"] == 64


def test_stages_before_have_the_rate_of_what_they_train() -> None:
    """All weights at an adapter's rate would be ruined."""
    wishes = _wishes(full=True)
    recipe = make_recipe("ppo", ("reward",), data(records=5000), None, None, wishes, {"epochs": 1.0}, {}, {}, "out")
    assert recipe.stages[0].settings["use_peft"] is False
    assert "learning_rate" not in recipe.stages[0].settings


def test_a_planned_gpu_stands_for_this_machine_and_nothing_is_timed(world: World, tmp_path: Path) -> None:
    found = advised(world, pair_rows(40), tmp_path, gpu_memory=80.0)
    assert found.machine.device == "cuda" and found.machine.available == 80 * 1024
    assert found.estimates.memory is not None and found.estimates.duration is None
    with pytest.raises(PreftuneError, match="no 0 GiB"):
        advised(world, pair_rows(40), tmp_path, gpu_memory=0.0)


def test_what_does_not_fit_is_told_with_the_leanest_config(world: World, tmp_path: Path) -> None:
    found = advised(world, pair_rows(40), tmp_path, gpu_memory=0.01)
    assert found.recipe is not None
    assert "does-not-fit" in {one.rule.id for one in found.risks}
    assert found.recipe.settings["per_device_train_batch_size"] == 1
    assert found.recipe.settings["gradient_checkpointing"] is True


def _wishes(**more: Any) -> Any:
    from preftune.advise.facts import Wishes

    return Wishes(**more)
