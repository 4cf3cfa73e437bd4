"""How often the doctor is wrong: its detectors on the runs that are kept, a table as JSON and in docs/doctor.md.

    python -m benchmarks.doctor.calibrate [--check]

Healthy runs count false alarms, of the whole log and of the log as it grew (looked at every tenth of the run, as the
live doctor may). Broken runs count how many are caught by a detector that should, and at which share of the run first.
Thresholds were set on seeds 0 to 9; seeds 10 and on were looked at once, after that, and stand in their own columns.
``--check`` only says whether the promise holds.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.doctor.kinds import ALL, BROKEN, HEALTHY, TRAPS, Kind
from benchmarks.doctor.storage import RUNS, Recorded, read_runs
from benchmarks.table import between_markers
from preftune.diagnose.detectors import DETECTORS
from preftune.diagnose.doctor import diagnose
from preftune.diagnose.series import RunLog
from preftune.diagnose.statistics import up_to

TUNED: Final = range(10)
LOOKS: Final = 10  # at a growing log
MOST_FALSE, MOST_ALARMED, LEAST_CAUGHT = 1, 0.05, 0.9
RESULT = Path(__file__).parents[1] / "results" / "doctor.json"
PAGE = Path(__file__).parents[2] / "docs" / "doctor.md"
LIVE: Final = [one for one in DETECTORS if one.is_live]


@dataclass(frozen=True)
class Judged:
    """What the doctor said of a run: the ids in the end, and the share of the run by which each was first said."""

    run: Recorded
    found: frozenset[str]
    live: dict[str, float]


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=RUNS)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    result = calibration(options.folder)
    print(tables(result))
    for one in result["broken_promises"]:
        print(f"not kept: {one}", file=sys.stderr)
    if options.check:
        sys.exit(1 if result["broken_promises"] else 0)
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(between_markers(PAGE.read_text(encoding="utf-8"), "calibration", tables(result)), encoding="utf-8")


def calibration(folder: Path = RUNS, live: bool = True) -> dict[str, Any]:
    """Counts over the runs in ``folder``; ``live`` also looks at them as they grew."""
    healthy, traps, broken = (
        {kind.name: _judged(kind, folder, live) for kind in of} for of in (HEALTHY, TRAPS, BROKEN)
    )
    result = {
        "healthy": {name: _alarms(runs) for name, runs in (healthy | traps).items()},
        "false_alarms": _false_alarms([one for runs in healthy.values() for one in runs]),
        "alarmed": {part: _alarmed(healthy, seeds) for part, seeds in _parts(healthy)},
        "broken": {name: _caught(ALL[name], runs) for name, runs in broken.items()},
    }
    return result | {"broken_promises": broken_promises(result)}


def broken_promises(result: dict[str, Any]) -> list[str]:
    """What was promised and is not so, of the runs that thresholds were set on."""
    said = [
        f"{name}: {count} false alarms" for name, count in result["false_alarms"]["tuned"].items() if count > MOST_FALSE
    ]
    runs, alarmed = result["alarmed"]["tuned"]["runs"], result["alarmed"]["tuned"]["with any"]
    if alarmed > MOST_ALARMED * runs:
        said.append(f"{alarmed} of {runs} healthy runs have an alarm")
    for name, one in result["broken"].items():
        caught, of = one["tuned"]
        if one["asked"] and caught < LEAST_CAUGHT * of:
            said.append(f"{name}: {caught} of {of} caught")
    return said


def tables(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    return "\n\n".join([*_incomplete(result), _healthy_table(result), _broken_table(result)])


def _incomplete(result: dict[str, Any]) -> list[str]:
    """A sentence where fewer runs are kept than the promise speaks of."""
    healthy, asked = result["alarmed"]["tuned"]["runs"], len(HEALTHY) * len(TUNED)
    least = min(one["tuned"][1] for one in result["broken"].values() if one["asked"])
    if healthy >= asked and least >= len(TUNED):
        return []
    return [
        f"**Incomplete: of {asked} healthy runs {healthy} are made, of broken kinds at least {least} of {len(TUNED)} "
        "seeds. The promise is not shown by these.**"
    ]


def _judged(kind: Kind, folder: Path, live: bool) -> list[Judged]:
    return [_judge(run, kind, live) for run in read_runs(kind.name, folder)]


def _judge(run: Recorded, kind: Kind, live: bool) -> Judged:
    log = run.as_log()
    found = frozenset(one.id for one in diagnose(log).findings)
    first: dict[str, float] = {}
    watching = LIVE if kind.is_healthy else [one for one in DETECTORS if one.id in kind.caught_by]
    for share in np.linspace(1 / LOOKS, 1, LOOKS).tolist() if live else ():
        for one in diagnose(_seen(log, share), detectors=watching).findings:
            first.setdefault(one.id, share)
    return Judged(run, found, first)


def _seen(log: RunLog, share: float) -> RunLog:
    return log if share >= 1 else up_to(log, round(share * log.last_step))


def _parts(runs: dict[str, list[Judged]]) -> list[tuple[str, set[int]]]:
    seeds = {one.run.seed for several in runs.values() for one in several}
    return [("tuned", seeds & set(TUNED)), ("fresh", seeds - set(TUNED))]


def _alarms(runs: Sequence[Judged]) -> dict[str, Any]:
    return {
        "runs": len(runs),
        "alarms": dict(Counter(name for one in runs for name in sorted(one.found))),
        "live": dict(Counter(name for one in runs for name in sorted(one.live))),
    }


def _false_alarms(runs: Sequence[Judged]) -> dict[str, dict[str, int]]:
    return {
        part: dict(sorted(Counter(name for one in runs if one.run.seed in seeds for name in one.found).items()))
        for part, seeds in (("tuned", set(TUNED)), ("fresh", {one.run.seed for one in runs} - set(TUNED)))
    }


def _alarmed(healthy: dict[str, list[Judged]], seeds: set[int]) -> dict[str, int]:
    runs = [one for several in healthy.values() for one in several if one.run.seed in seeds]
    return {
        "runs": len(runs),
        "with any": sum(bool(one.found) for one in runs),
        "live": sum(bool(one.live) for one in runs),
    }


def _caught(kind: Kind, runs: Sequence[Judged]) -> dict[str, Any]:
    wanted = set(kind.caught_by)
    shares = [min(one.live[name] for name in wanted & one.live.keys()) for one in runs if wanted & one.live.keys()]
    last = [one.run.as_log().last_step for one in runs if wanted & one.live.keys()]
    steps = [share * step for share, step in zip(shares, last, strict=True)]

    def count(seeds: set[int]) -> list[int]:
        some = [one for one in runs if one.run.seed in seeds]
        return [sum(bool(wanted & one.found) for one in some), len(some)]

    return {
        "by": list(kind.caught_by),
        "asked": kind.asked,
        "said": kind.said,
        "tuned": count(set(TUNED)),
        "fresh": count({one.run.seed for one in runs} - set(TUNED)),
        "share": float(np.median(shares)) if shares else None,
        "step": float(np.median(steps)) if steps else None,
        "steps": int(np.median([one.run.as_log().last_step for one in runs])) if runs else 0,
        "others": dict(Counter(name for one in runs for name in sorted(one.found - wanted))),
    }


def _healthy_table(result: dict[str, Any]) -> str:
    rows = ["| healthy runs | n | alarms of the whole log | at any look while it grew |", "|---|---|---|---|"]
    for name, one in result["healthy"].items():
        rows.append(
            f"| {name.removeprefix('healthy-')} | {one['runs']} | {_told(one['alarms'])} | {_told(one['live'])} |"
        )
    for part, said in (("tuned", "seeds that thresholds were set on"), ("fresh", "seeds looked at once")):
        one = result["alarmed"][part]
        rows.append(
            f"| **the six methods, {said}** | {one['runs']} | {one['with any']} runs with any | {one['live']} runs |"
        )
    return "\n".join(rows)


def _broken_table(result: dict[str, Any]) -> str:
    rows = [
        "| broken | what was done | by | caught | fresh seeds | first seen at step (median, of) |",
        "|---|---|---|---|---|---|",
    ]
    for name, one in result["broken"].items():
        seen = "-" if one["step"] is None else f"{one['step']:.0f} of {one['steps']}"
        shown = name if one["asked"] else f"{name} (nothing promised)"
        tuned, fresh = ("/".join(map(str, one[part])) for part in ("tuned", "fresh"))
        rows.append(f"| {shown} | {one['said']} | {' or '.join(one['by'])} | {tuned} | {fresh} | {seen} |")
    return "\n".join(rows)


def _told(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items())) or "none"


if __name__ == "__main__":
    main()
