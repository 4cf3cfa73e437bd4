"""benchmarks/rollout.py: both sides draw what was asked for, and the table says what was measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import rollout
from benchmarks.rollout import CONTENDERS, GENERATE, Job, rollout_tables, run_job
from benchmarks.table import OURS
from tests.tiny_world import World


@pytest.mark.parametrize("contender", CONTENDERS)
@pytest.mark.parametrize("stops", [False, True])
def test_run_draws_every_completion(
    contender: str, stops: bool, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("preftune.training.allocator.tune_allocator", lambda: False)
    monkeypatch.setitem(rollout.SETTINGS, "small", rollout.Setting("float32", 6, stops))
    prompts = tmp_path / "prompts.json"
    prompts.write_text(json.dumps(rollout.draw_prompts(str(world.conversational), str(world.model), 3)))
    sample = run_job(Job(contender, "small", str(world.model), str(prompts), group=2, seed=0, threads=None))
    assert len(sample["lengths"]) == 6
    assert all(length == 6 or (stops and 0 < length < 6) for length in sample["lengths"])
    assert sample["seconds"] > 0


def _sample(contender: str, number: int, seconds: float) -> dict[str, Any]:
    return {
        "round": number,
        "setting": "bf16-fixed",
        "contender": contender,
        "seconds": seconds,
        "lengths": [10, 30],
        "peak_mib": 100.0,
        "cores_busy": 1.5,
    }


def test_table_holds_tokens_per_second_of_a_round_against_each_other() -> None:
    """The machine halves its speed in round 1: the ratio is 2.5 in both."""
    samples = [_sample(GENERATE, 0, 5.0), _sample(OURS, 0, 2.0), _sample(OURS, 1, 4.0), _sample(GENERATE, 1, 10.0)]
    text = rollout_tables(
        {
            "machine": {"cpu": "Some CPU", "cores": 2, "date": "2026-01-02T03:04:05", "versions": {"python": "3.11"}},
            "options": {"rounds": 2, "group": 2},
            "model": {"name": "tiny"},
            "data": {"prompt_lengths": [4, 6]},
            "matmul_gflops": [{"bfloat16": 2.0}] * 2,
            "samples": samples,
        }
    )
    assert "| preftune | 15 (10–20) | 3.0 (2.0–4.0) | 20 | 30 | 100 | 1.50 |" in text
    assert "2.50 times the tokens/s of generate (target ≥ 2: met)" in text
