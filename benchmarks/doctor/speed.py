"""What the doctor costs: on a log of a million values, on a log that grows to 10,000 lines, and in real training.

    python -m benchmarks.doctor.speed [--parts read live runs] [--values 1000000] [--lines 10000]

``read`` reads such a run from its folder and asks every detector: under 3 seconds are promised. ``live`` gives the
lines one after another to the detectors of a run that goes on, at several times a step: under 1% of that time is
promised, and a line must not cost more the longer the log is. ``runs`` trains small models, whose steps are the
shortest there are, and measures what part of their time the detectors took. Seconds are those of a clock on the wall;
of the processor, where it says so: a busy machine takes longer for the same.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import numpy as np

from benchmarks.machine import describe_machine, machine_slug
from preftune.diagnose.doctor import diagnose
from preftune.diagnose.live import LiveDoctor
from preftune.diagnose.readers.find import read_log
from preftune.diagnose.series import RunLog, Series

RESULTS = Path(__file__).parents[1] / "results"
STEP_TIMES = (0.05, 0.2, 1.0, 5.0)  # seconds
KINDS = ("healthy-dpo", "healthy-grpo")  # made with letters.py, in seconds
SETTINGS = {"beta": 0.1, "num_generations": 8}
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
    parser.add_argument("--parts", nargs="+", choices=("read", "live", "runs"), default=["read", "live", "runs"])
    parser.add_argument("--values", type=int, default=1_000_000)
    parser.add_argument("--lines", type=int, default=10_000)
    options = parser.parse_args()
    machine = describe_machine()
    path = RESULTS / f"doctor-speed-{machine_slug(machine)}.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    diagnose(synthetic("grpo", 100))  # what is imported once is not measured
    if "read" in options.parts:
        found["read"] = [told("read", read(method, options.values)) for method in NAMES]
    if "live" in options.parts:
        found["live"] = [
            told("live", grow(method, options.lines, seconds)) for method in NAMES for seconds in STEP_TIMES
        ]
    if "runs" in options.parts:
        found["runs"] = [told("runs", in_training(kind)) for kind in KINDS]
    question = "What do the detectors cost on long logs, while a log grows, and in training?"
    path.write_text(json.dumps({"question": question, "machine": machine} | found, indent=1) + "\n")
    print(f"written to {path}")


def told(part: str, figures: dict[str, Any]) -> dict[str, Any]:
    """The figures, printed."""
    print(part, json.dumps(figures), flush=True)
    return figures


def read(method: str, values: int) -> dict[str, Any]:
    """Seconds to read a run of so many values from its folder, and to ask every detector."""
    log = synthetic(method, values // len(NAMES[method]))
    with TemporaryDirectory(prefix="doctor-speed-") as folder:
        lines = "".join(json.dumps({"step": step, **row}) + "\n" for step, row in rows_of(log))
        (Path(folder) / "metrics.jsonl").write_text(lines)
        (Path(folder) / "config.yaml").write_text(json.dumps({"method": method, **SETTINGS}))
        begun, processor = time.perf_counter(), time.process_time()
        (again,) = read_log(folder)
        middle = time.perf_counter()
        found = diagnose(again)
        ended = time.perf_counter()
    return {
        "method": method,
        "values": sum(len(one) for one in again.series.values()),
        "megabytes": round(len(lines) / 1e6, 1),
        "seconds": round(ended - begun, 2),
        "of_reading": round(middle - begun, 2),
        "of_processor": round(time.process_time() - processor, 2),
        "checked": len(found.checked),
    }


def grow(method: str, lines: int, step_time: float) -> dict[str, Any]:
    """What the lines of a run cost whose every step takes ``step_time`` seconds by its clock and logs one."""
    log = synthetic(method, lines)
    now, costs, looks = 0.0, [], []
    with TemporaryDirectory(prefix="doctor-speed-") as folder:
        doctor = LiveDoctor(Path(folder), method, SETTINGS, lambda text: None, clock=lambda: now)
        for step, row in rows_of(log):
            now += step_time
            before, begun = doctor._lines_looked, time.perf_counter()
            doctor.on_log(step, row)
            costs.append(time.perf_counter() - begun)
            if doctor._lines_looked > before:
                looks.append(costs[-1])
    tenth = max(lines // 10, 1)
    return {
        "method": method,
        "lines": lines,
        "step_seconds": step_time,
        "share_of_step_time": round(sum(costs) / (lines * step_time), 5),
        "looks": len(looks),
        "longest_look_ms": round(1000 * max(looks, default=0.0), 1),
        "line_without_a_look_us": round(1e6 * statistics.median(costs), 1),
        "ms_a_line_by_tenth_of_the_log": [
            round(1000 * statistics.mean(costs[begin : begin + tenth]), 3) for begin in range(0, lines, tenth)
        ],
    }


def in_training(kind: str, seed: int = 0) -> dict[str, Any]:
    """What part of a real run's time, from its first line to its last, went to the detectors."""
    import torch

    from benchmarks.doctor.kinds import ALL
    from benchmarks.doctor.running import record

    torch.set_num_threads(1)
    with TemporaryDirectory(prefix="doctor-speed-") as starts, watched() as times:
        os.environ["PREFTUNE_CACHE"] = starts
        plan = ALL[kind].plan(seed)
        record(kind, seed, plan, Path(starts))
    in_doctor = sum(end - begin for begin, end in times[1:])  # before the first line nobody has waited
    whole = times[-1][1] - times[0][1]
    return {
        "kind": kind,
        "steps": plan.settings["max_steps"],
        "lines": len(times),
        "seconds": round(whole, 2),
        "seconds_a_line": round(whole / max(len(times) - 1, 1), 4),
        "share_of_the_time": round(in_doctor / whole, 5),
        "longest_line_ms": round(1000 * max(end - begin for begin, end in times), 1),
    }


@contextmanager
def watched() -> Iterator[list[tuple[float, float]]]:
    """When each line of the run within came to the detectors, and when they were done with it."""
    times: list[tuple[float, float]] = []
    own = LiveDoctor.on_log

    def on_log(self: LiveDoctor, step: int, values: Any) -> Any:
        if step == 1 or (times and self is not seen[0]):  # the run that makes the start is over
            times.clear()
        seen[:] = [self]
        begun = time.perf_counter()
        try:
            return own(self, step, values)
        finally:
            times.append((begun, time.perf_counter()))

    seen: list[LiveDoctor] = []
    with patch.object(LiveDoctor, "on_log", on_log):
        yield times


def rows_of(log: RunLog) -> Iterator[tuple[int, dict[str, float]]]:
    """The log line by line."""
    steps = next(iter(log.series.values())).steps.tolist()
    columns = {name: series.values.tolist() for name, series in log.series.items()}
    for place, step in enumerate(steps):
        yield step, {name: values[place] for name, values in columns.items()}


def synthetic(method: str, lines: int) -> RunLog:
    """Curves that wander and trend, each with so many points."""
    draw = np.random.default_rng(0)
    steps = np.arange(1, max(lines, 1) + 1)
    n = len(steps)
    series = {}
    for name in NAMES[method]:
        curve = (
            draw.normal() * np.linspace(0, 1, n) + draw.normal(scale=0.3, size=n) + 0.1 * draw.normal(size=n).cumsum()
        )
        series[name] = Series(name, steps, np.abs(curve) if "/" not in name else curve)
    series["nan_steps"] = Series("nan_steps", steps, np.zeros(n))
    return RunLog(f"synthetic {method}", "preftune", series, SETTINGS, method)


if __name__ == "__main__":
    main()
