"""Whether an online method can be paid for: what it would take, by the estimates of ``preftune advise``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from preftune.advise.duration import estimate_duration, measure_speed
from preftune.advise.machine_facts import read_machine
from preftune.advise.memory import estimate_memory, trained_parameters
from preftune.advise.workload import plan_workload
from preftune.methods.registry import METHODS
from preftune.pipeline.align_decisions import told_accuracy
from preftune.pipeline.align_record import Decided
from preftune.pipeline.align_stages import VALIDATION, Ground, settings_for

CALLED = {"ppo": "PPO", "online-dpo": "online DPO"}


@dataclass(frozen=True)
class Means:
    """MiB that are free now, and minutes that are left (None: as many as it takes)."""

    free: float
    minutes: float | None


def present_means(minutes: float | None) -> Means:
    """The memory that is free at this moment."""
    return Means(read_machine().available, minutes)


def decide_means(
    accuracy: Mapping[str, Any],
    methods: tuple[str, ...],
    means: Means,
    takes: Callable[[str], tuple[float, float]],
) -> Decided:
    """The first of the methods that fits, where the reward model surely beats a coin; ``takes`` gives MiB, minutes."""
    figures: dict[str, Any] = {"reward_model_accuracy": accuracy}
    if not accuracy or accuracy["low"] <= 0.5:
        why = f"The reward model is not surely better than a coin: {told_accuracy(accuracy)}."
        return Decided("no", why, figures)
    refused = []
    for method in methods:
        memory, minutes = takes(method)
        figures[method] = {"memory_mib": memory, "free_mib": means.free, "minutes": minutes, "left": means.minutes}
        if memory > means.free:
            refused.append(f"{CALLED[method]} would take {memory:,.0f} MiB of {means.free:,.0f} free")
        elif means.minutes is not None and minutes > means.minutes:
            refused.append(f"{CALLED[method]} would take {minutes:.0f} minutes of {means.minutes:.0f} left")
        else:
            time = "" if means.minutes is None else f" and {minutes:.0f} of {means.minutes:.0f} minutes"
            why = f"The reward model is right in {told_accuracy(accuracy)}; {CALLED[method]} takes an estimated "
            return Decided(method, f"{why}{memory:,.0f} of {means.free:,.0f} MiB{time}.", figures)
    return Decided("no", "; ".join(refused) + ".", figures)


def estimate_method(
    method: str,
    ground: Ground,
    folder: Path,
    *,
    is_timed: bool,
    progress: Callable[[str, float | None], AbstractContextManager[Any]],
) -> tuple[float, float]:
    """MiB and minutes of an online method that starts from ``folder``; 0 minutes where it is not to be timed."""
    sizes = ground.about.sizes
    more = {"reward_funcs": ("length",), "eval_data": ground.file(VALIDATION)}
    config = METHODS[method].config_class()(**settings_for(method, ground, str(folder), more), output_dir="-")
    workload = plan_workload(method, config, ground.data.lengths, ground.data.records, ground.data.prompts)
    memory = estimate_memory(
        workload,
        config,
        sizes,
        has_bfloat16=ground.machine.has_bfloat16,
        device=ground.machine.device,
        reward_models=(float(sizes.parameters),),
    )
    if not is_timed:
        return memory.peak, 0.0
    with progress(f"timing layers for {CALLED[method]}", None):
        speed = measure_speed(ground.model, config, workload)
    return memory.peak, estimate_duration(workload, trained_parameters(config, sizes), speed).seconds / 60
