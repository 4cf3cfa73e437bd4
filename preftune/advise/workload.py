"""What a method computes in a step, in numbers that memory and time follow from: positions, targets, attention scores.

Prompts are computed once for all their completions, and a completion's last token is no input, as in
``models/layout.py``; attention scores are kept where ``models/attention.py`` computes a segment whole and densely.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np

from preftune.advise.data_facts import Lengths
from preftune.data.batches import BatchPlan
from preftune.models.attention import BLOCKS, DENSE_LENGTH, WORTH_BLOCKS

ONLINE: Final = ("grpo", "rloo", "ppo", "online-dpo")
WITH_VALUES: Final = ("ppo",)
_MOST_STEPS: Final = 2_000  # that are looked through for the largest micro-batch


@dataclass(frozen=True)
class Shape:
    """``positions`` go through the layers, ``targets`` through the head; ``scores`` of attention are kept a head.

    ``groups`` are the prompts with the lengths of their completions.
    """

    groups: tuple[Lengths, ...]
    positions: int
    targets: int
    scores: int

    def __add__(self, other: Shape) -> Shape:
        return Shape(
            self.groups + other.groups,
            self.positions + other.positions,
            self.targets + other.targets,
            self.scores + other.scores,
        )


@dataclass(frozen=True)
class Workload:
    """A run of ``steps`` optimiser steps of ``micro_batches`` each; ``typical`` and ``largest`` are micro-batches.

    ``items`` are what an epoch deals out. ``drawn`` is how many completions a step draws, 0 where none, ``passes``
    how often each is learned from. ``reference`` says when its log-probs are computed, if at all.
    """

    method: str
    items: int
    steps: int
    micro_batches: int
    typical: Shape
    largest: Shape
    drawn: int = 0
    passes: int = 1
    reference: Literal["none", "once", "live"] = "none"


def plan_workload(
    method: str, config: Any, lengths: Sequence[Lengths], records: int, prompts: int | None = None
) -> Workload:
    """The workload of ``records`` rows like those sampled in ``lengths``, by the settings in ``config``.

    ``prompts`` are the different ones among them: reward models take all pairs of one together.
    """
    held_out = 0.0 if config.eval_data else config.eval_fraction
    if method in ONLINE:
        return _online(method, config, lengths, round((prompts or records) * (1 - held_out)))
    items = _items(method, config, lengths)
    count = _item_count(method, config, lengths, records, prompts)
    parts = records / count if method == "reward" else 1.0  # of a prompt's comparisons, that many micro-batches
    count = max(1, round(count * (1 - held_out)))
    sizes = tuple(int(i) for i in np.resize([sum(item) for item in items], min(count, 4 * len(items))))
    plan = BatchPlan(sizes, config.per_device_train_batch_size, config.gradient_accumulation_steps, seed=config.seed)
    keep_last = method == "reward"
    batches = [
        micro
        for step in range(min(plan.steps_per_epoch, 50))
        for micro in plan.micro_batches(step)
        if len(micro) == min(config.per_device_train_batch_size, len(sizes))  # an epoch's last one is smaller
    ]
    shapes = [shape_of([items[i % len(items)] for i in micro], keep_last=keep_last) for micro in batches]
    per_step = config.per_device_train_batch_size * config.gradient_accumulation_steps
    return Workload(
        method=method,
        items=count,
        steps=config.total_steps(math.ceil(count / per_step)),
        micro_batches=math.ceil(
            parts * min(config.gradient_accumulation_steps, count / config.per_device_train_batch_size)
        ),
        typical=_nearest_to_mean(shapes),
        largest=_largest(plan, items, keep_last, config.total_steps(plan.steps_per_epoch)),
        reference=_reference(config),
    )


def shape_of(groups: Sequence[Lengths], *, keep_last: bool = False) -> Shape:
    """The shape of groups of a prompt's and its completions' tokens; ``keep_last``: scores are read, no log-probs."""
    dropped = 0 if keep_last else 1
    positions = targets = scores = 0
    for prompt, *completions in groups:
        inputs = [length - dropped for length in completions]
        length = prompt + sum(inputs)
        positions += length
        targets += len(completions) if keep_last else sum(completions)
        scores += _kept_scores(prompt, inputs)
    return Shape(tuple(groups), positions, targets, scores)


def _kept_scores(prompt: int, completions: Sequence[int]) -> int:
    whole = (prompt + sum(completions)) ** 2
    blocks = prompt**2 + sum(one * (prompt + one) for one in completions)
    fits = prompt + max(completions, default=0) <= DENSE_LENGTH
    if len(completions) >= BLOCKS and fits and blocks <= WORTH_BLOCKS * whole:
        return 0  # computed again
    return whole if whole <= DENSE_LENGTH**2 else 0


def _reference(config: Any) -> Literal["none", "once", "live"]:
    """As ``methods/references.py`` chooses."""
    if not hasattr(config, "precompute_ref_log_probs"):
        return "none"
    computes_once = config.precompute_ref_log_probs
    if computes_once is None:
        computes_once = not config.use_peft or config.num_train_epochs > 1
    return "once" if computes_once else "live"


def _nearest_to_mean(shapes: Sequence[Shape]) -> Shape:
    mean = sum(shape.positions for shape in shapes) / len(shapes)
    return min(shapes, key=lambda shape: abs(shape.positions - mean))


def _largest(plan: BatchPlan, items: Sequence[Lengths], keep_last: bool, steps: int) -> Shape:
    """The micro-batch that the loop rehearses, or the largest of the first step."""
    steps = min(plan.steps_per_epoch, steps, _MOST_STEPS)
    found = [*plan.micro_batches(0), *([] if (one := plan.largest(steps=steps)) is None else [one])]
    shapes = [shape_of([items[i % len(items)] for i in micro], keep_last=keep_last) for micro in found]
    return max(shapes, key=lambda shape: shape.positions)


# --- items of each method -----------------------------------------------------------------------------------


def _items(method: str, config: Any, lengths: Sequence[Lengths]) -> list[Lengths]:
    """What a batch is made of, as a prompt and its completions, cut to ``max_length``."""
    whole = [one for one in lengths if len(one) > 1]
    if method == "sft":
        made = [one[:2] for one in whole]
    elif method == "kto":
        made = [(one[0], each) for one in whole for each in one[1:]]  # mismatched answers leave no activations
    else:
        made = list(whole)
    return [_cut(one, config.max_length) for one in made] or [(1, 1)]


def _cut(item: Lengths, most: int | None) -> Lengths:
    if most is None:
        return item
    longest = max(item[1:])
    prompt = min(item[0], max(most // 2, most - longest))
    return (prompt, *(min(one, most - prompt) for one in item[1:]))


def _item_count(method: str, config: Any, lengths: Sequence[Lengths], records: int, prompts: int | None) -> int:
    if method == "kto" and lengths and len(lengths[0]) == 3:
        return 2 * records
    if method == "reward" and config.group_by_prompt and prompts:
        return prompts
    return records


# --- completions that are drawn -----------------------------------------------------------------------------


def _online(method: str, config: Any, lengths: Sequence[Lengths], prompts: int) -> Workload:
    """As if every completion had as many tokens as it may: what memory must have room for, and time at most."""
    room = (config.max_length or 10**9) - config.max_completion_length
    asked = sorted(one[0] for one in lengths if one[0] <= room) or [1]
    median, longest = asked[len(asked) // 2], asked[min(len(asked) - 1, math.ceil(0.99 * len(asked)))]
    batch = config.per_device_train_batch_size
    if method == "online-dpo":
        typical, largest = (_drawn_shape(prompt, 2 * batch, 2, config) for prompt in (median, longest))
    else:
        several = config.num_generations
        typical, largest = (_drawn_shape(prompt, batch, several, config) for prompt in (median, longest))
    windows = config.completions_per_window
    prompts_a_window = max(1, windows // config.num_generations)
    steps_an_epoch = max(1, prompts // prompts_a_window) * config.mini_batches * config.passes
    return Workload(
        method=method,
        items=prompts,
        steps=config.total_steps(steps_an_epoch),
        micro_batches=config.gradient_accumulation_steps,
        typical=typical,
        largest=largest,
        drawn=windows // config.mini_batches,
        passes=config.passes,
    )


def _drawn_shape(prompt: int, completions: int, several: int, config: Any) -> Shape:
    length = config.max_completion_length
    whole, rest = divmod(completions, several)
    sizes = [several] * whole + ([rest] if rest else [])
    return shape_of([(prompt, *([length] * size)) for size in sizes])
