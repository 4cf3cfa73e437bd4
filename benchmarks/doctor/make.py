"""Makes the runs that the doctor is calibrated on.

    python -m benchmarks.doctor.make [--kinds healthy-dpo ...] [--seeds 0 1 ... 14] [--again]

Runs lie in ``benchmarks/doctor/runs``, a file a kind. What is there is not made again, so a stopped command goes on
where it was; ``--again`` makes it anew. On one thread all take about forty minutes.
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.doctor.kinds import ALL
from benchmarks.doctor.storage import RUNS, add_run, read_runs

SEEDS = tuple(range(15))  # the first ten to set thresholds by, the others to check them once


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", choices=sorted(ALL), default=list(ALL), metavar="KIND")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--folder", type=Path, default=RUNS)
    parser.add_argument("--again", action="store_true")
    options = parser.parse_args()
    with TemporaryDirectory(prefix="doctor-cache-") as cache:
        os.environ["PREFTUNE_CACHE"] = cache  # reference log-probs of these runs are of no use to anybody
        make(options.kinds, options.seeds, options.folder, Path(cache), options.again)


def make(kinds: list[str], seeds: list[int], folder: Path, starts: Path, again: bool = False) -> None:
    """Every kind of every seed that is not there yet, seed after seed."""
    import torch

    from benchmarks.doctor.running import record

    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    there = {} if again else {kind: {run.seed for run in read_runs(kind, folder)} for kind in kinds}
    for seed in seeds:
        for kind in kinds:
            if seed in there.get(kind, ()):
                continue
            begun = time.monotonic()
            run = record(kind, seed, ALL[kind].plan(seed), starts)
            add_run(run, folder)
            print(f"{kind} {seed}: {time.monotonic() - begun:.1f} s, {len(run.series)} series", flush=True)


if __name__ == "__main__":
    main()
