"""How long the report of a long run takes, and how large it is.

    python -m benchmarks.report [--steps 10000] [--keep FOLDER]

A run is made up that logs a line a step with every metric that a chart is drawn of, its evaluations, findings on its
curves, 64 prompts answered before, during and after, and the audit of 60,000 rows. Promised: under 5 seconds and 5 MB.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from benchmarks.machine import describe_machine, machine_slug
from preftune.report.charts import CHARTS
from preftune.report.page import write_report

RESULTS = Path(__file__).parent / "results"
PROMPTS, EVALUATIONS = 64, 100
WORDS = ("the", "a", "model", "answers", "longer", "than", "it", "should", "and", "nobody", "asked", "for", "words")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--keep", type=Path, help="Folder to make the run in, and to leave it.")
    options = parser.parse_args()
    machine = describe_machine()
    with nullcontext(options.keep) if options.keep else TemporaryDirectory(prefix="report-speed-") as folder:
        write_report(made_up(Path(folder) / "short", 20))  # what is imported once is not measured
        found = measure(made_up(Path(folder) / "long", options.steps))
    print(json.dumps(found))
    path = RESULTS / f"report-{machine_slug(machine)}.json"
    question = "How long does the report of a long run take, and how large is it?"
    path.write_text(
        json.dumps({"question": question, "machine": machine, "steps": options.steps} | found, indent=1) + "\n"
    )
    print(f"written to {path}")


def measure(run: Path) -> dict[str, Any]:
    """Seconds, of the clock and of the processor, and megabytes."""
    begun, processor = time.perf_counter(), time.process_time()
    page = write_report(run)
    return {
        "seconds": round(time.perf_counter() - begun, 2),
        "of_processor": round(time.process_time() - processor, 2),
        "megabytes": round(page.stat().st_size / 1e6, 3),
        "read_megabytes": round(sum(file.stat().st_size for file in run.iterdir() if file != page) / 1e6, 1),
        "charts": page.read_text(encoding="utf-8").count("<svg"),
    }


def made_up(folder: Path, steps: int) -> Path:
    """A run's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = random.Random(0)
    write_lines(folder / "metrics.jsonl", metrics(steps, draw))
    write_lines(folder / "samples.jsonl", samples(steps, draw))
    write_lines(folder / "rejected.jsonl", ({"row": row, "reason": "identical answers"} for row in range(2000)))
    config = {
        "method": "grpo",
        "model": "made-up",
        "beta": 0.04,
        "learning_rate": 1e-6,
        "versions": {"torch": "2.13.0"},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    for name, document in (("eval", evaluation(draw)), ("audit", audit()), ("findings", findings(steps))):
        (folder / f"{name}.json").write_text(json.dumps(document))
    return folder


def metrics(steps: int, draw: random.Random) -> Iterator[dict[str, Any]]:
    """A line a step with the first name of every line of every chart."""
    names = [line.keys[0] for chart in CHARTS for line in chart.lines]
    every = max(steps // EVALUATIONS, 1)
    for step in range(1, steps + 1):
        height = 1 - math.exp(-3 * step / steps)
        row = {name: height * (place % 5 - 1) + draw.gauss(0, 0.2) for place, name in enumerate(names)}
        row = {name: value for name, value in row.items() if not name.startswith("eval_") or step % every == 0}
        yield {"step": step, "epoch": step / steps, "time": 1.7e9 + step, "tokens_per_second": 900.0, **row}


def samples(steps: int, draw: random.Random) -> Iterator[dict[str, Any]]:
    """Answers of some 150 words at eight moments."""
    for moment in range(8):
        stage = "before" if not moment else "after" if moment == 7 else "during"
        for prompt in range(PROMPTS):
            text = " ".join(draw.choices(WORDS, k=draw.randint(60, 240)))
            row = {"step": steps * moment // 7, "stage": stage, "prompt_id": prompt, "prompt": f"Question {prompt}?"}
            yield row | {"completion": text, "tokens": len(text.split()), "finished": True}


def evaluation(draw: random.Random) -> dict[str, Any]:
    """Measures before and after, and the single values behind them."""
    names = ("reward", "kl", "answer_length", "distinct", "accuracy")
    sides = {
        side: {name: {"value": 0.5 + shift, "low": 0.45 + shift, "high": 0.55 + shift, "n": 400} for name in names}
        for side, shift in (("before", 0.0), ("after", 0.2))
    }
    spread = {side: [draw.gauss(0, 1) for _ in range(512)] for side in sides}
    return {**sides, "spreads": {"reward": spread, "length": spread}}


def audit() -> dict[str, Any]:
    """As of 60,000 rows, with a finding that names many of them."""
    rows = [f"row-{number}" for number in range(3000)]
    finding = {
        "id": "duplicates",
        "severity": "warning",
        "title": "Rows twice",
        "what": "They count twice.",
        "rows": rows,
    }
    return {"read": 60_000, "used": 58_000, "rejected": {"identical answers": 2000}, "findings": [finding]}


def findings(steps: int) -> dict[str, Any]:
    """One on each of some curves."""
    found = [
        {"id": f"D{number:02}", "severity": "warning", "certainty": "likely", "title": "Found", "what": "Seen.",
         "first_step": steps // 3, "last_step": steps // 2, "figures": [{"series": name, "what": "it", "value": 1.0}]}
        for number, name in enumerate(("loss", "kl", "reward", "entropy", "grad_norm"), start=1)
    ]  # fmt: skip
    unclear = [{"id": f"D{number}", "name": f"check {number}", "why": "Too short."} for number in range(10, 30)]
    return {"findings": found, "checked": ["D01", "D02"], "cannot_tell": unclear}


def write_lines(path: Path, rows: Iterator[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    main()
