"""What is done to a run to break it: references that move, rows that are not finite, samplers that draw otherwise."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import torch
from torch import nn

from preftune.methods.context import Context
from preftune.methods.job import Job
from preftune.methods.pairs import pair_step
from preftune.models.reference import Reference, groups_of
from preftune.training.loop import Computed

Step = Callable[[nn.Module, Sequence[Any]], Computed]
Change = Callable[[Context[Any], Job[Any]], Job[Any]]
MOVING_AVERAGE = 0.95  # what a reference keeps of itself at each step


def aliased_reference(context: Context[Any], job: Job[Any]) -> Job[Any]:
    """The reference is the policy itself."""
    return _with_reference(job, job.engine, lambda batch: None)


def averaged_reference(context: Context[Any], job: Job[Any]) -> Job[Any]:
    """The reference follows the policy, as a moving average of its weights."""
    reference = copy.deepcopy(job.engine)

    @torch.no_grad()
    def follow(batch: Sequence[Any]) -> None:
        for own, other in zip(reference.parameters(), job.engine.parameters(), strict=True):
            own.mul_(MOVING_AVERAGE).add_(other.detach(), alpha=1 - MOVING_AVERAGE)

    return _with_reference(job, reference, follow)


def trained_reference(context: Context[Any], job: Job[Any]) -> Job[Any]:
    """The reference's weights are in the optimiser too: it walks away from the chosen answers as the policy nears."""
    reference = copy.deepcopy(job.engine)
    optimiser = torch.optim.AdamW(reference.parameters(), lr=context.config.learning_rate)

    def learn(batch: Sequence[Any]) -> None:
        with torch.no_grad():
            policy = job.engine(groups_of(batch)).sums().view(-1, 2)
        frozen = reference(groups_of(batch)).sums().view(-1, 2)
        margins = context.config.beta * ((policy - frozen)[:, 0] - (policy - frozen)[:, 1])
        optimiser.zero_grad()
        -nn.functional.logsigmoid(margins).mean().backward()
        optimiser.step()

    return _with_reference(job, reference, learn)


def poisoned(share: float, begin: float) -> Change:
    """From ``begin`` on a row of a share of the steps has a loss that is not finite."""

    def change(context: Context[Any], job: Job[Any]) -> Job[Any]:
        draw = torch.Generator().manual_seed(context.config.seed)
        taken = 0

        def compute(module: nn.Module, batch: Sequence[Any]) -> Computed:
            nonlocal taken
            taken += 1
            computed = job.compute(module, batch)
            is_late = taken > begin * context.config.max_steps
            if is_late and float(torch.rand((), generator=draw)) < share:
                return replace(computed, loss_sum=computed.loss_sum * float("inf"))
            return computed

        return replace(job, compute=compute)

    return change


def turned_round(context: Context[Any], job: Job[Any]) -> Job[Any]:
    """The loss has the wrong sign."""

    def compute(module: nn.Module, batch: Sequence[Any]) -> Computed:
        computed = job.compute(module, batch)
        return replace(computed, loss_sum=-computed.loss_sum)

    return replace(job, compute=compute)


@contextmanager
def drawn_colder(temperature: float) -> Iterator[None]:
    """The sampler draws at a temperature that training does not know of."""
    import preftune.methods.online as online

    def open_colder(*arguments: Any, **named: Any) -> Any:
        return _Colder(original(*arguments, **named), temperature)

    original = online.open_sampler
    with patch.object(online, "open_sampler", open_colder):
        yield


class _Colder:
    def __init__(self, sampler: Any, temperature: float) -> None:
        self.sampler, self.temperature = sampler, temperature

    def sample(self, prompts: Any, n: int, sampling: Any, seed: int, progress: Any = None) -> Any:
        """Draws at the other temperature."""
        return self.sampler.sample(prompts, n, replace(sampling, temperature=self.temperature), seed, progress)

    def sync(self) -> None:
        """As the sampler does."""
        self.sampler.sync()


def _with_reference(job: Job[Any], reference: nn.Module, after: Callable[[Sequence[Any]], None]) -> Job[Any]:
    """The job with another reference in training and evaluation, which ``after`` each step may move; unguarded."""
    examiner = job.during.__self__  # type: ignore[attr-defined]

    @torch.no_grad()
    def log_probs(items: Sequence[Any]) -> Any:
        return reference(groups_of(items)).sums().view(-1, 2).detach().clone()

    step: Step = pair_step(examiner.method, Reference("broken", log_probs, lambda: ""))

    def compute(module: nn.Module, batch: Sequence[Any]) -> Computed:
        computed = step(module, batch)
        after(batch)
        return computed

    measured = replace(examiner, reference=lambda: log_probs(examiner.pairs))
    return replace(job, compute=compute, during=measured.during, guard=None)
