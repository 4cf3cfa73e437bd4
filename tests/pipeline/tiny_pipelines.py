"""Pipelines on the tiny world, a fraction of a second a stage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from preftune.methods.reporting import Reporter
from preftune.pipeline.plan import read_plan
from preftune.pipeline.stages import PipelineResult, run_pipeline
from tests.methods.tiny_runs import listener
from tests.tiny_world import World

QUICK: dict[str, Any] = {
    "dtype": "float32",
    "max_steps": 2,
    "per_device_train_batch_size": 8,
    "logging_steps": 1,
    "eval_fraction": 0.0,
    "eval_strategy": "no",
    "save_steps": 1,
    "learning_rate": 3e-3,
}
MEASURED = QUICK | {"eval_fraction": 0.25, "max_new_tokens": 4, "num_completions": 4, "num_samples": 2}


def write_pipeline(world: World, folder: Path, *stages: dict[str, Any], **top: Any) -> Path:
    """A pipeline file with quick defaults and the world's pairs; ``top`` goes over its keys."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "output_dir": str(folder / "out"),
        "model": str(world.model),
        "defaults": QUICK | {"data": str(world.standard)},
        "stages": list(stages),
    }
    file = folder / "pipeline.yaml"
    file.write_text(yaml.safe_dump(content | top, sort_keys=False))
    return file


def run_file(file: Path, reporter: Reporter | None = None, **more: Any) -> PipelineResult:
    """Runs what the file asks for."""
    return run_pipeline(read_plan(file), reporter or listener([]), **more)
