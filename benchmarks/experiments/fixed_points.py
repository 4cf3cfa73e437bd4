"""Where a GRPO that penalises the KL token by token must end, exactly.

GRPO puts its penalty into the loss, a token at a time (Shao et al. 2024, arXiv:2402.03300, eq. 3). Its gradient holds
the penalty of a token against the choice of that token alone, not against the earlier choices that led there; the
rewards go to all tokens. So each choice weighs the reward still to be expected, but not the KL still to be paid, and
what comes out is not pi* but a fixed point of its own:

``reverse``  k3 times the ratio (``use_bias_correction_kl``), or k2: the gradient of KL(pi || pi_ref) of the next symbol
``forward``  k3 alone: its gradient is that of KL(pi_ref || pi) of the next symbol

Each choice's fixed point needs only the choices after it, so one sweep from the last symbol to the first finds all.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Final, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks.experiments.enumerable_world import LENGTH, N_SYMBOLS, LogProbs

Penalty = Literal["sequence", "reverse", "forward"]
Steps = Float[Tensor, "*prefix symbols"]


def fixed_point(reference: LogProbs, rewards: LogProbs, beta: float, penalty: Penalty) -> LogProbs:
    """log pi at the fixed point; with the penalty of the whole ``sequence`` it is pi*."""
    steps = conditionals(reference)
    values = rewards.view((N_SYMBOLS,) * LENGTH)
    chosen: list[Tensor] = []
    for given in reversed(steps):
        policy = BEST[penalty](given, values, beta)
        paid = beta * (policy.exp() * (policy - given)).sum(-1) if penalty == "sequence" else 0.0
        values = (policy.exp() * values).sum(-1) - paid
        chosen.append(policy)
    return joined(chosen[::-1])


def conditionals(policy: LogProbs) -> list[Steps]:
    """log p(symbol | prefix) for every prefix, by length."""
    tree = policy.view((N_SYMBOLS,) * LENGTH)
    prefixes = [tree.flatten(place).logsumexp(-1) for place in range(LENGTH)] + [tree]
    return [longer - shorter[..., None] for shorter, longer in pairwise(prefixes)]


def joined(steps: list[Steps]) -> LogProbs:
    """log p of every completion from log p(symbol | prefix)."""
    found = steps[0]
    for step in steps[1:]:
        found = found[..., None] + step
    return found.flatten()


def _nearest(given: Steps, values: Steps, beta: float) -> Steps:
    """The p with the highest E[value] - beta KL(p || given)."""
    return (given + values / beta).log_softmax(-1)


def _covering(given: Steps, values: Steps, beta: float) -> Steps:
    """The p with the highest E[value] - beta KL(given || p): beta given / (level - value), the level by bisection."""
    shares = beta * given.exp()
    low, high = (values + shares).amax(-1, keepdim=True), values.amax(-1, keepdim=True) + beta
    for _ in range(60):
        level = (low + high) / 2
        too_low = (shares / (level - values)).sum(-1, keepdim=True) > 1
        low, high = torch.where(too_low, level, low), torch.where(too_low, high, level)
    return (shares / (high - values)).log().log_softmax(-1)


BEST: Final[dict[Penalty, Callable[[Steps, Steps, float], Steps]]] = {
    "sequence": _nearest,
    "reverse": _nearest,
    "forward": _covering,
}
