"""How long the doctor takes on a run of a million logged values.

python -m benchmarks.doctor.speed [--values 1000000] [--method grpo]
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from preftune.diagnose.detectors import DETECTORS
from preftune.diagnose.doctor import diagnose
from preftune.diagnose.series import RunLog, Series

NAMES = {
    "grpo": (
        *("loss", "grad_norm", "learning_rate", "reward", "reward_std", "frac_reward_zero_std", "group/std_mean"),
        *("kl", "objective/kl", "entropy", "completions/mean_length", "completions/clipped_ratio", "reward_len_corr"),
        *("rep/distinct3", "rep/unique_prefix", "adv/mean", "adv/std", "adv/group_mean_max", "grad_snr", "gold/score"),
        *("policy/approxkl_avg", "val/ratio", "clip_ratio/low_mean", "clip_ratio/high_mean", "memory/rss_mib"),
        *("sampling/sampling_logp_difference/mean", "sampling/sampling_logp_difference/max", "nan_steps"),
    ),
    "dpo": (
        *("loss", "grad_norm", "learning_rate", "entropy", "memory/rss_mib", "nan_steps"),
        *(f"{p}{n}" for p in ("", "eval_") for n in ("rewards/chosen", "rewards/rejected", "rewards/margins")),
        *(f"{p}{n}" for p in ("", "eval_") for n in ("rewards/accuracies", "logps/chosen", "logps/rejected")),
        *("eval_loss", "eval_rewards/accuracies_confident", "ref_logps/chosen", "ref_logps/rejected"),
    ),
}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--values", type=int, default=1_000_000)
    parser.add_argument("--method", choices=sorted(NAMES), nargs="+", default=sorted(NAMES))
    options = parser.parse_args()
    for method in options.method:
        log = synthetic(method, options.values)
        diagnose(synthetic(method, 3000))  # imports
        begun, spent = time.perf_counter(), time.process_time()
        found = diagnose(log)
        seconds = time.perf_counter() - begun
        print(
            f"{method}: {sum(len(one) for one in log.series.values()):,} values, {len(log.series)} series, "
            f"{len(found.checked)} of {len(DETECTORS)} detectors: {seconds:.2f} s ({time.process_time() - spent:.2f} "
            "s of "
            f"processor), {found.verdict}"
        )


def synthetic(method: str, values: int) -> RunLog:
    """Curves that wander and trend, as many values in all."""
    draw = np.random.default_rng(0)
    n = max(values // len(NAMES[method]), 1)
    steps = np.arange(1, n + 1)
    series = {}
    for name in NAMES[method]:
        curve = (
            draw.normal() * np.linspace(0, 1, n) + draw.normal(scale=0.3, size=n) + 0.1 * draw.normal(size=n).cumsum()
        )
        series[name] = Series(name, steps, np.abs(curve) if "/" not in name else curve)
    series["nan_steps"] = Series("nan_steps", steps, np.zeros(n))
    return RunLog(f"synthetic {method}", "preftune", series, {"beta": 0.1, "num_generations": 8}, method)


if __name__ == "__main__":
    main()
