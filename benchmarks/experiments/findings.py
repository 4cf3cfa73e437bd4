"""From runs to what may be said of them: means over seeds with intervals, claims with verdicts, files, tables."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import describe_machine
from preftune.evaluate.measures import Measure, mean, paired_change

RESULTS = Path(__file__).parents[1] / "results"
SEEDS = (0, 1, 2, 3, 4)
HOLDS, FAILS, OPEN = "holds", "does not hold", "open"

Run = Mapping[str, Any]
Result = Mapping[str, Any]


@dataclass(frozen=True)
class Claim:
    """What was expected, the measured difference that decides it, and whether it was found.

    ``verdict`` is "holds" or "does not hold" where the 95% interval of the difference lies on one side of
    ``bound``, and "open" where it lies on both.
    """

    expected: str
    difference: Measure
    verdict: str


def experiment(
    description: str | None,
    name: str,
    settings: Mapping[str, Any],
    runs_of: Callable[[int], Iterable[Run]],
    seeds: Sequence[int] = SEEDS,
) -> Result:
    """Runs an experiment from the command line: ``runs_of(seed)`` for each seed; writes its file, gives its content."""
    import torch

    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(seeds))
    parser.add_argument("--jobs", type=int, default=1, help="Seeds run at the same time, each on one thread.")
    parser.add_argument("--output", type=Path, default=file_of(name))
    options = parser.parse_args()
    torch.set_num_threads(1)
    machine, begun = describe_machine(), _processor_seconds()
    result: dict[str, Any] = {"machine": machine, "settings": dict(settings), "seeds": [], "runs": []}
    found = _all_runs(runs_of, options.seeds, options.jobs)
    for seed, runs in zip(options.seeds, found, strict=True):
        result["seeds"].append(seed)
        result["runs"] += runs
        _write(result, begun, options.output)  # a stopped experiment keeps the seeds that are done
    _write(result, begun, options.output)  # once more: the time of other processes is known when they have ended
    return result


def file_of(name: str) -> Path:
    """Where the result of an experiment is kept."""
    return RESULTS / f"experiment-{name}.json"


def figures(runs: Sequence[Run], figure: str, **which: Any) -> list[Any]:
    """A figure of the runs in which ``which`` holds, by seed."""
    chosen = [run for run in runs if all(run[name] == value for name, value in which.items())]
    return [run[figure] for run in sorted(chosen, key=lambda run: run["seed"])]


def over_seeds(values: Sequence[float], unit: str = "") -> Measure:
    """The mean over seeds with Student's 95% interval."""
    return mean(values, unit, "Mean over seeds", "Every seed has a world, a policy and an order of its own.")


def spread(values: Sequence[float]) -> float:
    """The standard deviation over seeds."""
    return float(np.std(values, ddof=1))


def claim_above(expected: str, more: Sequence[float], less: Sequence[float], bound: float = 0.0) -> Claim:
    """The claim that ``more`` exceeds ``less`` by ``bound``, seed for seed."""
    difference = paired_change(less, more, "", expected)
    return Claim(expected, difference, _verdict(difference.low > bound, difference.high < bound))


def claim_within(expected: str, loss: Sequence[float], of: Sequence[float], bound: float) -> Claim:
    """The claim that ``loss`` falls short of ``of`` by less than ``bound``, seed for seed."""
    difference = paired_change(loss, of, "", expected)
    return Claim(expected, difference, _verdict(difference.high < bound, difference.low > bound))


def told(measure: Measure, digits: int = 1, scale: float = 100) -> str:
    """A measure with its interval: ``93.1 (92.0 to 94.2)``."""
    # Adding 0 turns a rounded -0.0 into 0.0.
    value, low, high = (round(scale * one, digits) + 0.0 for one in (measure.value, measure.low, measure.high))
    return f"{value:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def claims_table(claims: Sequence[Claim], digits: int, scale: float = 1, unit: str = "") -> str:
    """The claims with what was measured, as a Markdown table."""
    rows = [[claim.expected, told(claim.difference, digits, scale), claim.verdict] for claim in claims]
    return markdown(["expected", f"measured difference{f', {unit}' if unit else ''}", "found"], rows)


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; all columns but the first are figures."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def about(result: Result, command: str) -> str:
    """Machine, versions, date and duration in one line."""
    machine = result["machine"]
    names = ("torch", "transformers", "python")
    versions = ", ".join(f"{name} {machine['versions'][name]}" for name in names)
    return (
        f"`python -m benchmarks.experiments.{command}`, {machine['cpu']}, one thread, {machine['date'][:10]}, "
        f"{versions}; seeds {_listed(result['seeds'])}, {result['cpu_seconds']:.0f} s of processor time."
    )


def _write(result: dict[str, Any], begun: float, output: Path) -> None:
    result["cpu_seconds"] = round(_processor_seconds() - begun, 1)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def _all_runs(
    runs_of: Callable[[int], Iterable[Run]], seeds: Sequence[int], jobs: int
) -> Iterator[list[dict[str, Any]]]:
    """The runs of each seed, in order, as they are done."""
    if jobs == 1:
        yield from ([dict(run) for run in runs_of(seed)] for seed in seeds)
        return
    # Fresh processes: torch's threads do not survive a fork.
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        yield from pool.map(partial(_runs_of_seed, runs_of), seeds)


def _runs_of_seed(runs_of: Callable[[int], Iterable[Run]], seed: int) -> list[dict[str, Any]]:
    import torch

    torch.set_num_threads(1)
    return [dict(run) for run in runs_of(seed)]


def _processor_seconds() -> float:
    """Of this process and of those it has waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _listed(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))


def _verdict(yes: bool, no: bool) -> str:
    if yes:
        return HOLDS
    return FAILS if no else OPEN
