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
    ``items`` are all there are, where that is known before training.
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


def dealt_out(context: Context[Any], items: Sequence[T], weight: Callable[[T], float] = lambda item: 1.0) -> Supply[T]:
    """Every item once an epoch; ``weight(item)`` is what it counts for in the mean of the loss (1, or its tokens)."""
    config, process = context.config, context.accelerator.process_index
    plan = BatchPlan(
        lengths=tuple(item.length for item in items),
        batch_size=config.per_device_train_batch_size,
        accumulation=config.gradient_accumulation_steps,
        processes=context.accelerator.num_processes,
        seed=config.seed,
        strategy=config.train_sampling_strategy,
    )

    def largest(steps: int) -> Sequence[T] | None:
        part = plan.largest(process, steps=steps)
        return None if part is None else [items[i] for i in part]

    return Supply(
        steps_per_epoch=plan.steps_per_epoch,
        micro_batches=lambda step: [[items[i] for i in part] for part in plan.micro_batches(step, process)],
        divisor=lambda step: sum(weight(items[i]) for i in plan.members(step)),
        identity={"pairs_per_step": plan.per_step},
        largest=largest,
        items=items,
    )
