"""The learning rate as a function of the step, so that nothing of it needs saving."""

from __future__ import annotations

from collections.abc import Callable

import torch

from preftune.errors import PreftuneError
from preftune.training.settings import TrainingConfig


def learning_rates(settings: TrainingConfig, peak: float, total_steps: int) -> Callable[[int], float]:
    """Learning rate by 0-based step, from transformers' schedule of that name.

    Raises ``PreftuneError`` for a name transformers does not know, or a schedule that depends on the loss.
    """
    from transformers import get_scheduler

    optimizer = torch.optim.SGD([torch.zeros(1)], lr=peak)
    try:
        schedule = get_scheduler(
            settings.lr_scheduler_type,
            optimizer,
            num_warmup_steps=settings.warmup(total_steps),
            num_training_steps=total_steps,
            scheduler_specific_kwargs=dict(settings.lr_scheduler_kwargs or {}),
        )
        factor = schedule.lr_lambdas[0]  # type: ignore[attr-defined]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise PreftuneError(
            f"The schedule '{settings.lr_scheduler_type}' cannot be used ({error}).",
            where="--lr_scheduler_type",
            mend="Use linear, cosine, constant, constant_with_warmup or another schedule of the step alone.",
        ) from error
    return lambda step: peak * factor(step)
