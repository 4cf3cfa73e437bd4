"""The clipped value loss and explained variance."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from preftune.losses import clipped_value_loss, explained_variance

NUMBERS = st.floats(-1e3, 1e3, width=32)


def test_value_loss_is_the_worse_of_moved_and_clipped() -> None:
    values = torch.tensor([1.1, 2.0, 0.0, 2.0])
    returns = torch.tensor([3.0, 3.0, 3.0, 0.0])
    found = clipped_value_loss(values, torch.ones(4), returns, cliprange=0.2)
    # inside the range; towards the return, too far; away from it; past it, where the clipped value is nearer
    assert found.tolist() == pytest.approx([0.5 * 1.9**2, 0.5 * 1.8**2, 0.5 * 9, 0.5 * 4])


def test_value_stops_moving_towards_the_return_outside_the_range_but_always_comes_back() -> None:
    values = torch.tensor([1.1, 2.0, 0.0], requires_grad=True)
    loss = clipped_value_loss(values, torch.ones(3), torch.tensor([3.0, 3.0, 3.0])).sum()
    (gradient,) = torch.autograd.grad(loss, values)
    assert gradient.tolist() == pytest.approx([-1.9, 0.0, -3.0])


@settings(max_examples=20)
@given(st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS), min_size=1, max_size=4))
def test_value_loss_is_finite_and_not_below_half_the_square(rows: list[tuple[float, ...]]) -> None:
    values, old, returns = (torch.tensor(column) for column in zip(*rows, strict=True))
    values.requires_grad_()
    plain = 0.5 * (values - returns).square()
    loss = clipped_value_loss(values, old, returns)
    assert (loss >= plain).all()
    assert torch.isfinite(torch.autograd.grad(loss.sum(), values)[0]).all()
    assert clipped_value_loss(values, old, returns, cliprange=math.inf).tolist() == plain.tolist()


@pytest.mark.parametrize(
    ("values", "share"),
    [([1.0, 2.0, 3.0], 1.0), ([11.0, 12.0, 13.0], 1.0), ([2.0, 2.0, 2.0], 0.0), ([3.0, 2.0, 1.0], -3.0)],
)
def test_explained_variance_of_known_values(values: list[float], share: float) -> None:
    assert explained_variance(torch.tensor(values), torch.tensor([1.0, 2.0, 3.0])).item() == pytest.approx(share)


def test_returns_without_variance_have_nothing_to_explain() -> None:
    assert math.isnan(explained_variance(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 3.0])).item())
    assert math.isnan(explained_variance(torch.tensor([1.0]), torch.tensor([3.0])).item())
