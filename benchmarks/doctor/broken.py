"""What is done to a run to break it: references that move, rows that are not finite, samplers that draw otherwise."""

from __future__ import annotations

import copy
import mmap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import nn

from preftune.methods import pair_run
from preftune.methods.context import Context
from preftune.methods.job import Job
from preftune.methods.references import References
from preftune.models.reference import Reference, groups_of, starting_weights
from preftune.training.loop import Computed

Prepare = Callable[[Context[Any]], Job[Any]]
Around = Callable[[Prepare], Prepare]
MakeReference = Callable[[Context[Any], nn.Module], tuple[nn.Module, Callable[[Sequence[Any]], None]]]
MOVING_AVERAGE = 0.95  # what a reference keeps of itself at each step


def with_reference(make: MakeReference) -> Around:
    """A run on pairs with another reference: ``make`` gives it, and what is done to it after each step."""

    def around(prepare: Prepare) -> Prepare:
        def prepared(context: Context[Any]) -> Job[Any]:
            moves: list[Callable[[Sequence[Any]], None]] = []

            def choose(_: Any, engine: Any, train: Any, held_out: Any, *others: Any) -> References:
                reference, after = make(context, engine)
                moves.append(after)

                @torch.no_grad()
                def log_probs(items: Sequence[Any]) -> Any:
                    return reference(groups_of(items)).sums().view(-1, 2).detach().clone()

                broken = Reference("broken", log_probs, lambda: "")
                return References(broken, lambda: log_probs(held_out), starting_weights(engine))

            with patch.object(pair_run, "choose_references", choose):
                job = prepare(context)

            def compute(module: nn.Module, batch: Sequence[Any]) -> Computed:
                computed = job.compute(module, batch)
                moves[0](batch)
                return computed

            return replace(job, compute=compute)

        return prepared

    return around


def aliased(context: Context[Any], policy: nn.Module) -> tuple[nn.Module, Callable[[Sequence[Any]], None]]:
    """The reference is the policy itself."""
    return policy, lambda batch: None


def averaged(context: Context[Any], policy: nn.Module) -> tuple[nn.Module, Callable[[Sequence[Any]], None]]:
    """The reference follows the policy, as a moving average of its weights."""
    reference = copy.deepcopy(policy)

    @torch.no_grad()
    def follow(batch: Sequence[Any]) -> None:
        for own, other in zip(reference.parameters(), policy.parameters(), strict=True):
            own.mul_(MOVING_AVERAGE).add_(other.detach(), alpha=1 - MOVING_AVERAGE)

    return reference, follow


def trained(context: Context[Any], policy: nn.Module) -> tuple[nn.Module, Callable[[Sequence[Any]], None]]:
    """The reference's weights are in the optimiser too: it walks away from the chosen answers as the policy nears."""
    reference = copy.deepcopy(policy)
    optimiser = torch.optim.AdamW(reference.parameters(), lr=context.config.learning_rate)

    def learn(batch: Sequence[Any]) -> None:
        with torch.no_grad():
            ours = policy(groups_of(batch)).sums().view(-1, 2)
        ratios = ours - reference(groups_of(batch)).sums().view(-1, 2)
        optimiser.zero_grad()
        loss = -nn.functional.logsigmoid(context.config.beta * (ratios[:, 0] - ratios[:, 1])).mean()
        loss.backward()
        optimiser.step()

    return reference, learn


def poisoned(share: float, begin: float) -> Around:
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

    return _changed(change)


def blind_critic(prepare: Prepare) -> Prepare:
    """The value model's head is noise, and nothing of the model learns."""

    def change(context: Context[Any], job: Job[Any]) -> Job[Any]:
        value: Any = job.engine.value
        draw = torch.Generator().manual_seed(context.config.seed)
        for name, weight in value.named_parameters():
            weight.requires_grad_(False)
            if "score" in name:
                weight.data.copy_(torch.randn(weight.shape, generator=draw))
        return job

    return _changed(change)(prepare)


def leaking(prepare: Prepare) -> Prepare:
    """Each step keeps a MiB that nobody needs, of memory that no step before had: pages of its own."""

    def change(context: Context[Any], job: Job[Any]) -> Job[Any]:
        kept: list[mmap.mmap] = []

        def compute(module: nn.Module, batch: Sequence[Any]) -> Computed:
            kept.append(mmap.mmap(-1, 1 << 20))
            kept[-1].write(bytes(1 << 20))
            return job.compute(module, batch)

        return replace(job, compute=compute)

    return _changed(change)(prepare)


def turned_round(prepare: Prepare) -> Prepare:
    """The loss has the wrong sign."""
    return _changed(_turned)(prepare)


def _turned(context: Context[Any], job: Job[Any]) -> Job[Any]:
    def compute(module: nn.Module, batch: Sequence[Any]) -> Computed:
        computed = job.compute(module, batch)
        return replace(computed, loss_sum=-computed.loss_sum)

    return replace(job, compute=compute)


def _changed(change: Callable[[Context[Any], Job[Any]], Job[Any]]) -> Around:
    return lambda prepare: lambda context: change(context, prepare(context))


@contextmanager
def grouped_anyhow(seed: int) -> Iterator[None]:
    """Completions are shuffled before they are compared with their group, which is then one of many prompts."""
    from preftune.methods import grpo

    draw, original = np.random.default_rng(seed), grpo.group_advantages

    def shuffled(online: Any, rewards: np.ndarray) -> np.ndarray:
        order, advantages = draw.permutation(len(rewards)), np.empty(len(rewards))
        advantages[order] = original(online, rewards[order])
        return advantages

    with patch.object(grpo, "group_advantages", shuffled):
        yield


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
