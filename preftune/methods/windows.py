"""Windows of experiences as a supply: drawn when a step needs them, dealt out, kept in the checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
import torch

from preftune.data.batches import epoch_order
from preftune.methods.across import gathered
from preftune.methods.carried import with_prefix
from preftune.methods.context import Context
from preftune.methods.experience import Experience, pack_window, unpack_window
from preftune.methods.online_settings import OnlineConfig
from preftune.methods.supply import Supply
from preftune.training.loop import Computed, Figures
from preftune.training.state import Carried

APPROXIMATE_KL = "policy/approxkl_avg"  # of the policy from what it was when the window was drawn, nats a token


@dataclass(frozen=True)
class Window:
    """What was drawn at once: this process's experiences, and what its figures for the log are."""

    experiences: Sequence[Experience]
    figures: Figures


TakePrompts: TypeAlias = Callable[[int], list[int]]  # the next so many of this process's prompts, by number
MakeWindow: TypeAlias = Callable[[int, TakePrompts], Window]


@dataclass(frozen=True)
class Portion:
    """How experiences are cut: ``weight(one)`` is what one counts for in the mean of the loss.

    ``counts(one)`` is False for those that would change nothing, which are not computed.
    """

    weight: Callable[[Experience], float]
    counts: Callable[[Experience], bool] = lambda one: True


def drawn_in_windows(
    context: Context[Any], n_prompts: int, make: MakeWindow, portion: Portion, carried: Carried | None = None
) -> Supply[Experience]:
    """``make(number, take)`` draws a window; an epoch is a pass over the prompts. ``carried`` is the method's own."""
    windows = _Windows(context, n_prompts, make, portion, carried)
    return Supply(
        steps_per_epoch=windows.steps_per_epoch,
        micro_batches=windows.micro_batches,
        divisor=windows.divisor,
        identity=windows.identity(),
        figures=windows.figures,
        shown=("reward",),
        told=windows.told,
        carried=windows,
        half=between_groups,
    )


def between_groups(batches: Sequence[Sequence[Experience]]) -> int:
    """The micro-batch nearest to the middle that begins with a prompt of its own; 0 where none does.

    Completions of one prompt have advantages that add up to nothing: a half that parts them is no sample of the whole.
    """
    places = [
        place
        for place in range(1, len(batches))
        if batches[place] and batches[place - 1] and batches[place][0].group != batches[place - 1][-1].group
    ]
    return min(places, key=lambda place: abs(2 * place - len(batches)), default=0)


class _Windows:
    """The window at hand, and how far into the prompts the run is."""

    def __init__(
        self,
        context: Context[Any],
        n_prompts: int,
        make: MakeWindow,
        portion: Portion,
        carried: Carried | None,
    ) -> None:
        self.context, self.n_prompts, self.make, self.portion, self.carried = context, n_prompts, make, portion, carried
        config: OnlineConfig = context.config
        self.steps_per_window = config.mini_batches * config.passes
        per_window = config.completions_per_window * context.accelerator.num_processes // config.num_generations
        self.steps_per_epoch = max(1, -(-n_prompts // per_window)) * self.steps_per_window
        self.number = -1
        self.taken = 0  # prompts so far, over all processes
        self.stopped = False  # no more steps on this window
        self.experiences: list[Experience] = []
        self.fresh: Figures = {}

    def identity(self) -> dict[str, Any]:
        """What must be the same when resumed."""
        config: OnlineConfig = self.context.config
        return {
            "completions_per_window": config.completions_per_window,
            "steps_per_window": self.steps_per_window,
            "num_generations": config.num_generations,
            "sampling": str(config.sampling),
            "reward_constraints": list(config.reward_constraints),
            "processes": self.context.accelerator.num_processes,
        }

    def micro_batches(self, step: int) -> list[list[Experience]]:
        """This process's part of the step; a new window is drawn where the step is its first."""
        number = step // self.steps_per_window
        if number != self.number:
            window = self.make(number, self._take)
            self.number, self.stopped = number, False
            self.experiences, self.fresh = list(window.experiences), window.figures
        if self.stopped:
            return []
        return self._cut(self._members(step))

    def divisor(self, step: int) -> float:
        """The weights of the step's experiences over all processes."""
        own = sum(self.portion.weight(one) for one in self._members(step))
        return max(sum(gathered(self.context.accelerator, [own])), 1.0)

    def figures(self, step: int) -> Figures:
        """The window's figures, once."""
        fresh, self.fresh = self.fresh, {}
        return fresh

    def told(self, step: int, computed: Sequence[Computed]) -> None:
        """Ends the window where the policy has moved too far from what drew it (``early_stop_kl``)."""
        limit = self.context.config.early_stop_kl
        if limit is None or self.stopped:
            return
        sums = [(float(total), float(weight)) for one in computed for total, weight in _of(one, APPROXIMATE_KL)]
        everywhere = gathered(self.context.accelerator, sums)
        weight = sum(weight for _, weight in everywhere)
        if weight and sum(total for total, _ in everywhere) / weight > limit:
            self.stopped = True
            self.fresh = {"policy/early_stopped": (1.0, 1.0)}

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Every process's window and the place among the prompts: resuming in the middle of one changes nothing."""
        tensors, window = pack_window(self.experiences)
        method_tensors, method = ({}, {}) if self.carried is None else self.carried.state()
        fresh = {name: [float(total), float(weight)] for name, (total, weight) in self.fresh.items()}
        values = {"number": self.number, "taken": self.taken, "stopped": self.stopped, "method": method}
        parts = gathered(self.context.accelerator, [(tensors, {"window": window, "fresh": fresh})])
        values["processes"] = [part for _, part in parts]
        packed = {f"{process}.{name}": t for process, (own, _) in enumerate(parts) for name, t in own.items()}
        return packed | {f"method.{name}": tensor for name, tensor in method_tensors.items()}, values

    def load_state(self, tensors: Mapping[str, torch.Tensor], values: Mapping[str, Any]) -> None:
        """Goes on from what ``state`` gave."""
        self.number, self.taken, self.stopped = (values[name] for name in ("number", "taken", "stopped"))
        process = self.context.accelerator.process_index
        own = values["processes"][process]
        self.fresh = {name: (total, weight) for name, (total, weight) in own["fresh"].items()}
        self.experiences = unpack_window(with_prefix(tensors, f"{process}."), own["window"])
        if self.carried is not None:
            self.carried.load_state(with_prefix(tensors, "method."), values["method"])

    def _take(self, n: int) -> list[int]:
        """The next ``n`` prompts of this process; epochs follow each other, each in an order of its own."""
        accelerator, config = self.context.accelerator, self.context.config
        whole = n * accelerator.num_processes
        places = range(self.taken, self.taken + whole)
        self.taken += whole
        orders = (divmod(place, self.n_prompts) for place in places)
        numbers = [
            epoch_order(self.n_prompts, config.seed, epoch, config.train_sampling_strategy)[within]
            for epoch, within in orders
        ]
        return numbers[accelerator.process_index :: accelerator.num_processes]

    def _cut(self, members: Sequence[Experience]) -> list[list[Experience]]:
        """Those that count, in as many micro-batches as any process needs; where some are short, others fill up."""
        config: OnlineConfig = self.context.config
        kept = [one for one in members if self.portion.counts(one)]
        others = [one for one in members if not self.portion.counts(one)]
        own = -(-len(kept) // (config.per_device_train_batch_size * config.unit))
        needed = max(gathered(self.context.accelerator, [own]))
        short = max(needed * config.unit - len(kept), 0)
        units = _in_units([*kept, *others[:short]], config.unit)
        cuts = [round(len(units) * i / max(needed, 1)) for i in range(needed + 1)]
        return [[one for unit in units[begin:end] for one in unit] for begin, end in pairwise(cuts)]

    def _members(self, step: int) -> list[Experience]:
        """The experiences of the step: a part of the window, whose prompts are shuffled anew at each pass."""
        config: OnlineConfig = self.context.config
        within = step % self.steps_per_window
        turn, part = divmod(within, config.mini_batches)
        ordered = self.experiences
        if config.mini_batches > 1:
            groups = sorted({one.group for one in self.experiences})
            draw = np.random.default_rng([config.seed, self.number, turn])
            place = {group: int(i) for group, i in zip(groups, draw.permutation(len(groups)), strict=True)}
            ordered = sorted(self.experiences, key=lambda one: place[one.group])
        cuts = [round(len(ordered) * i / config.mini_batches / config.unit) * config.unit for i in (part, part + 1)]
        return ordered[cuts[0] : cuts[1]]


def _in_units(experiences: Sequence[Experience], unit: int) -> list[Sequence[Experience]]:
    return [experiences[begin : begin + unit] for begin in range(0, len(experiences), unit)]


def _of(computed: Computed, name: str) -> list[tuple[Any, Any]]:
    return [computed.metrics[name]] if name in computed.metrics else []
