"""What does each offline method make of the demo's pairs, on prompts that training never sees?

    python -m benchmarks.family --model DIR [--methods reward,ipo,kto,orpo,simpo,dpo,sft] [--again] [--keep DIR]

Trains SmolLM2-135M-Instruct (DIR) with LoRA on the pairs of `preftune demo`, held out and split as the demo does: 52
steps of 4 pairs, by each method's own command and, beside what is written in RATES below, its own defaults. The same
208 pairs are the chosen answers of SFT, and KTO's 416 answers (8 a step). What a run wrote into `eval.json` is kept
whole, with its settings, its wall-clock seconds, the machine and the versions.

The result is written after each method, and a method that is there with the same settings is not run again unless
--again says so: a stopped run is taken up by the same command. A method that fails is told, and the others go on.
About 4 minutes a method on two cores; `python -m benchmarks.table` writes the README's table.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from benchmarks.demo_seeds import demo_settings
from benchmarks.dpo import idle_machine, tell
from benchmarks.table import VERSIONS, markdown

# What is told of a method, the first that it has.
MEASURES: Final = {
    "preference_accuracy": "preference accuracy",
    "accuracy": "accuracy of the scores",
    "loss_per_token": "loss, nats a token",
}


@dataclass(frozen=True)
class Choice:
    """A method's learning rate, why it is that, and what else is set for the comparison's sake."""

    learning_rate: float
    why: str
    further: Mapping[str, Any] = field(default_factory=dict)

    @property
    def settings(self) -> dict[str, Any]:
        return {"learning_rate": self.learning_rate, **self.further}


RATES: Final[dict[str, Choice]] = {
    "reward": Choice(
        3e-4,
        "TRL's 1e-4 is for whole epochs, and the head is new: three times that for 52 steps",
        {"group_by_prompt": False},  # a batch of prompts would be all pairs of four prompts
    ),
    "ipo": Choice(3e-4, "DPO's, as in TRL", {"beta": 0.1}),
    "kto": Choice(
        6e-4,
        "twice DPO's: the low end of its authors' 2 to 10 times",
        {"beta": 0.1, "per_device_train_batch_size": 8},
    ),
    "orpo": Choice(
        3e-4, "DPO's, as in TRL: its authors' five times as much is more than an adapter bears", {"beta": 0.1}
    ),
    "simpo": Choice(3e-4, "DPO's: its authors tuned both to within 3e-7 and 1e-6", {"beta": 2.0, "simpo_gamma": 1.0}),
    "dpo": Choice(3e-4, "the demo's", {"beta": 0.1}),
    "sft": Choice(2e-4, "ten times TRL's 2e-5 for all weights, as is usual with LoRA"),
}


class MethodFailed(Exception):
    """A command that ended without measures; its message has the end of its log."""


def main(argv: Sequence[str] | None = None) -> int:
    """The command; 1 where a method failed."""
    options = _parse(sys.argv[1:] if argv is None else argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # ends the run under way, tidies up
    document = _open(options)
    failed = False
    with tempfile.TemporaryDirectory(prefix="family-") as name:
        for method in options.methods:
            if _is_done(document, method) and not options.again:
                tell(f"{method}: there already; --again runs it anew")
                continue
            try:
                document["methods"][method] = run_method(method, document["settings"], options, Path(name))
            except MethodFailed as failure:
                failed = True
                tell(f"{method} failed: {failure}")
                continue
            _write(document, options.output)
            tell(f"{method}: {document['methods'][method]['seconds']:.0f} s")
    print(section(document))
    return 1 if failed else 0


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.family", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="model folder; SmolLM2-135M-Instruct is what is meant")
    parser.add_argument("--data", help="other pairs than the demo's")
    parser.add_argument("--steps", type=int, help="other than the demo's 52")
    parser.add_argument("--methods", default=",".join(RATES), help="which of %(default)s")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "family.json")
    parser.add_argument("--again", action="store_true", help="run also what the result has already")
    parser.add_argument("--keep", type=Path, help="folder for the runs themselves")
    options = parser.parse_args(arguments)
    options.methods = options.methods.split(",")
    if unknown := set(options.methods) - set(RATES):
        parser.error(f"--methods: {', '.join(sorted(unknown))} is none of {', '.join(RATES)}")
    options.model = str(Path(options.model).expanduser().absolute())  # a link keeps its name
    return options


# --- runs -----------------------------------------------------------------------------------------------


def _open(options: argparse.Namespace) -> dict[str, Any]:
    """The result so far, or an empty one; with other settings it is no place for these runs."""
    wanted = {"model": Path(options.model).name, "settings": common_settings(options.data, options.steps)}
    if not options.output.is_file():
        return wanted | {"methods": {}}
    document = json.loads(options.output.read_text(encoding="utf-8"))
    if {name: document[name] for name in wanted} != wanted:
        raise SystemExit(f"{options.output} holds runs with another model or other settings: give another --output.")
    return document


def common_settings(data: str | None, steps: int | None) -> dict[str, Any]:
    """The demo's settings without what is a method's own."""
    settings = {name: value for name, value in demo_settings().items() if name not in ("beta", "learning_rate")}
    settings |= {"data": data} if data else {}
    return settings | ({"max_steps": steps} if steps else {})


def _is_done(document: Mapping[str, Any], method: str) -> bool:
    found = document["methods"].get(method)
    return found is not None and found["settings"] == RATES[method].settings


def run_method(method: str, settings: Mapping[str, Any], options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """One command in a process of its own, with an empty cache: what it measured, and its seconds."""
    machine, run = idle_machine(), _free_folder(options.keep or folder, method)
    file, log = folder / f"{method}.yaml", folder / f"{method}.log"
    file.write_text(yaml.safe_dump({**settings, **RATES[method].settings, "model": options.model}), encoding="utf-8")
    command = [sys.executable, "-m", "preftune.cli.main", method, "--config", str(file), "--output", str(run)]
    tell(f"{method}: {machine['date']}, learning rate {RATES[method].learning_rate:g}")
    begun = time.perf_counter()
    with log.open("wb") as sink:
        surroundings = os.environ | {"PREFTUNE_CACHE": str(folder / "cache" / method), "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(command, env=surroundings, stdout=sink, stderr=subprocess.STDOUT)
    seconds = time.perf_counter() - begun
    measured = run / "eval.json"
    if done.returncode or not measured.is_file():
        tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
        raise MethodFailed(f"its command ended with {done.returncode}:\n{tail}")
    return {
        "settings": RATES[method].settings,
        "why": RATES[method].why,
        "seconds": seconds,
        "machine": machine,
        "evaluation": json.loads(measured.read_text(encoding="utf-8")),
    }


def _free_folder(parent: Path, method: str) -> Path:
    """``parent / method``, or with a number where an earlier run lies there."""
    folder, number = parent / method, 2
    while folder.exists():
        folder, number = parent / f"{method}-{number}", number + 1
    return folder


def _write(document: Mapping[str, Any], output: Path) -> None:
    """Whole or not at all: what was measured before is not lost with a run that is stopped."""
    output.parent.mkdir(parents=True, exist_ok=True)
    aside = output.with_suffix(".part")
    aside.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    aside.replace(output)


# --- the table ------------------------------------------------------------------------------------------


def section(document: Mapping[str, Any]) -> str:
    """The result as Markdown: where and how, a row a method, and why each has its learning rate."""
    runs = {method: document["methods"][method] for method in RATES if method in document["methods"]}
    if not runs:
        return "No method has run yet."
    header = ["", "learning rate", "held out", "n", "before", "after", "change"]
    header += ["answers", "tokens before", "after", "change", "KL, nats", "seconds"]
    table = markdown(header, [_row(method, run) for method, run in runs.items()])
    reasons = "; ".join(f"{method} {run['settings']['learning_rate']:g} ({run['why']})" for method, run in runs.items())
    parts = [_about(document, list(runs.values())), table, _baseline(runs), f"Learning rates: {reasons}."]
    return "\n\n".join(part for part in parts if part)


def _about(document: Mapping[str, Any], runs: Sequence[Mapping[str, Any]]) -> str:
    machine, settings = max((run["machine"] for run in runs), key=lambda one: one["date"]), document["settings"]
    versions = ", ".join(
        f"{name} {known}" for name in VERSIONS if (known := machine["versions"].get(name, "absent")) != "absent"
    )
    return (
        f"{machine['cpu']}, {machine['cores']} cores, {machine['date'][:10]}; {versions}. "
        f"{document['model']} with LoRA, {settings['max_steps']} steps of {settings['per_device_train_batch_size']} "
        f"pairs of {Path(settings['data']).name}, seed {settings['seed']}, "
        f"{100 * settings['eval_fraction']:.0f}% held out by prompt. Brackets are 95% intervals."
    )


def _baseline(runs: Mapping[str, Mapping[str, Any]]) -> str:
    """What looking at length alone would give, which the reward model's run has measured."""
    longer = runs["reward"]["evaluation"]["after"].get("longer_wins") if "reward" in runs else None
    return f"Always taking the longer answer is right in {_cell(longer)} of the held-out pairs." if longer else ""


def _row(method: str, run: Mapping[str, Any]) -> list[str]:
    moments = run["evaluation"]
    name = next((name for name in MEASURES if name in moments["after"]), None)
    return [
        method,
        f"{run['settings']['learning_rate']:g}",
        MEASURES[name] if name else "-",
        _count(moments["after"].get(name)),
        *_cells(moments, name),
        _count(moments["after"].get("mean_length")),
        *_cells(moments, "mean_length"),
        _cell(moments["after"].get("kl")),
        f"{run['seconds']:.0f}",
    ]


def _cells(moments: Mapping[str, Any], name: str | None) -> list[str]:
    """Before, after, and the change with its sign."""
    before, after, change = (moments[moment].get(name) for moment in ("before", "after", "change"))
    return [_cell(before), _cell(after), _cell(change, "+")]


def _count(measure: Mapping[str, Any] | None) -> str:
    return "-" if measure is None else f"{measure['n']:,}"


def _cell(measure: Mapping[str, Any] | None, sign: str = "") -> str:
    """``66.4% (54.3 to 76.8)``; other units by three figures or so."""
    if measure is None:
        return "-"
    is_share = measure["unit"] == "share"
    values = [(100 if is_share else 1) * measure[part] for part in ("value", "low", "high")]
    digits = 1 if is_share or max(map(abs, values)) >= 10 else 2
    value, low, high = (f"{one:{sign}.{digits}f}" for one in values)
    return f"{value}{'%' if is_share else ''} ({low} to {high})"


if __name__ == "__main__":
    sys.exit(main())
