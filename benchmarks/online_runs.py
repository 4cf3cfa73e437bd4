"""Do the online methods do their work on a real model: answers checked by a rule, and RLHF from people's pairs?

    python -m benchmarks.online_runs --model DIR [--runs numbers,rlhf] [--again] [--keep DIR]

Runs what `examples/` holds, as a user would, on SmolLM2-135M-Instruct (DIR) with LoRA:

  numbers  `preftune grpo --config examples/grpo.yaml`: questions a rule can check, `accuracy` the only reward
  rlhf     `preftune run examples/rlhf.yaml`: SFT, a reward model of people's pairs, PPO against it

and keeps what each stage wrote into `eval.json`, with its seconds, the settings, the machine and the versions. All is
measured on prompts that no stage trains on. The result is written after each run; one that is there is not run again
unless --again says so. About 35 minutes on two cores; `python -m benchmarks.table` writes the README's table.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from benchmarks.dpo import idle_machine, tell, write
from benchmarks.family import _cell
from benchmarks.table import VERSIONS, markdown

EXAMPLES: Final = Path(__file__).parents[1] / "examples"
RUNS: Final = {"numbers": EXAMPLES / "grpo.yaml", "rlhf": EXAMPLES / "rlhf.yaml"}
# What is told of a stage, the first that it has.
MEASURES: Final = {"reward": "reward", "accuracy": "accuracy of the scores", "loss_per_token": "loss, nats a token"}


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    options = _parse(sys.argv[1:] if argv is None else argv)
    document = json.loads(options.output.read_text("utf-8")) if options.output.is_file() else {"runs": {}}
    for name in options.runs:
        if name in document["runs"] and not options.again:
            tell(f"{name}: there already; --again runs it anew")
            continue
        with tempfile.TemporaryDirectory(prefix="online-") as folder:
            document["runs"][name] = run_example(name, options.model, (options.keep or Path(folder)) / name)
        write(document, options.output)
    print(section(document))
    return 0


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.online_runs",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", required=True, help="model folder; SmolLM2-135M-Instruct is what is meant")
    parser.add_argument("--runs", default=",".join(RUNS), help="which of %(default)s")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "online-runs.json")
    parser.add_argument("--again", action="store_true", help="run also what the result has already")
    parser.add_argument("--keep", type=Path, help="folder for the runs themselves")
    options = parser.parse_args(arguments)
    options.runs = options.runs.split(",")
    if unknown := set(options.runs) - set(RUNS):
        parser.error(f"--runs: {', '.join(sorted(unknown))} is none of {', '.join(RUNS)}")
    options.model = str(Path(options.model).expanduser().absolute())  # a link keeps its name
    return options


def run_example(name: str, model: str, folder: Path) -> dict[str, Any]:
    """The example with ``model`` in place of its own, into ``folder``: its stages' measures as they say it."""
    settings = yaml.safe_load(RUNS[name].read_text("utf-8")) | {"model": model}
    is_pipeline = "stages" in settings
    machine = idle_machine()
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "settings.yaml"
    file.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    output = folder / "run"
    what = ["run", str(file)] if is_pipeline else ["grpo", "--config", str(file)]
    tell(f"{name}: {machine['date']}")
    command = [sys.executable, "-m", "preftune.cli.main", *what, "--output", str(output)]
    subprocess.run(command, check=True, cwd=EXAMPLES.parent, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    found = sorted(output.glob("*/eval.json")) if is_pipeline else [output / "eval.json"]
    evaluations = [json.loads(path.read_text("utf-8")) for path in found]
    return {
        "settings": settings | {"model": Path(model).name},
        "machine": machine,
        "stages": {one["method"]: one for one in evaluations},
    }


def section(document: Mapping[str, Any]) -> str:
    """The result as Markdown."""
    if not document["runs"]:
        return "No example has run yet."
    header = ["", "held out", "n", "before", "after", "change", "tokens an answer, before", "after", "KL, nats"]
    rows = [
        _row(name, method, evaluation)
        for name, run in document["runs"].items()
        for method, evaluation in run["stages"].items()
    ]
    machine = max((run["machine"] for run in document["runs"].values()), key=lambda one: one["date"])
    versions = ", ".join(
        f"{name} {known}" for name in VERSIONS if (known := machine["versions"].get(name, "absent")) != "absent"
    )
    times = ", ".join(f"{name} {_training_minutes(run):.0f} minutes" for name, run in document["runs"].items())
    about = (
        f"{machine['cpu']}, {machine['cores']} cores, {machine['date'][:10]}; {versions}. "
        f"SmolLM2-135M-Instruct with LoRA; of training, {times}. Brackets are 95% intervals, clustered by prompt."
    )
    return f"{about}\n\n{markdown(header, rows)}"


def _training_minutes(run: Mapping[str, Any]) -> float:
    return sum(stage["seconds"] for stage in run["stages"].values()) / 60


def _row(name: str, method: str, evaluation: Mapping[str, Any]) -> list[str]:
    before, after, change = (evaluation.get(moment, {}) for moment in ("before", "after", "change"))
    measure = next((one for one in MEASURES if one in after), None)
    cells = ["-"] * 5
    if measure is not None:
        n = f"{after[measure]['n']:,}"
        cells = [MEASURES[measure], n, *(_cell(one.get(measure)) for one in (before, after))]
        cells.append(_cell(change.get(measure), "+"))
    lengths = [_cell(one.get("mean_length")) for one in (before, after)]
    return [f"{name}: {method}", *cells, *lengths, _cell(after.get("kl"))]


if __name__ == "__main__":
    sys.exit(main())
