"""What every test starts from: no network, one thread, a cache of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

# A busy machine is no failure: how long an example takes is asserted nowhere.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}

if TYPE_CHECKING:
    from tests.tiny_world import World


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFTUNE_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    import torch

    torch.set_num_threads(1)
    yield


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """The tiny world on disk, made once."""
    from tests.tiny_world import make_world

    return make_world(tmp_path_factory.mktemp("world"))
