"""Which pairs go into which step: a pure function of lengths, seed and step, so that a resumed run sees the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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
        peaks at the first micro-batch. A process may have one micro-batch fewer than another at an epoch's end.
        """
        members = sorted(self.members(step), key=lambda i: (-self.lengths[i], i))
        parts = [members[i : i + self.batch_size] for i in range(0, len(members), self.batch_size)]
        return parts[process :: self.processes]

    def members(self, step: int) -> list[int]:
        """The example numbers of the 0-based ``step``, over all processes, in drawn order."""
        epoch, within = divmod(step, self.steps_per_epoch)
        return epoch_order(len(self.lengths), self.seed, epoch, self.strategy)[
            within * self.per_step : (within + 1) * self.per_step
        ]


def epoch_order(n: int, seed: int, epoch: int, strategy: SamplingStrategy) -> list[int]:
    """The order of ``n`` examples in an epoch."""
    if strategy == "sequential":
        return list(range(n))
    return np.random.default_rng([seed, epoch]).permutation(n).tolist()


def by_length(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """All examples in batches of like length, longest first: for passes whose order does not matter."""
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
