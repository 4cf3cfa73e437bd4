"""THE loop: batches and a step go in, a trained module comes out. It knows no method."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, TypeAlias, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn

from preftune.errors import PreftuneError
from preftune.training.gradient_noise import NAME as GRADIENT_SNR
from preftune.training.gradient_noise import GradientHalves
from preftune.training.memory import memory_figures
from preftune.training.metrics import Averages, MetricsLog, truncate_after
from preftune.training.optimizer import MasterAdamW, build_optimizer, first_non_finite, gradient_norm
from preftune.training.schedule import learning_rates
from preftune.training.settings import TrainingConfig
from preftune.training.state import Carried, LoopState, restore_state, save_state
from preftune.training.stopping import StopRequest
from preftune.training.throughput import Throughput

Batch = TypeVar("Batch")
Figures: TypeAlias = Mapping[str, tuple[Tensor | float, Tensor | float]]  # sums with their weights
MOST_NON_FINITE_IN_A_ROW = 5


@dataclass(frozen=True)
class Computed:
    """What a step makes of one micro-batch: the loss summed over its items, and figures as (sum, weight).

    ``weight`` is what the sum is to be divided by for the mean: the items, unless it is said to be their tokens.
    """

    loss_sum: Tensor
    items: int
    tokens: int
    metrics: Figures
    weight: float | None = None

    @property
    def mean_over(self) -> float:
        return self.items if self.weight is None else self.weight


@dataclass(frozen=True)
class Work(Generic[Batch]):
    """What is trained and how a step is computed; steps are counted from 0.

    ``micro_batches(step)`` gives this process's part of a step, ``items(step)`` the items of the step over all
    processes, or what else the loss is a mean over: each weighs the same, however the step is cut.
    ``compute(module, batch)`` runs the forward pass. ``evaluate(step)`` gives figures to log. ``identity`` must be
    equal when resumed.
    ``largest`` is the micro-batch that takes the most memory; it is computed once after the first step.

    A step without micro-batches changes nothing and counts. ``figures(step)``, asked after them, are further
    figures to log; those in ``shown`` are told to who watches. ``told(step, computed)`` hears of each step done.
    ``half(batches)`` is the micro-batch with which the second half of a step begins, whose gradient is compared with
    the first's (``grad_snr``); 0 where it is not to be. ``carried`` is what a checkpoint keeps beside the loop's own.
    """

    module: nn.Module
    micro_batches: Callable[[int], Sequence[Batch]]
    items: Callable[[int], float]
    compute: Callable[[nn.Module, Batch], Computed]
    name: Callable[[Batch], str]
    evaluate: Callable[[int], Mapping[str, float]]
    steps_per_epoch: int
    identity: Mapping[str, Any] = field(default_factory=dict)
    largest: Batch | None = None
    figures: Callable[[int], Figures] = lambda step: {}
    shown: Sequence[str] = ()
    told: Callable[[int, Sequence[Computed]], object] = lambda step, computed: None
    half: Callable[[Sequence[Batch]], int] = lambda batches: 0
    carried: Carried | None = None


@dataclass(frozen=True)
class Watch:
    """Who is told while the loop runs: each step's figures, notes of one line, and what is logged.

    ``on_log(step, values)`` may give a reason to stop; the run then ends as it does on a signal. It is asked in the
    process that writes the log.
    """

    on_step: Callable[[int, Mapping[str, float]], object] = lambda step, figures: None
    note: Callable[[str], object] = lambda text: None
    on_log: Callable[[int, Mapping[str, float]], str | None] = lambda step, values: None


@dataclass(frozen=True)
class TrainingResult:
    """How a run ended; ``stopped`` is the signal or the reason of ``Watch.on_log`` where it is not at its last step."""

    steps: int
    nan_steps: int
    seconds: float
    stopped: str | None = None


def train(
    work: Work[Any],
    settings: TrainingConfig,
    learning_rate: float,
    folder: Path,
    accelerator: Accelerator,
    watch: Watch,
) -> TrainingResult:
    """Trains ``work.module`` in place, from its newest checkpoint in ``folder`` where ``settings.resume``.

    A step with a gradient that is not finite is skipped, counted and named; several in a row raise
    ``PreftuneError``. On SIGTERM or SIGINT, or where ``watch.on_log`` gives a reason, the step is finished, a
    checkpoint written, and the run ends.
    """
    total = settings.total_steps(work.steps_per_epoch)
    rate = learning_rates(settings, learning_rate, total)
    # Else a launcher's setting, or an earlier trainer's in this process, would divide the loss once more.
    accelerator.gradient_accumulation_steps = 1
    module = accelerator.prepare_model(work.module) if accelerator.num_processes > 1 else work.module
    optimizer = build_optimizer(work.module, learning_rate, settings)
    state = LoopState()
    if settings.resume:
        state = restore_state(folder, work.module, optimizer, work.identity, watch.note, work.carried)
        if not accelerator.is_main_process:
            state.averages = Averages()  # the checkpoint has those of all processes
    log_every = settings.logging_interval(total)
    save_every = settings.save_interval(total, work.steps_per_epoch)
    eval_every = settings.eval_interval(total, work.steps_per_epoch)
    begun = time.monotonic()
    first = state.step
    meter = Throughput()
    halves = GradientHalves(work.module, optimizer) if accelerator.num_processes == 1 else None
    stopped = None
    with _open_log(folder / "metrics.jsonl", state.step, settings.resume, accelerator) as log, StopRequest() as stop:
        while state.step < total and stopped is None:
            _take_step(work, module, optimizer, state, rate(state.step), settings, accelerator, watch, meter, halves)
            state.step += 1
            last = state.step == total
            reason = None
            if state.step % log_every == 0 or last:
                reason = _log(state, work, log, accelerator, meter, watch)
            with meter.paused():
                if state.step == first + 1 and not last:
                    _rehearse(work, module, optimizer, accelerator)
                if (eval_every and state.step % eval_every == 0) or last:
                    found = _record(work.evaluate(state.step), state, work, log, accelerator, watch)
                    reason = reason or found
                stopped = None if last else _asked_to_stop(stop.name or reason, accelerator)
                due = save_every and state.step % save_every == 0 and not last
                if due or stopped:
                    carried = None if work.carried is None else work.carried.state()  # every process has its part
                    averages = _over_processes(state.averages, accelerator)
                    if accelerator.is_main_process:
                        state.averages = averages
                        keep = settings.save_total_limit
                        save_state(folder, state, work.module, optimizer, work.identity, keep, carried)
    return TrainingResult(state.step, state.nan_steps, time.monotonic() - begun, stopped)


def _rehearse(work: Work[Any], module: nn.Module, optimizer: MasterAdamW, accelerator: Accelerator) -> None:
    """The largest micro-batch forward and backward, thrown away, beside the optimiser's state.

    What does not fit into memory fails after the first step, not after an hour, and the steps find their memory at
    hand: fresh pages from the system cost up to twice a step's own time where a machine's memory is virtual.
    """
    if work.largest is None:
        return
    with torch.random.fork_rng(), accelerator.no_sync(module):
        accelerator.backward(work.compute(module, work.largest).loss_sum)
    optimizer.zero_grad()


def _open_log(
    path: Path, step: int, resumes: bool, accelerator: Accelerator
) -> AbstractContextManager[MetricsLog | None]:
    """The curves, written by one process; a resumed run writes the steps after ``step`` again."""
    if not accelerator.is_main_process:
        return nullcontext()
    if resumes:
        truncate_after(path, step)
    return MetricsLog(path)


def _asked_to_stop(own: str | None, accelerator: Accelerator) -> str | None:
    """Why any process is to stop: all leave at the same step, or the others would wait for ever."""
    names = gather_object([own]) if accelerator.num_processes > 1 else [own]
    return next((name for name in names if name is not None), None)


def _take_step(
    work: Work[Any],
    module: nn.Module,
    optimizer: MasterAdamW,
    state: LoopState,
    learning_rate: float,
    settings: TrainingConfig,
    accelerator: Accelerator,
    watch: Watch,
    meter: Throughput,
    halves: GradientHalves | None,
) -> None:
    batches = work.micro_batches(state.step)
    further = work.figures(state.step)
    state.averages.add(further)
    known = [name for name in work.shown if name in further and further[name][1]]
    shown = {name: float(further[name][0] / further[name][1]) for name in known}
    state.learning_rate = learning_rate
    if not batches:
        work.told(state.step, [])
        watch.on_step(state.step + 1, shown)
        return
    per_item = accelerator.num_processes / work.items(state.step)  # data parallelism averages over processes
    made: list[Computed] = []
    middle = work.half(batches) if halves else 0
    with optimizer.banking(len(batches) > 1 and accelerator.num_processes == 1):
        for number, batch in enumerate(batches):
            if halves and number and number == middle:
                halves.half()
            is_last = number == len(batches) - 1
            with nullcontext() if is_last else accelerator.no_sync(module):
                computed = work.compute(module, batch)
                accelerator.backward(computed.loss_sum * per_item)
            made.append(replace(computed, loss_sum=computed.loss_sum.detach()))
            meter.count(computed.items, computed.tokens)
    norm = gradient_norm(optimizer.gradients())
    is_finite = bool(torch.isfinite(norm))
    if is_finite:
        if halves and middle:
            share = sum(one.mean_over for one in made[:middle]) / sum(one.mean_over for one in made)
            powers = halves.compare(share) if 0 < share < 1 else None
            state.averages.add({GRADIENT_SNR: powers} if powers else {})
        clip = settings.max_grad_norm / (float(norm) + 1e-6) if settings.max_grad_norm else 1.0
        optimizer.step_with(learning_rate, min(clip, 1.0))
        state.nan_in_a_row = 0
        for computed in made:
            state.averages.add({"loss": (computed.loss_sum, computed.mean_over), **computed.metrics})
        state.averages.add({"grad_norm": (norm, 1.0)})
    else:
        _skip(work, batches, optimizer, state, watch)
    work.told(state.step, made)
    loss = sum(float(computed.loss_sum) for computed in made) / sum(computed.mean_over for computed in made)
    watch.on_step(state.step + 1, {"loss": loss, **shown})


def _skip(work: Work[Any], batches: Sequence[Any], optimizer: MasterAdamW, state: LoopState, watch: Watch) -> None:
    state.nan_steps += 1
    state.nan_in_a_row += 1
    where = first_non_finite(work.module, optimizer)
    names = "; ".join(work.name(batch) for batch in batches)
    optimizer.zero_grad()
    watch.note(f"step {state.step + 1} skipped: the gradient of {where} is not finite (items {names})")
    if state.nan_in_a_row >= MOST_NON_FINITE_IN_A_ROW:
        raise PreftuneError(
            f"{state.nan_in_a_row} steps in a row had gradients that are not finite, the last in {where}.",
            where=f"step {state.step + 1}, items {names}",
            mend="Lower --learning_rate, use --dtype float32, or look at these items.",
        )


def _log(
    state: LoopState,
    work: Work[Any],
    log: MetricsLog | None,
    accelerator: Accelerator,
    meter: Throughput,
    watch: Watch,
) -> str | None:
    values = _over_processes(state.averages, accelerator).take()
    values |= {"learning_rate": state.learning_rate, "nan_steps": float(state.nan_steps)}
    values |= meter.take(accelerator.num_processes) | memory_figures()
    return _record(values, state, work, log, accelerator, watch)


def _record(
    values: Mapping[str, float],
    state: LoopState,
    work: Work[Any],
    log: MetricsLog | None,
    accelerator: Accelerator,
    watch: Watch,
) -> str | None:
    """Logs the values; a reason to stop where who watches sees one in them."""
    if values and log is not None:
        log.log(state.step, state.step / work.steps_per_epoch, values)
    if values:
        accelerator.log(dict(values), step=state.step)
    return watch.on_log(state.step, values) if values and log is not None else None


def _over_processes(averages: Averages, accelerator: Accelerator) -> Averages:
    """The averages over all processes; those given are emptied."""
    own = averages.state()
    averages.load_state({})
    merged = Averages()
    for part in gather_object([own]) if accelerator.num_processes > 1 else [own]:
        merged.add({name: (total, weight) for name, (total, weight) in part.items()})
    return merged
