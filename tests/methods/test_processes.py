"""Two processes on one machine, over gloo: the same model as one makes, one set of files, and no waiting for ever."""

from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from preftune.training.checkpoints import list_checkpoints
from tests.methods.tiny_runs import FULL, WAYS, curves, losses, run, saved_weights, stopping_at
from tests.tiny_world import World

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
ONLINE: dict[str, Any] = {
    "learning_rate": 1e-3,
    "max_completion_length": 5,
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 2,
    "max_steps": 6,
    "max_length": 64,
    "logging_steps": 4,  # a checkpoint in between has averages of both processes
    "num_samples": 0,
    "eval_prompts": 0,
    "eval_strategy": "no",
}
OWN: dict[str, dict[str, Any]] = {
    "grpo": {"num_generations": 4, "num_iterations": 2, "dynamic_sampling": True},
    "ppo": {"num_generations": 1, "num_ppo_epochs": 2, "kl_target": 0.01, "kl_horizon": 100},
}
PATIENCE = 60.0  # seconds until processes count as waiting for each other


@pytest.mark.parametrize("way", WAYS)
def test_two_processes_make_the_model_of_one(way: str, world: World, tmp_path: Path) -> None:
    """Four pairs to a process and step; the last step of an epoch has four and one."""
    settings = WAYS[way] | {"learning_rate": 1e-4}
    run(world, tmp_path / "one", **settings)
    _run_in_two(world, tmp_path / "two", **settings, per_device_train_batch_size=4)
    one, two = saved_weights(tmp_path / "one"), saved_weights(tmp_path / "two")
    assert max(float((one[name] - two[name]).abs().max()) for name in one) < 1e-6
    assert len(curves(tmp_path / "one")) == len(curves(tmp_path / "two"))
    assert losses(tmp_path / "one") == pytest.approx(losses(tmp_path / "two"), abs=1e-6)


def test_step_with_fewer_pairs_than_processes_is_no_trap(world: World, tmp_path: Path) -> None:
    """41 pairs: a single one is left at each epoch's end."""
    _run_in_two(world, tmp_path / "run", **FULL, limit=41, eval_fraction=0.0, per_device_train_batch_size=4)
    assert len(losses(tmp_path / "run")) == 2 * 6


@pytest.mark.parametrize("method", ["grpo", "ppo"])
def test_online_run_of_two_processes_resumes_as_if_it_had_never_stopped(
    method: str, world: World, tmp_path: Path
) -> None:
    """Draws are each process's own; windows, multipliers and the KL's price are those of both."""
    settings = ONLINE | OWN[method] | {"method": method, "reward_funcs": ("target_length(target=3)",)}
    _run_in_two(world, tmp_path / "whole", **settings)
    _run_in_two(world, tmp_path / "cut", stop_second_at=3, **settings)
    assert list_checkpoints(tmp_path / "cut" / "checkpoints") == [3]
    _run_in_two(world, tmp_path / "cut", **settings, resume=True)
    assert curves(tmp_path / "whole") == curves(tmp_path / "cut")
    whole, cut = saved_weights(tmp_path / "whole"), saved_weights(tmp_path / "cut")
    assert all(bool((whole[name] == cut[name]).all()) for name in whole)


def test_signal_to_one_process_stops_both_and_they_go_on_together(world: World, tmp_path: Path) -> None:
    run(world, tmp_path / "one", **FULL)
    settings = FULL | {"per_device_train_batch_size": 4}
    _run_in_two(world, tmp_path / "two", stop_second_at=4, **settings)
    assert list_checkpoints(tmp_path / "two" / "checkpoints") == [4]
    assert not (tmp_path / "two" / "model").exists()
    _run_in_two(world, tmp_path / "two", **settings, resume=True)
    assert [row["step"] for row in curves(tmp_path / "two")] == [row["step"] for row in curves(tmp_path / "one")]
    assert losses(tmp_path / "one") == pytest.approx(losses(tmp_path / "two"), abs=1e-4)


def _run_in_two(world: World, folder: Path, stop_second_at: int | None = None, **settings: Any) -> None:
    port = _free_port()
    children = [_fork(rank, port, world, folder, stop_second_at if rank else None, settings) for rank in (0, 1)]
    deadline = time.monotonic() + PATIENCE
    codes: dict[int, int] = {}
    while len(codes) < 2 and time.monotonic() < deadline:
        for child in set(children) - set(codes):
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                codes[child] = os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    for child in set(children) - set(codes):
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert [codes.get(child, "waited for the other") for child in children] == [0, 0]


def _fork(rank: int, port: int, world: World, folder: Path, stop_at: int | None, settings: dict[str, Any]) -> int:
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        _join(rank, port)
        run(world, folder, None if stop_at is None else stopping_at(stop_at), **settings)
        code = 0
    finally:
        os._exit(code)


def _join(rank: int, port: int) -> None:
    """What a launcher says to its processes, and no memory of the parent's runs."""
    from accelerate.state import AcceleratorState, GradientState

    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "ACCELERATE_USE_CPU": "true",
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
