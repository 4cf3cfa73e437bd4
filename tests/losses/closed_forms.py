"""What the tests of the losses share: columns of numbers, plain-float functions, the optimum of a convex loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

LN_2 = math.log(2)


def columns(rows: Sequence[Sequence[float]]) -> tuple[Tensor, ...]:
    """The columns of a table of numbers, as float64 tensors."""
    return tuple(torch.tensor(column, dtype=torch.float64) for column in zip(*rows, strict=True))


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0


def softplus(x: float) -> float:
    """-log sigmoid(-x), without overflow."""
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def stationary_point(loss: Callable[[Tensor], Tensor], low: float = -200.0, high: float = 200.0) -> float:
    """Where the gradient of a loss of one number turns from falling to rising, by bisection."""
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if derivative(loss, middle) > 0 else (middle, high)
    return (low + high) / 2


def derivative(loss: Callable[[Tensor], Tensor], at: float) -> float:
    x = torch.tensor([at], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(loss(x).sum(), x)
    return gradient.item()


def minimiser(loss: Callable[[Tensor], Tensor], size: int) -> Tensor:
    """The numbers that minimise a smooth loss, from zeros, by L-BFGS in float64."""
    numbers = torch.zeros(size, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [numbers], max_iter=500, tolerance_grad=1e-12, tolerance_change=1e-15, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = loss(numbers)
        value.backward()
        return value

    optimiser.step(closure)  # pyright: ignore[reportArgumentType]
    return numbers.detach()
