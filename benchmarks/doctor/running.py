"""One run of a kind: made by the package's own trainers, its log and what was seen of its completions kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final
from unittest.mock import patch

import numpy as np

from benchmarks.doctor.letters import start_of
from benchmarks.doctor.storage import Points, Recorded, curves
from preftune.errors import PreftuneError
from preftune.methods import policy
from preftune.methods.context import Context, Given
from preftune.methods.job import Job
from preftune.methods.registry import find_method
from preftune.methods.run import run
from preftune.models.logprobs import LogProbEngine
from preftune.training.metrics import read_metrics

# Settings that a detector may want to know; the rest of a config is left out of the files.
KEPT: Final = (
    *(
        "beta",
        "loss_type",
        "label_smoothing",
        "rpo_alpha",
        "simpo_gamma",
        "ipo_normalize",
        "ref_model",
        "max_grad_norm",
    ),
    *("learning_rate", "lr_scheduler_type", "warmup_steps", "max_steps", "logging_steps", "seed", "dtype"),
    *("per_device_train_batch_size", "gradient_accumulation_steps", "num_generations", "num_iterations"),
    *("steps_per_generation", "num_ppo_epochs", "num_mini_batches", "max_completion_length", "temperature", "top_p"),
    *("kl_coef", "kl_target", "kl_estimator", "scale_rewards", "reward_weights"),
)
NOTHING_WRITTEN: Final[dict[str, Any]] = {
    "save_strategy": "no",
    "num_samples": 0,
    "num_completions": 0,
    "dtype": "float32",
    "max_length": 64,
}
EVALUATIONS = 8  # of a run on pairs
SHOWN, SHOWN_AT = 12, 10  # samples kept, at so many moments


@dataclass(frozen=True)
class Plan:
    """What a run is made of: settings over the defaults, data, the reward that it sees and the gold one behind it.

    ``prepare`` makes the job in the place of the method's own, ``around`` is
    put around that, ``within`` holds while the run goes.
    """

    method: str
    settings: Mapping[str, Any]
    train: Sequence[Mapping[str, Any]]
    evaluation: Sequence[Mapping[str, Any]] = ()
    reward: Callable[[str, str], float] | None = None  # of prompt and answer
    gold: Callable[[str], float] | None = None
    ref_epochs: float | None = None  # what the reference has read, where it is not the start
    around: Callable[[Callable[..., Any]], Callable[..., Any]] = lambda prepare: prepare
    prepare: Callable[[Context[Any]], Job[Any]] | None = None
    within: Callable[[], AbstractContextManager[Any]] = nullcontext
    hides: frozenset[str] = field(default_factory=frozenset)  # series that are left out of the log


def record(kind: str, seed: int, plan: Plan, starts: Path) -> Recorded:
    """Makes the run and gives what is left of it; one that its own checks stopped has the log up to there.

    ``starts`` is where models to start from are kept.
    """
    window = _Window(plan)
    is_online = plan.reward is not None
    begun = time.monotonic()
    with (
        TemporaryDirectory(prefix="doctor-run-") as folder,
        patch.object(policy, "_engine", _quick_engine),
        plan.within(),
    ):
        config = _config(plan, seed, Path(folder) / "run", starts)
        rewards = [window.reward] if is_online else ()
        given = Given(train=list(plan.train), evaluation=list(plan.evaluation) or None, rewards=rewards)
        prepare = plan.around(plan.prepare or find_method(plan.method).prepare())
        try:
            summary = run(config, prepare, given=given)
            if summary.training.stopped:  # by Ctrl-C: half a run is none
                raise SystemExit(f"{kind} {seed}: stopped by {summary.training.stopped}")
        except PreftuneError as stopped:  # by its own checks: what it had logged is what there is
            print(f"{kind} {seed}: {stopped}", flush=True)
        rows = read_metrics(Path(folder) / "run" / "metrics.jsonl")
    series = curves(rows) | (window.curves(config) if is_online else {})
    kept = {name: value for name, value in config.model_dump(mode="json").items() if name in KEPT and value is not None}
    kept |= {"learning_rate": config.peak_learning_rate}
    kept |= {"ref_model": "another"} if "ref_model" in kept else {}
    return Recorded(
        kind,
        seed,
        plan.method,
        kept,
        {name: points for name, points in series.items() if name not in plan.hides},
        window.samples(config) if is_online else (),
        time.monotonic() - begun,
    )


def _config(plan: Plan, seed: int, output: Path, starts: Path) -> Any:
    others = {} if plan.ref_epochs is None else {"ref_model": start_of(seed, starts, plan.ref_epochs)}
    values = {
        "model": start_of(seed, starts),
        "data": "letters",
        "output_dir": str(output),
        "seed": seed,
        **NOTHING_WRITTEN,
        **_evaluations(plan),
        **others,
        **plan.settings,
    }
    return find_method(plan.method).config_class().model_validate(values)


def _quick_engine(context: Context[Any]) -> Callable[..., LogProbEngine]:
    """On models this small the path for long sequences takes twice the time of this one."""
    return partial(LogProbEngine, path="masked", temperature=getattr(context.config, "temperature", 1.0))


def _evaluations(plan: Plan) -> dict[str, Any]:
    if plan.reward is not None:
        return {"eval_strategy": "no", "eval_fraction": 0.0, "eval_prompts": 0}
    return {"eval_strategy": "steps", "eval_steps": max(plan.settings["max_steps"] // EVALUATIONS, 1)}


class _Window:
    """Stands between the trainer and its reward: sees every completion, and what it is worth to the gold score."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.seen = plan, []
        self.figures: list[dict[str, float]] = []

    def reward(self, prompts: Sequence[str], completions: Sequence[str], **_: Any) -> list[float]:
        """The reward that the run sees."""
        plan = self.plan
        assert plan.reward is not None
        values = [plan.reward(prompt, answer) for prompt, answer in zip(prompts, completions, strict=True)]
        found = {}
        if plan.gold is not None:
            found["gold/score"] = float(np.mean([plan.gold(answer) for answer in completions]))
        self.figures.append(found)
        self.seen.append(list(zip(prompts, completions, values, strict=True))[:SHOWN])
        return values

    def curves(self, config: Any) -> dict[str, Points]:
        """What was seen, at the first step of each window."""
        names = dict.fromkeys(name for row in self.figures for name in row)
        steps = [self._step(config, number) for number in range(len(self.figures))]
        return {name: (steps, [row[name] for row in self.figures]) for name in names}

    def samples(self, config: Any) -> list[dict[str, Any]]:
        """A few completions of some windows, the first and the last among them."""
        chosen = sorted({round(place) for place in np.linspace(0, len(self.seen) - 1, SHOWN_AT)}) if self.seen else []
        return [
            {"step": self._step(config, number), "prompt_id": prompt, "text": text, "tokens": len(text) + 1}
            | {"reward": round(value, 4)}
            for number in chosen
            for prompt, text, value in self.seen[number]
        ]

    @staticmethod
    def _step(config: Any, window: int) -> int:
        return 1 + window * config.mini_batches * config.passes


def with_figures(method: Any) -> Any:
    """A method on pairs that also logs how often it is right where it is surest: of the quarter of largest margins."""
    import torch

    own = method.figures

    def figures(values: Any) -> dict[str, Any]:
        chosen, rejected = method.rewards(values).unbind(1)
        margins = chosen - rejected
        surest = torch.zeros_like(margins)
        quarter = max(len(margins) // 4, 1)
        surest[margins.abs().topk(quarter).indices] = len(margins) / quarter
        return {**own(values), "rewards/accuracies_confident": surest * (margins > 0)}

    return replace(method, figures=figures)
