"""Where a run's micro-batches come from: records dealt out by a plan, or rollouts drawn as training goes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from preftune.data.batches import BatchPlan
from preftune.methods.context import Context
from preftune.training.loop import Computed, Figures
from preftune.training.state import Carried


class TrainingItem(Protocol):
    """What batches are made of: ``length`` counts its tokens."""

    @property
    def id(self) -> str: ...

    @property
    def length(self) -> int: ...


T = TypeVar("T", bound=TrainingItem)


@dataclass(frozen=True)
class Supply(Generic[T]):
    """This process's micro-batches of each step, as ``training.loop.Work`` asks for them.

    ``divisor(step)`` is what the loss summed over the step is divided by; ``identity`` must be equal when resumed.
    ``items`` are all there are, where that is known before training. ``half(batches)`` is where a step's second half
    begins, as ``Work`` asks.
    """

    steps_per_epoch: int
    micro_batches: Callable[[int], Sequence[Sequence[T]]]
    divisor: Callable[[int], float]
    identity: Mapping[str, Any]
    largest: Callable[[int], Sequence[T] | None] = lambda steps: None
    figures: Callable[[int], Figures] = lambda step: {}
    shown: Sequence[str] = ()
    told: Callable[[int, Sequence[Computed]], object] = lambda step, computed: None
    carried: Carried | None = None
    items: Sequence[T] = ()
    half: Callable[[Sequence[Sequence[T]]], int] = lambda batches: len(batches) // 2


def dealt_out(
    context: Context[Any],
    items: Sequence[T],
    weight: Callable[[T], float] = lambda item: 1.0,
    size: Callable[[T], float] = lambda item: 1.0,
) -> Supply[T]:
    """Every item once an epoch; ``weight(item)`` is what it counts for in the mean of the loss (1, or its tokens).

    ``size(item)`` is what it fills of ``per_device_train_batch_size``: where items are larger than 1, a micro-batch is
    computed in several.
    """
    config, process = context.config, context.accelerator.process_index
    plan = BatchPlan(
        lengths=tuple(item.length for item in items),
        batch_size=config.per_device_train_batch_size,
        accumulation=config.gradient_accumulation_steps,
        processes=context.accelerator.num_processes,
        seed=config.seed,
        strategy=config.train_sampling_strategy,
    )

    def cut(part: Sequence[int]) -> list[list[T]]:
        return cut_to_size([items[i] for i in part], config.per_device_train_batch_size, size)

    def largest(steps: int) -> Sequence[T] | None:
        part = plan.largest(process, steps=steps)
        return None if part is None else max(cut(part), key=lambda batch: sum(item.length for item in batch))

    return Supply(
        steps_per_epoch=plan.steps_per_epoch,
        micro_batches=lambda step: [batch for part in plan.micro_batches(step, process) for batch in cut(part)],
        divisor=lambda step: sum(weight(items[i]) for i in plan.members(step)),
        identity={"pairs_per_step": plan.per_step},
        largest=largest,
        items=items,
    )


def cut_to_size(items: Sequence[T], most: float, size: Callable[[T], float]) -> list[list[T]]:
    """The items in order, in batches that hold ``most`` together; one that is larger has a batch of its own."""
    batches: list[list[T]] = []
    filled = 0.0
    for item in items:
        filled += size(item)
        if not batches or filled > most:
            batches.append([])
            filled = size(item)
        batches[-1].append(item)
    return batches
