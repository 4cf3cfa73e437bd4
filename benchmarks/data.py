"""Does the care for data keep up with a million pairs, and is a judge's endpoint kept busy?

    python -m benchmarks.data [--rows 1000000] [--rounds 3] [--parts audit,near,calls]

audit: a file of synthetic pairs (see benchmarks/synthetic_pairs.py), each contender in a process of its own

  lines        every line parsed as JSON, and nothing else: the floor
  read         every row read into a pair, one core, nothing kept
  cheap        `preftune audit FILE --only texts`: the audits that see every row, by all cores
  audit        `preftune audit FILE`: those, and the others on 20,000 rows drawn at random

near: near duplicates among 10,000 to a million synthetic texts with planted near copies: seconds, memory beside the
texts, recall, and the exponent of the growth (the slope of the line through the logarithms)

calls: `preftune.collect.judge` against an endpoint that answers after a fixed time: the mean number of requests under
way, seen by the endpoint, as a share of the concurrency allowed, from the first question after the probe to the end of
the last answer; journal and output are written as always

Memory is that of a process and those it starts, summed, sampled twenty times a second; peaks are over a run. Every raw
sample goes into the JSON file. Leave the machine alone meanwhile: about 8 minutes a round on two cores.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.dpo import idle_machine, rotated, tell, write
from benchmarks.machine import machine_slug, peak_mib, reset_peak, resident_mib
from benchmarks.table import markdown, spread

SEED: Final = 42
PARTS: Final = ("audit", "near", "calls")
CONTENDERS: Final = ("lines", "read", "cheap", "audit")
COMMANDS: Final = {"cheap": ("--only", "texts", "--json"), "audit": ("--json",)}
SIZES: Final = (10_000, 31_600, 100_000, 316_000, 1_000_000)
CALLS: Final = ((16, 0.5), (64, 1.0), (256, 2.0))  # concurrency and seconds a reply
CALLS_A_SLOT: Final = 40  # 10,240 calls where the concurrency is 256
CHEAP_SECONDS, EXPONENT, BUSY = 60.0, 1.1, 0.95  # what is to be reached with a million rows
PACKAGES: Final = ("preftune", "rensa", "ftfy", "numpy", "pydantic", "openai", "python")
VERSION_OF: Final = ("rensa", "ftfy", "numpy", "pydantic")


@dataclass(frozen=True)
class Job:
    """What a process of its own measures."""

    part: str
    name: str
    rows: int
    seed: int
    path: str = ""
    latency: float = 0.0


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    arguments = sys.argv[1:] if argv is None else argv
    if len(arguments) == 2 and arguments[0] == "--job":
        job = Job(**json.loads(arguments[1]))
        print(json.dumps({"lines": _lines, "read": _read, "near": _near, "calls": _calls}[job.name](job)))
        return 0
    options = _parse(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # ends the run under way, tidies up
    machine = idle_machine()
    output = options.output or Path(__file__).parent / "results" / f"data-{machine_slug(machine)}.json"
    with tempfile.TemporaryDirectory(prefix="benchmark-") as name:
        result = _measure(options, machine, Path(name), output)
    print(data_tables(result))
    tell(f"raw samples: {output}")
    return 0


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.data", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000, help="pairs, and most texts (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each (default %(default)s)")
    parser.add_argument("--parts", default=",".join(PARTS), help=f"some of {','.join(PARTS)}")
    parser.add_argument("--output", type=Path, help="the JSON file; benchmarks/results/data-<machine>.json by default")
    options = parser.parse_args(arguments)
    options.parts = options.parts.split(",")
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"--parts: {', '.join(sorted(unknown))} is none of {', '.join(PARTS)}")
    if min(options.rows, options.rounds) < 1:
        parser.error("--rows and --rounds should be 1 or more")
    return options


def _measure(options: argparse.Namespace, machine: dict[str, Any], folder: Path, output: Path) -> dict[str, Any]:
    """All rounds; the file is written after each run, so that a stopped benchmark keeps what it measured."""
    from benchmarks.synthetic_pairs import write_pairs

    path = folder / "pairs.jsonl"
    size = 0
    if "audit" in options.parts:
        tell(f"writing {options.rows:,} pairs")
        size = write_pairs(path, options.rows, SEED)
    machine["versions"] |= _versions()
    result: dict[str, Any] = {
        "question": (__doc__ or "").partition("\n")[0],
        "machine": machine,
        "options": {"rows": options.rows, "rounds": options.rounds, "parts": options.parts, "seed": SEED},
        "data": {"bytes": size, "source": "synthetic, see benchmarks/synthetic_pairs.py"},
        "samples": [],
    }
    for number in range(options.rounds):
        for part in options.parts:
            for label, run in rotated(_runs(part, options.rows, path, number), number):
                sample = {"round": number, "part": part, "name": label} | run()
                result["samples"].append(sample)
                write(result, output)
                tell(f"round {number + 1}/{options.rounds}, {part}, {label}: {_told(sample)}")
    return result


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    def found(name: str) -> str:
        try:
            return version(name)
        except PackageNotFoundError:
            return "absent"

    return {name: found(name) for name in VERSION_OF}


def _runs(part: str, rows: int, path: Path, number: int) -> list[tuple[str, Callable[[], dict[str, Any]]]]:
    """What is measured in a round, with its label."""
    if part == "audit":
        return [(name, lambda name=name: _audited(Job(part, name, rows, number, str(path)))) for name in CONTENDERS]
    if part == "near":
        sizes = [size for size in SIZES if size <= rows] or [rows]
        return [(f"{size:,}", lambda size=size: _spawned(Job(part, "near", size, number))) for size in sizes]
    return [
        (
            f"{slots} at {latency:g} s",
            lambda slots=slots, latency=latency: _spawned(Job(part, "calls", slots, number, latency=latency)),
        )
        for slots, latency in CALLS
    ]


def _told(sample: Mapping[str, Any]) -> str:
    if sample["part"] == "calls":
        return f"{sample['busy']:.1%} busy"
    return f"{sample['seconds']:.1f} s, peak {sample['peak_mib'] or 0:,.0f} MiB"


# --- runs in a process of their own ---------------------------------------------------------------------


def _audited(job: Job) -> dict[str, Any]:
    if job.name not in COMMANDS:
        return _spawned(job)
    code = "import sys; from preftune.cli.main import main; sys.exit(main())"
    return _timed([sys.executable, "-c", code, "audit", job.path, *COMMANDS[job.name]])[0]


def _spawned(job: Job) -> dict[str, Any]:
    """The job's own sample; seconds and peak of the whole process where the job does not tell them."""
    command = [sys.executable, "-m", "benchmarks.data", "--job", json.dumps(asdict(job))]
    around, printed = _timed(command)
    return around | json.loads(printed.splitlines()[-1])


def _timed(command: Sequence[str]) -> tuple[dict[str, Any], str]:
    """Seconds from start to end, and the peak of memory of the process and of all that it starts."""
    begun = time.perf_counter()
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
        peaks = [0.0]
        watch = threading.Thread(target=_watch, args=(process, peaks))
        watch.start()
        printed, _ = process.communicate()
        seconds = time.perf_counter() - begun
        watch.join()
        if process.returncode not in (0, 1):  # 1: the audit found something wrong
            errors.seek(0)
            tail = "\n".join(errors.read().splitlines()[-15:])
            raise SystemExit(f"{' '.join(command[:4])} ended with {process.returncode}:\n{tail}")
    return {"seconds": seconds, "peak_mib": peaks[0] or None}, printed


def _watch(process: subprocess.Popen[str], peaks: list[float]) -> None:
    while process.poll() is None:
        peaks[0] = max(peaks[0], _tree_mib(process.pid))
        time.sleep(0.05)


def _tree_mib(pid: int) -> float:
    """Resident memory of a process and of its descendants; 0 where the system has no /proc."""
    try:
        resident = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        children = {child for task in tasks for child in (task / "children").read_text().split()}
    except OSError:
        return 0.0
    return resident + sum(_tree_mib(int(child)) for child in children)


def _lines(job: Job) -> dict[str, Any]:
    with Path(job.path).open("rb") as file:
        return {"rows": sum(1 for line in file if json.loads(line.decode()))}


def _read(job: Job) -> dict[str, Any]:
    from preftune.data.kinds import pairs_of_row
    from preftune.data.sources import open_place

    return {"rows": sum(len(pairs_of_row(row.value)) for row in open_place(job.path))}


def _near(job: Job) -> dict[str, Any]:
    import numpy as np

    from benchmarks.synthetic_pairs import texts
    from preftune.audit.near_duplicates import GRAM_WORDS, THRESHOLD, near_duplicates
    from preftune.audit.shingles import jaccards, word_grams

    found_texts, planted = texts(job.rows, SEED + job.seed)
    near_duplicates(found_texts[:100])  # the packages are imported and the tables made
    before = resident_mib()
    reset_peak()
    begun = time.perf_counter()
    found = near_duplicates(found_texts, seed=job.seed)
    seconds = time.perf_counter() - begun
    peak = peak_mib()
    left, right = (np.array(side) for side in zip(*planted, strict=True))
    both = [found_texts[place] for pair in planted for place in pair]
    places = np.arange(0, 2 * len(planted), 2)
    near = jaccards(word_grams(both, GRAM_WORDS), places, places + 1) >= THRESHOLD
    expected = set(zip(left[near].tolist(), right[near].tolist(), strict=True))
    links = set(zip(found.left.tolist(), found.right.tolist(), strict=True))
    return {
        "texts": len(found_texts),
        "characters": sum(map(len, found_texts)),
        "seconds": seconds,
        "memory_mib": None if before is None or peak is None else peak - before,
        "links": len(links),
        "planted": len(expected),
        "found": len(links & expected),
    }


def _calls(job: Job) -> dict[str, Any]:
    from benchmarks.busy_endpoint import busy_share, endpoint, times
    from preftune.collect.calls import Limits
    from preftune.collect.judge import How, Judge, judge

    comparisons = job.rows * CALLS_A_SLOT // 2
    rows = [
        {"prompt": f"What is {i} and {i}?", "response_1": f"It is {2 * i}.", "response_2": f"I think {2 * i + 1}."}
        for i in range(comparisons)
    ]
    how = How(limits=Limits(concurrency=job.rows, retries=0), check_injection=False)
    os.environ.setdefault("OPENAI_API_KEY", "none")
    with endpoint(job.latency) as address, tempfile.TemporaryDirectory() as folder:
        begun, begun_cpu = time.perf_counter(), time.process_time()
        judge(rows, [Judge("fixed", "openai", address)], how=how, output=Path(folder) / "pairs.jsonl")
        seconds, cpu = time.perf_counter() - begun, time.process_time() - begun_cpu
        intervals = sorted(times(address))[1:]  # without the probe, which goes alone
    return {
        "concurrency": job.rows,
        "latency": job.latency,
        "calls": len(intervals) + 1,
        "seconds": seconds,
        "cores_busy": cpu / seconds,
        "busy": busy_share(intervals, job.rows),
    }


# --- what came out --------------------------------------------------------------------------------------


def exponent(samples: Sequence[Mapping[str, Any]]) -> float | None:
    """The slope of log seconds over log texts, by least squares; None with fewer than two sizes."""
    points = [(math.log(sample["texts"]), math.log(sample["seconds"])) for sample in samples]
    if len({x for x, _ in points}) < 2:
        return None
    mean_x, mean_y = (sum(values) / len(points) for values in zip(*points, strict=True))
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / sum((x - mean_x) ** 2 for x, _ in points)


def data_tables(result: Mapping[str, Any]) -> str:
    """Everything that a run measured, as Markdown."""
    samples = result["samples"]
    by_part = {part: [sample for sample in samples if sample["part"] == part] for part in PARTS}
    tables = {"audit": _audit_table, "near": _near_table, "calls": _calls_table}
    return "\n\n".join([_about(result), *(tables[part](found, result) for part, found in by_part.items() if found)])


def _about(result: Mapping[str, Any]) -> str:
    machine, options = result["machine"], result["options"]
    known = machine["versions"]
    versions = ", ".join(f"{name} {known[name]}" for name in PACKAGES if known.get(name, "absent") != "absent")
    return (
        f"### {machine['cpu']}, {machine['cores']} cores, {machine['date'][:10]}\n\n"
        f"{versions}. Synthetic texts, {options['rounds']} round(s). Figures are medians over rounds, with the range "
        "in brackets."
    )


def _audit_table(samples: Sequence[Mapping[str, Any]], result: Mapping[str, Any]) -> str:
    rows, size = result["options"]["rows"], result["data"]["bytes"]
    cells = []
    for name in CONTENDERS:
        found = [sample for sample in samples if sample["name"] == name]
        if found:
            speed = spread([rows / sample["seconds"] for sample in found])
            seconds = spread([sample["seconds"] for sample in found])
            memory = spread([sample["peak_mib"] or 0 for sample in found])
            cells.append([name, seconds.text(1), speed.text(0), memory.text(0), _verdict(name, rows, seconds.middle)])
    table = markdown(["", "seconds", "rows/s", "peak MiB", "target"], cells)
    return f"#### Reading and auditing {rows:,} pairs ({size / 2**20:,.0f} MiB)\n\n{table}"


def _verdict(name: str, rows: int, seconds: float) -> str:
    if name != "cheap" or rows != 1_000_000:
        return ""
    return f"≤ {CHEAP_SECONDS:g} s: {'met' if seconds <= CHEAP_SECONDS else 'missed'}"


def _near_table(samples: Sequence[Mapping[str, Any]], _: Mapping[str, Any]) -> str:
    cells = []
    for size in sorted({sample["texts"] for sample in samples}):
        found = [sample for sample in samples if sample["texts"] == size]
        planted, hits = (sum(sample[key] for sample in found) for key in ("planted", "found"))
        cells.append(
            [
                f"{size:,}",
                spread([sample["seconds"] for sample in found]).text(1),
                spread([1e6 * sample["seconds"] / size for sample in found]).text(0),
                spread([sample["memory_mib"] or 0 for sample in found]).text(0),
                f"{hits:,} of {planted:,} ({hits / max(planted, 1):.1%})",
            ]
        )
    table = markdown(["texts", "seconds", "µs a text", "MiB beside the texts", "planted copies found"], cells)
    slope = exponent(samples)
    growth = ""
    if slope is not None:
        growth = f"\n\nTime grows as the number of texts to the power of {slope:.2f} (target ≤ {EXPONENT:g}: "
        growth += f"{'met' if slope <= EXPONENT else 'missed'})."
    return f"#### Near duplicates\n\n{table}{growth}"


def _calls_table(samples: Sequence[Mapping[str, Any]], _: Mapping[str, Any]) -> str:
    cells = []
    for slots, latency in CALLS:
        found = [one for one in samples if (one["concurrency"], one["latency"]) == (slots, latency)]
        if found:
            busy = spread([100 * sample["busy"] for sample in found])
            cells.append(
                [
                    f"{slots}, {latency:g} s a reply",
                    str(found[0]["calls"]),
                    busy.text(1),
                    spread([sample["cores_busy"] for sample in found]).text(2),
                    f"≥ {100 * BUSY:g}: {'met' if busy.middle >= 100 * BUSY else 'missed'}",
                ]
            )
    table = markdown(["concurrency allowed", "calls", "of it busy, %", "cores busy", "target"], cells)
    return f"#### A judge's endpoint\n\n{table}"


if __name__ == "__main__":
    sys.exit(main())
