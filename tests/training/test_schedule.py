"""Learning rates are transformers' own, step by step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import TrainingArguments, get_scheduler

from preftune.errors import PreftuneError
from preftune.training.schedule import learning_rates
from preftune.training.settings import TrainingConfig

TOTAL, PEAK = 20, 3e-4
SCHEDULES: list[tuple[str, dict[str, Any] | None]] = [
    ("linear", None),
    ("cosine", None),
    ("cosine_with_restarts", {"num_cycles": 2}),
    ("cosine_with_min_lr", {"min_lr_rate": 0.1}),
    ("polynomial", {"power": 2.0}),
    ("constant", None),
    ("constant_with_warmup", None),
    ("inverse_sqrt", None),
    ("warmup_stable_decay", {"num_decay_steps": 5}),
]
WARMUPS: list[dict[str, float]] = [{}, {"warmup_steps": 7}, {"warmup_steps": 0.13}]


@pytest.mark.parametrize(("name", "extra"), SCHEDULES)
@pytest.mark.parametrize("warmup", WARMUPS)
def test_rates_are_those_of_transformers(name: str, extra: dict[str, Any] | None, warmup: dict[str, float]) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=PEAK)
    theirs = TrainingArguments(output_dir="unused", use_cpu=True, **warmup)  # type: ignore[arg-type]
    schedule = get_scheduler(name, optimizer, theirs.get_warmup_steps(TOTAL), TOTAL, extra)
    expected = []
    for _ in range(TOTAL):
        expected.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    rate = learning_rates(_settings(lr_scheduler_type=name, lr_scheduler_kwargs=extra, **warmup), PEAK, TOTAL)
    assert [rate(step) for step in range(TOTAL)] == pytest.approx(expected, rel=1e-12)
    assert [rate(step) for step in reversed(range(TOTAL))] == pytest.approx(expected[::-1], rel=1e-12)


def test_warmup_ratio_is_a_share_of_all_steps() -> None:
    assert _settings(warmup_ratio=0.13).warmup(TOTAL) == _settings(warmup_steps=0.13).warmup(TOTAL) == 3


@pytest.mark.parametrize("name", ["reduce_lr_on_plateau", "no_such_schedule", "cosine_with_min_lr"])
def test_schedules_that_cannot_be_a_function_of_the_step_are_refused(name: str) -> None:
    """One follows the loss, one does not exist, one lacks its argument."""
    with pytest.raises(PreftuneError, match=rf"'{name}' cannot be used") as raised:
        learning_rates(_settings(lr_scheduler_type=name), PEAK, TOTAL)
    assert raised.value.where == "--lr_scheduler_type"


def _settings(**settings: Any) -> TrainingConfig:
    return TrainingConfig(output_dir="unused", **settings)
