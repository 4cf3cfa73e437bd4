"""Curves made up for detectors: a healthy run of each method, to which one thing is done."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from preftune.diagnose.detectors import DETECTORS
from preftune.diagnose.findings import Outcome
from preftune.diagnose.series import RunLog, Sample, Series

N = 120


def noisy(level: Any, scale: float = 0.02, seed: int = 0, n: int = N) -> np.ndarray:
    """``level`` (a number, or one a step) with Gaussian noise."""
    draw = np.random.default_rng([seed, n])
    return np.broadcast_to(np.asarray(level, dtype=float), (n,)) + draw.normal(scale=scale, size=n)


def rising(begin: float, end: float, n: int = N) -> np.ndarray:
    """From one level towards another, ever slower."""
    return end + (begin - end) * np.exp(-4 * np.linspace(0, 1, n))


def line(begin: float, end: float, n: int = N) -> np.ndarray:
    """Straight from one level to another."""
    return np.linspace(begin, end, n)


def run(
    method: str | None,
    series: Mapping[str, Any],
    config: Mapping[str, Any] | None = None,
    samples: tuple[Sample, ...] = (),
    documents: Mapping[str, Any] | None = None,
) -> RunLog:
    """A run of these curves; those of ten points are evaluations, a tenth of the run apart."""
    made = {}
    for name, values in series.items():
        array = np.asarray(values, dtype=float)
        steps = np.arange(1, len(array) + 1)
        if name.startswith(("eval_", "ref_logps")):
            steps = steps * (N // max(len(array), 1))
        made[name] = Series(name, steps, array)
    return RunLog("synthetic", "test", made, dict(config or {}), method, samples, dict(documents or {}))


def healthy(method: str, **changes: Any) -> RunLog:
    """A healthy run of the method, with some curves in the place of its own; None leaves one out."""
    curves = {"dpo": pairs, "ipo": of_ipo, "kto": kto, "reward": reward_model, "simpo": pairs}.get(method, online)()
    config = changes.pop("config", {})
    samples = changes.pop("samples", ())
    named = {name.replace("__", "/"): values for name, values in changes.items()}
    merged = {name: values for name, values in (curves | named).items() if values is not None}
    base = {"beta": 0.1, "learning_rate": 1e-6, "max_grad_norm": 1.0, "max_completion_length": 256, "dtype": "float32"}
    base |= {"num_generations": 8, "loss_type": ["sigmoid"]} if method != "grpo" else {"num_generations": 8}
    return run(method, merged, base | config, samples)


def pairs() -> dict[str, np.ndarray]:
    """Of DPO, with a slight fall of the chosen side."""
    chosen, rejected = rising(0.0, -0.1), rising(0.0, -1.0)
    evals = np.linspace(0.1, 1, 10)
    return {
        "loss": noisy(rising(np.log(2), 0.42)),
        "grad_norm": noisy(rising(3.0, 2.0), 0.2),
        "rewards/chosen": noisy(chosen, 0.005) * np.minimum(np.arange(N), 1),
        "rewards/rejected": noisy(rejected, 0.005) * np.minimum(np.arange(N), 1),
        "rewards/margins": noisy(chosen - rejected, 0.01),
        "rewards/accuracies": np.clip(noisy(rising(0.5, 0.85), 0.05), 0, 1),
        "logps/chosen": noisy(-80 + chosen / 0.1, 3.0),
        "logps/rejected": noisy(-85 + rejected / 0.1, 3.0),
        "entropy": noisy(rising(1.5, 1.4)),
        "learning_rate": line(1e-6, 0),
        "nan_steps": np.zeros(N),
        "eval_loss": 0.7 - 0.2 * evals,
        "eval_rewards/accuracies": 0.5 + 0.3 * evals,
        "eval_rewards/chosen": -0.1 * evals,
        "eval_rewards/rejected": -1.0 * evals,
        "eval_rewards/margins": 0.9 * evals,
        "eval_logps/chosen": -80 - evals,
        "eval_logps/rejected": -85 - 10 * evals,
    }


def of_ipo() -> dict[str, np.ndarray]:
    """Of IPO, whose loss starts at 1 / (4 tau^2)."""
    return pairs() | {"loss": noisy(rising(25.0, 18.0), 0.2)}


def kto() -> dict[str, np.ndarray]:
    """Of KTO: z0 is 0 at first."""
    return {
        "loss": noisy(rising(0.5, 0.42)),
        "grad_norm": noisy(2.0, 0.2),
        "kl": np.maximum(noisy(rising(-0.5, 1.0), 0.2), 0),
        "rewards/chosen": noisy(rising(0.0, 0.3), 0.005) * np.minimum(np.arange(N), 1),
        "rewards/rejected": noisy(rising(0.0, -0.4), 0.005) * np.minimum(np.arange(N), 1),
        "rewards/margins": noisy(rising(0.0, 0.7), 0.01),
        "logps/chosen": noisy(-80, 3.0),
        "logps/rejected": noisy(-84, 3.0),
        "learning_rate": line(1e-6, 0),
    }


def reward_model() -> dict[str, np.ndarray]:
    """Of a reward model."""
    evals = np.linspace(0.1, 1, 10)
    return {
        "loss": noisy(rising(np.log(2), 0.5)),
        "grad_norm": noisy(2.0, 0.2),
        "accuracy": np.clip(noisy(rising(0.5, 0.72), 0.05), 0, 1),
        "margin": noisy(rising(0.0, 1.0), 0.05),
        "mean_reward": noisy(0.1, 0.1),
        "max_reward": noisy(2.0, 0.2),
        "learning_rate": line(1e-5, 0),
        "eval_loss": 0.7 - 0.12 * evals,
        "eval_accuracy": 0.55 + 0.15 * evals,
        "eval_margin": evals,
    }


def online() -> dict[str, np.ndarray]:
    """Of GRPO, RLOO or PPO: the loss is next to nothing, entropy falls and the reward is noisy."""
    return {
        "loss": noisy(0.0, 0.01),
        "grad_norm": noisy(0.6, 0.1),
        "reward": noisy(rising(0.2, 1.2), 0.08),
        "reward_std": noisy(0.5, 0.05),
        "frac_reward_zero_std": np.clip(noisy(0.1, 0.05), 0, 1),
        "group/std_mean": noisy(0.45, 0.05),
        "reward_len_corr": noisy(0.1, 0.1),
        "completions/mean_length": noisy(rising(100, 110), 4),
        "completions/clipped_ratio": np.clip(noisy(0.02, 0.01), 0, 1),
        "rep/distinct3": noisy(rising(0.9, 0.8), 0.02),
        "rep/unique_prefix": np.clip(noisy(rising(1.0, 0.85), 0.02), 0, 1),
        "entropy": noisy(rising(1.2, 0.6), 0.02),
        "kl": np.maximum(noisy(rising(0, 0.05), 0.002), 0) * np.minimum(np.arange(N), 1),
        "objective/kl": np.maximum(noisy(rising(0, 5.0), 0.2), 0) * np.minimum(np.arange(N), 1),
        "policy/approxkl_avg": np.abs(noisy(0.005, 0.001)),
        "clip_ratio/low_mean": np.abs(noisy(0.01, 0.002)),
        "clip_ratio/high_mean": np.abs(noisy(0.01, 0.002)),
        "val/ratio": noisy(1.0, 0.005),
        "explained_variance": noisy(rising(0.0, 0.5), 0.05),
        "adv/mean": noisy(0.0, 1e-7),
        "adv/std": noisy(0.89, 0.02),
        "grad_snr": noisy(0.4, 0.3),
        "sampling/sampling_logp_difference/mean": np.abs(noisy(0.005, 0.001)),
        "sampling/sampling_logp_difference/max": np.abs(noisy(0.5, 0.1)),
        "learning_rate": line(1e-6, 0),
        "memory/rss_mib": noisy(4000, 3.0),
        "nan_steps": np.zeros(N),
    }


def ask(name: str, log: RunLog) -> Outcome:
    """What the detector with that id says, whatever series it needs."""
    detector = next(one for one in DETECTORS if one.id == name)
    return detector.detect(log)
