"""The fingerprint of weights sees every bit, every place and every name."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from preftune.models import weights
from preftune.models.weights import all_parameters, fingerprint_weights, frozen_parameters

DTYPES = {
    torch.float32: np.int32,
    torch.bfloat16: np.int16,
    torch.float16: np.int16,
    torch.float64: np.int64,
    torch.int64: np.int64,
    torch.uint8: np.uint8,
    torch.float8_e4m3fn: np.uint8,
}


@st.composite
def _tensors(draw: st.DrawFn) -> Tensor:
    """Of any bits, NaNs and denormals included; often with few that differ."""
    dtype, words = draw(st.sampled_from(sorted(DTYPES.items(), key=str)))
    kind = np.iinfo(words)
    values = st.integers(0, 3).map(lambda shift: 1 << (shift * 8) if shift * 8 < kind.bits - 1 else 1)
    numbers = draw(st.lists(st.one_of(st.integers(kind.min, kind.max), values), min_size=1, max_size=12))
    return torch.from_numpy(np.array(numbers, dtype=words)).view(dtype)


@pytest.fixture(autouse=True, scope="module")
def _small_pieces() -> Iterator[None]:
    """So that a dozen numbers span several."""
    whole, weights._PIECE = weights._PIECE, 8
    weights._factors.cache_clear()
    yield
    weights._PIECE = whole
    weights._factors.cache_clear()


@given(_tensors(), st.data())
def test_any_flipped_bit_changes_it(tensor: Tensor, data: st.DataObject) -> None:
    flipped = tensor.clone()
    octets = flipped.view(torch.uint8)
    octets[data.draw(st.integers(0, len(octets) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    assert _print(flipped) != _print(tensor)


@given(_tensors(), st.data())
def test_two_values_that_change_places_change_it(tensor: Tensor, data: st.DataObject) -> None:
    one, other = (data.draw(st.integers(0, len(tensor) - 1)) for _ in range(2))
    swapped = tensor.clone()
    octets = swapped.view(torch.uint8).view(len(tensor), -1)
    octets[[one, other]] = octets[[other, one]]
    is_same = torch.equal(octets.flatten(), tensor.view(torch.uint8))
    assert (_print(swapped) == _print(tensor)) is is_same


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_swapped_values_of_equal_halves_are_told_apart(dtype: torch.dtype) -> None:
    """A sum of 16-bit halves weighted by place alone would miss these."""
    words = DTYPES[dtype]
    values = torch.from_numpy(np.array([1, 2**16], dtype=words)).view(dtype)
    assert _print(values) != _print(values.flip(0))


@given(st.lists(st.integers(-3, 3), min_size=3, max_size=12), st.integers(0, 9))
def test_changes_that_cancel_out_change_it(numbers: list[int], place: int) -> None:
    """One up, its neighbours down: sums weighted by place alone do not see it."""
    tensor = torch.tensor(numbers, dtype=torch.int16)
    moved = tensor.clone()
    moved[place % (len(numbers) - 2) :][:3] += torch.tensor([1, -2, 1], dtype=torch.int16)
    assert _print(moved) != _print(tensor)


def test_name_shape_dtype_and_order_change_it() -> None:
    x, y = torch.arange(6.0), torch.ones(2)
    prints = [
        fingerprint_weights([("x", x), ("y", y)]),
        fingerprint_weights([("x", x), ("z", y)]),
        fingerprint_weights([("y", y), ("x", x)]),
        fingerprint_weights([("x", x.view(2, 3)), ("y", y)]),
        fingerprint_weights([("x", x.view(torch.int32)), ("y", y)]),
        fingerprint_weights([("x", x)]),
        fingerprint_weights([]),
    ]
    assert len(set(prints)) == len(prints)


def test_it_depends_on_values_and_not_on_layout_or_pieces() -> None:
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    assert _print(x.t()) == _print(x.t().contiguous())
    assert _print(x) == _print(x.clone().requires_grad_())
    assert fingerprint_weights([("e", torch.empty(0, 3))]) != fingerprint_weights([("e", torch.empty(3, 0))])


def test_every_position_of_a_large_tensor_counts() -> None:
    """Over a piece's end and beyond, in numbers as models have them."""
    x = torch.zeros(100)
    prints = []
    for place in range(100):
        x[place] = 1.0
        prints.append(_print(x))
    assert len(set(prints)) == 100
    assert all(one != other for one, other in pairwise(prints))


def test_frozen_parameters_are_those_not_trained_and_buffers() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    module[0].weight.requires_grad_(False)
    assert [name for name, _ in frozen_parameters(module)] == [
        "0.weight",
        "1.running_mean",
        "1.running_var",
        "1.num_batches_tracked",
    ]
    assert len(all_parameters(module)) == 7


def _print(tensor: Tensor) -> str:
    return fingerprint_weights([("x", tensor)])
