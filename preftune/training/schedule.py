"""The learning rate as a function of the step, so that nothing of it needs saving."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import torch

from preftune.errors import PreftuneError
from preftune.training.settings import TrainingConfig


def learning_rates(settings: TrainingConfig, peak: float, total_steps: int) -> Callable[[int], float]:
    """Learning rate by 0-based step, by transformers' schedule of that name.

    Raises ``PreftuneError`` for a name transformers does not know, or a schedule that depends on the loss.
    """
    warmup = settings.warmup(total_steps)
    after = None if settings.lr_scheduler_kwargs else _AFTER_WARM_UP.get(settings.lr_scheduler_type)
    if after is None:
        factor = _of_transformers(settings, peak, warmup, total_steps)
        return lambda step: peak * factor(step)
    rest = max(total_steps - warmup, 1)
    return lambda step: peak * (step / warmup if step < warmup else after((step - warmup) / rest))


# The share of the peak at each share of the steps after the warm-up. transformers has these too, but behind an import
# of peft and all that peft imports: 170 MB and two seconds that a run of all weights has no other use for.
_AFTER_WARM_UP: Final[dict[str, Callable[[float], float]]] = {
    "linear": lambda done: max(1 - done, 0.0),
    "cosine": lambda done: max((1 + math.cos(math.pi * done)) / 2, 0.0),
    "constant_with_warmup": lambda done: 1.0,
}


def _of_transformers(settings: TrainingConfig, peak: float, warmup: int, total_steps: int) -> Callable[[int], float]:
    from transformers import get_scheduler

    optimizer = torch.optim.SGD([torch.zeros(1)], lr=peak)
    try:
        schedule = get_scheduler(
            settings.lr_scheduler_type,
            optimizer,
            num_warmup_steps=warmup,
            num_training_steps=total_steps,
            scheduler_specific_kwargs=dict(settings.lr_scheduler_kwargs or {}),
        )
        return schedule.lr_lambdas[0]  # type: ignore[attr-defined]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise PreftuneError(
            f"The schedule '{settings.lr_scheduler_type}' cannot be used ({error}).",
            where="--lr_scheduler_type",
            mend="Use linear, cosine, constant, constant_with_warmup or another schedule of the step alone.",
        ) from error
