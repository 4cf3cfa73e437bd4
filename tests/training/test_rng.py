"""Generators that go on exactly where they were."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from preftune.training import rng
from preftune.training.checkpoints import load_newest, save_checkpoint


@pytest.fixture(autouse=True)
def _leave_generators_as_they_were() -> Iterator[None]:
    state = rng.capture()
    yield
    rng.restore(*state)


def _draw() -> list[float]:
    """Numbers of every kind; the gaussians leave half of a pair behind in python and numpy."""
    python = [random.random(), random.gauss(0, 1)]
    numpy = [float(np.random.rand()), float(np.random.randn())]
    return python + numpy + torch.randn(3).tolist() + torch.randperm(5).tolist()


def test_one_seed_gives_one_course() -> None:
    rng.seed_everything(2**40 + 7)
    first = _draw()
    rng.seed_everything(2**40 + 7)
    assert _draw() == first
    rng.seed_everything(8)
    assert _draw() != first


@pytest.mark.parametrize("draws_before", [0, 1, 7])
def test_restored_generators_repeat_the_same_numbers(draws_before: int) -> None:
    rng.seed_everything(3)
    for _ in range(draws_before):
        _draw()
    state = rng.capture()
    expected = [_draw() for _ in range(400)]  # beyond one block of the Mersenne twister
    rng.seed_everything(99)
    assert rng.restore(*state) == ()
    assert [_draw() for _ in range(400)] == expected


def test_capturing_draws_nothing() -> None:
    rng.seed_everything(3)
    expected = [_draw(), _draw()]
    rng.seed_everything(3)
    rng.capture()
    first = _draw()
    rng.capture()
    assert [first, _draw()] == expected


def test_the_state_survives_a_checkpoint(tmp_path: Path) -> None:
    rng.seed_everything(5)
    _draw()
    values, tensors = rng.capture()
    save_checkpoint(tmp_path, 1, {"rng": tensors}, {"rng": values}, keep=None)
    expected = _draw()
    loaded = load_newest(tmp_path)
    assert loaded is not None
    rng.restore(loaded.values["rng"], loaded.tensors["rng"])
    assert _draw() == expected


def test_the_values_are_plain_json() -> None:
    values, _ = rng.capture()
    assert json.loads(json.dumps(values, allow_nan=False)) == values


def test_a_device_that_is_gone_is_told() -> None:
    values, tensors = rng.capture()
    told = rng.restore(values, tensors | {"cuda-63": torch.zeros(16, dtype=torch.uint8)})
    assert len(told) == 1
    assert "cuda-63" in told[0]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_cuda_generators_repeat_the_same_numbers() -> None:
    rng.seed_everything(3)
    torch.randn(3, device="cuda")
    state = rng.capture()
    expected = torch.randn(5, device="cuda")
    torch.randn(5, device="cuda")
    assert rng.restore(*state) == ()
    assert torch.equal(torch.randn(5, device="cuda"), expected)
