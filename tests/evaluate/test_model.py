"""A model on disk examined on pairs, alone and beside another."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from preftune.data.records import Pair
from preftune.errors import PreftuneError
from preftune.evaluate.model import (
    Examined,
    OpenModel,
    examine,
    model_folder,
    open_model,
)
from preftune.models.settings import ModelConfig
from tests.methods.tiny_runs import FULL, LORA, run
from tests.tiny_world import World, pair_rows

PAIRS = [Pair(**row) for row in pair_rows(12, seed=9)]


class _Bar:
    def advance(self, n: float = 1, **figures: Any) -> None: ...


@contextmanager
def _progress(description: str, total: float | None) -> Iterator[_Bar]:
    yield _Bar()


def _open(model: Path | str) -> OpenModel:
    return open_model(ModelConfig(model=str(model), dtype="float32"), lambda note: None)


def _examine(model: Path | str, pairs: list[Pair] = PAIRS) -> Examined:
    return examine(_open(model), pairs, beta=0.1, max_length=64, batch_size=5, progress=_progress)


@pytest.fixture(scope="module")
def trained(world: World, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Run folders: all weights trained, and an adapter."""
    root = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFTUNE_CACHE", str(root / "cache"))
        run(world, root / "full", **FULL, num_train_epochs=3)
        run(world, root / "lora", **LORA, num_train_epochs=3)
    return {name: root / name for name in ("full", "lora")}


def test_trained_model_ranks_right_and_the_start_does_not(world: World, trained: dict[str, Path]) -> None:
    before, after = _examine(world.model), _examine(model_folder(str(trained["full"])))
    assert before.measures["ranking_accuracy"].value < 0.8
    assert after.measures["ranking_accuracy"].value == 1.0


def test_adapter_is_measured_against_its_own_base(trained: dict[str, Path]) -> None:
    found = _examine(model_folder(str(trained["lora"]))).measures
    assert found["preference_accuracy"].value == 1.0
    assert found["reward_margin"].low > 0.5


def test_model_is_the_same_by_its_folder_and_by_its_run(trained: dict[str, Path]) -> None:
    by_run = _examine(model_folder(str(trained["full"])))
    by_folder = _examine(model_folder(str(trained["full"] / "model")))
    assert np.array_equal(by_run.scores.log_probs, by_folder.scores.log_probs)


def test_unfinished_run_has_no_model_yet(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("")
    with pytest.raises(PreftuneError, match=r"no model yet.*--resume"):
        model_folder(str(tmp_path))
    assert model_folder("some/hub-name") == "some/hub-name"
