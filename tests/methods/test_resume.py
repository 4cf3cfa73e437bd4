"""A run stopped or killed at any moment goes on to the model it would have made."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from preftune.errors import PreftuneError
from preftune.training.checkpoints import list_checkpoints
from tests.methods.tiny_runs import FULL, WAYS, curves, run, saved_weights, stopping_at
from tests.tiny_world import World, pair_rows, write_rows

# Twelve steps of two micro-batches; six make an epoch.
SHAPE: dict[str, Any] = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "logging_steps": 4}


@pytest.mark.parametrize("way", WAYS)
def test_stopped_and_resumed_run_has_the_same_bits(way: str, world: World, tmp_path: Path) -> None:
    """Stopped three times: at a step's end, at an epoch's end, and between two logged steps."""
    settings = WAYS[way] | SHAPE
    run(world, tmp_path / "straight", **settings)
    for number, step in enumerate((1, 6, 9)):
        summary = run(world, tmp_path / "run", stopping_at(step), **settings, resume=number > 0)
        assert (summary.training.stopped, summary.training.steps) == ("SIGTERM", step)
        assert not (tmp_path / "run" / "model").exists()
    assert list_checkpoints(tmp_path / "run" / "checkpoints") == [6, 9]
    run(world, tmp_path / "run", **settings, resume=True)
    _assert_same(tmp_path / "straight", tmp_path / "run")


def test_every_step_is_a_place_to_stop(world: World, tmp_path: Path) -> None:
    """Stopped after each step in turn."""
    settings = FULL | SHAPE | {"num_samples": 0, "num_completions": 0}
    run(world, tmp_path / "straight", **settings)
    for step in range(1, 12):
        assert run(world, tmp_path / "run", stopping_at(step), **settings, resume=step > 1).training.steps == step
    run(world, tmp_path / "run", **settings, resume=True)
    _assert_same(tmp_path / "straight", tmp_path / "run")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_runs_end_in_the_same_model(world: World, tmp_path: Path) -> None:
    """Six kills: one while it loads, the others at moments drawn within a step and its checkpoint."""
    settings = FULL | {"num_train_epochs": 4, "save_strategy": "steps", "save_steps": 1}
    run(world, tmp_path / "straight", **settings)
    draw, folder, reached = random.Random(0), tmp_path / "run", 0
    for step in (0, 2, 6, 9, 14, 18):
        _kill(step, draw.uniform(0.0, 0.04), world, folder, **settings, resume=step > 0)
        steps = list_checkpoints(folder / "checkpoints")
        assert max(steps, default=0) >= max(reached, step)
        reached = max(steps, default=0)
    run(world, folder, **settings, resume=True)
    _assert_same(tmp_path / "straight", folder)


def test_resume_with_other_settings_names_them(world: World, tmp_path: Path) -> None:
    settings = FULL | SHAPE
    run(world, tmp_path / "run", stopping_at(3), **settings)
    more = write_rows(tmp_path / "more.jsonl", pair_rows(61))
    begun = curves(tmp_path / "run")
    for changed, words in [
        ({"data": str(more)}, "tokens was"),
        ({"per_device_train_batch_size": 2}, "pairs_per_step was 8, is 4"),
        ({"learning_rate": 1e-3}, "learning_rate was 0.003, is 0.001"),
        ({"num_train_epochs": 3}, "steps was 12, is 18"),
        ({"max_length": 8}, "tokens was"),
    ]:
        with pytest.raises(PreftuneError, match=f"begun with other settings.*{words}"):
            run(world, tmp_path / "run", **settings | changed, resume=True)
    assert curves(tmp_path / "run") == begun
    assert list_checkpoints(tmp_path / "run" / "checkpoints") == [3]
    run(world, tmp_path / "run", **settings, resume=True)


def _assert_same(straight: Path, other: Path) -> None:
    """Weights, curves, answers and measures, to the last bit."""
    assert curves(straight) == curves(other)
    one, two = saved_weights(straight), saved_weights(other)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    first, second = (json.loads((folder / "eval.json").read_text()) for folder in (straight, other))
    for document in (first, second):
        del document["seconds"], document["reference"]["checks"]
    assert first == second
    samples = [folder / "samples.jsonl" for folder in (straight, other)]
    assert samples[0].is_file() == samples[1].is_file()
    if samples[0].is_file():
        assert samples[0].read_bytes() == samples[1].read_bytes()


def _kill(step: int, seconds: float, world: World, folder: Path, **settings: Any) -> None:
    """Runs in a child and kills it so long after its checkpoint of ``step``."""
    child = os.fork()
    if child == 0:
        try:
            run(world, folder, **settings)
        finally:
            os._exit(1)
    while max(list_checkpoints(folder / "checkpoints"), default=0) < step:
        assert os.waitpid(child, os.WNOHANG) == (0, 0), "the run ended by itself"
        time.sleep(0.001)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
