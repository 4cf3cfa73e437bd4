"""Runs on the disk: a line a run, gzipped, numbers cut to five digits; a RunLog again when read."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from preftune.diagnose.series import RunLog, Sample, Series
from preftune.durable import write_file

RUNS = Path(__file__).parent / "runs"
DIGITS = 5
# What is written every time, and tells no detector of these runs anything.
LEFT_OUT = frozenset({"step", "epoch", "time", "tokens_per_second", "samples_per_second", "eval_ranking_accuracy"})

Points = tuple[list[int], list[float]]


@dataclass(frozen=True)
class Recorded:
    """A run of a kind: its settings, its curves by name as steps and values, and some of its samples."""

    kind: str
    seed: int
    method: str
    config: Mapping[str, Any]
    series: Mapping[str, Points]
    samples: Sequence[Mapping[str, Any]] = field(default_factory=tuple)
    seconds: float = 0.0

    def as_log(self) -> RunLog:
        """The run as detectors see it."""
        series = {
            name: Series(name, np.array(steps), np.array(values, dtype=float), name)
            for name, (steps, values) in self.series.items()
        }
        samples = tuple(Sample(**one) for one in self.samples)
        return RunLog(f"{self.kind}-{self.seed}", "preftune", series, self.config, self.method, samples)


def curves(rows: Sequence[Mapping[str, Any]]) -> dict[str, Points]:
    """Rows of ``metrics.jsonl`` as series; what is null there is NaN here."""
    found: dict[str, Points] = {}
    for row in rows:
        for name, value in row.items():
            if name not in LEFT_OUT:
                steps, values = found.setdefault(name, ([], []))
                steps.append(int(row["step"]))
                values.append(float("nan") if value is None else float(value))
    return found


def file_of(kind: str, folder: Path = RUNS) -> Path:
    """Where the runs of a kind lie."""
    return folder / f"{kind}.jsonl.gz"


def read_runs(kind: str, folder: Path = RUNS) -> list[Recorded]:
    """The runs of a kind that were made so far, by seed."""
    file = file_of(kind, folder)
    if not file.is_file():
        return []
    lines = gzip.decompress(file.read_bytes()).decode().splitlines()
    return sorted((_unpacked(kind, json.loads(line)) for line in lines), key=lambda run: run.seed)


def add_run(run: Recorded, folder: Path = RUNS) -> None:
    """Keeps the run beside those of its kind, in the place of one of the same seed."""
    kept = [one for one in read_runs(run.kind, folder) if one.seed != run.seed]
    runs = sorted([*kept, run], key=lambda one: one.seed)
    text = "".join(json.dumps(_packed(one), separators=(",", ":")) + "\n" for one in runs)
    folder.mkdir(parents=True, exist_ok=True)
    write_file(file_of(run.kind, folder), gzip.compress(text.encode(), 9, mtime=0))


def _packed(run: Recorded) -> dict[str, Any]:
    """Series that share their steps share them in the file too."""
    clocks: dict[tuple[int, ...], dict[str, list[float | None]]] = {}
    for name, (steps, values) in run.series.items():
        clocks.setdefault(tuple(steps), {})[name] = [_cut(value) for value in values]
    return {
        "seed": run.seed,
        "method": run.method,
        "config": dict(run.config),
        "seconds": round(run.seconds, 2),
        "curves": [[list(steps), columns] for steps, columns in clocks.items()],
        "samples": [dict(one) for one in run.samples],
    }


def _unpacked(kind: str, document: Mapping[str, Any]) -> Recorded:
    series: dict[str, Points] = {}
    for steps, columns in document["curves"]:
        for name, values in columns.items():
            series[name] = (steps, [float("nan") if value is None else float(value) for value in values])
    return Recorded(
        kind,
        document["seed"],
        document["method"],
        document["config"],
        series,
        tuple(document["samples"]),
        document["seconds"],
    )


def _cut(value: float) -> float | None:
    if value != value:
        return None
    cut = float(f"{value:.{DIGITS}g}")
    return int(cut) if cut.is_integer() and abs(cut) < 1e15 else cut
