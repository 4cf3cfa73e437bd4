"""Which pairs go into which step: a pure function of lengths, seed and step, so that a resumed run sees the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, TypeAlias

import numpy as np

SamplingStrategy: TypeAlias = Literal["random", "sequential"]


@dataclass(frozen=True)
class BatchPlan:
    """How examples are dealt out; an optimiser step takes ``per_step`` of them, an epoch's last step the rest."""

    lengths: tuple[int, ...]
    batch_size: int
    accumulation: int = 1
    processes: int = 1
    seed: int = 42
    strategy: SamplingStrategy = "random"

    @property
    def per_step(self) -> int:
        return self.batch_size * self.accumulation * self.processes

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self.lengths) // self.per_step)

    def micro_batches(self, step: int, process: int = 0) -> list[list[int]]:
        """The example numbers of each micro-batch of this process in the 0-based ``step``.

        Within a step examples are sorted by length, longest first: neighbours waste least on padding, and memory
        peaks at the first micro-batch. Every process has at least one, and may have one fewer than another at an
        epoch's end.
        """
        members = sorted(self.members(step), key=lambda i: (-self.lengths[i], i))
        return _cut(members, self.batch_size, self.processes)[process :: self.processes]

    def largest(self, process: int = 0, steps: int | None = None) -> list[int] | None:
        """The micro-batch of this process with the most tokens in the first epoch, or in its first ``steps``.

        None where it is in the first step, which then needs no rehearsal.
        """
        steps = self.steps_per_epoch if steps is None else min(steps, self.steps_per_epoch)
        parts = [(step, part) for step in range(steps) for part in self.micro_batches(step, process)]
        step, part = max(parts, key=lambda place: sum(self.lengths[i] for i in place[1]))
        return part if step else None

    def members(self, step: int) -> list[int]:
        """The example numbers of the 0-based ``step``, over all processes, in drawn order.

        Where an epoch's last step has fewer examples than there are processes, the epoch's first ones come
        again: a process without a micro-batch would leave the others waiting for its gradients.
        """
        epoch, within = divmod(step, self.steps_per_epoch)
        order = epoch_order(len(self.lengths), self.seed, epoch, self.strategy)
        drawn = list(order[within * self.per_step : (within + 1) * self.per_step])
        return drawn + [order[i % len(order)] for i in range(self.processes - len(drawn))]


@lru_cache(maxsize=2)
def epoch_order(n: int, seed: int, epoch: int, strategy: SamplingStrategy) -> tuple[int, ...]:
    """The order of ``n`` examples in an epoch; kept, since every step of the epoch asks for it."""
    if strategy == "sequential":
        return tuple(range(n))
    return tuple(np.random.default_rng([seed, epoch]).permutation(n).tolist())


def _cut(members: list[int], batch_size: int, least: int) -> list[list[int]]:
    """Parts of ``batch_size``, or ``least`` parts of like size where that gives more."""
    n = len(members)
    if n > batch_size * (least - 1):
        return [members[i : i + batch_size] for i in range(0, n, batch_size)]
    return [members[n * i // least : n * (i + 1) // least] for i in range(least)]


def by_length(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """All examples in batches of like length, longest first: for passes whose order does not matter."""
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
