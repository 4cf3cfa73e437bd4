"""Is what the demo shows more than the luck of a seed?

    python -m benchmarks.demo_seeds [--seeds 0 1 2] [--output benchmarks/results/demo-seeds.json] [--keep DIR]

Runs `preftune demo` once a seed. The seed decides which prompts are held out, the order of the pairs, the adapter's
start and the draws of the answers, so that the runs share nothing but model and data. Each run is a process of its own;
what it wrote into `eval.json` is kept whole, with its wall-clock seconds, the machine and the versions. A seed counts
as an improvement where the interval of the accuracy after training lies above the interval before, on prompts
training never saw. The baseline beside it is what one gets by always taking the longer answer.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from benchmarks.machine import describe_machine

ACCURACY = "preference_accuracy"


def main(argv: Sequence[str] | None = None) -> int:
    """The command; exits with 1 where a seed shows no improvement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "demo-seeds.json")
    parser.add_argument("--keep", type=Path, help="folder for the runs themselves")
    options = parser.parse_args(argv)
    machine = describe_machine()
    with tempfile.TemporaryDirectory(prefix="demo-") as name:
        runs = [run_seed(seed, (options.keep or Path(name)) / f"seed-{seed}") for seed in options.seeds]
    result = {"machine": machine, "settings": demo_settings(), "runs": runs}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(table(runs))
    return 0 if all(improved(run["evaluation"]) for run in runs) else 1


def run_seed(seed: int, folder: Path) -> dict[str, Any]:
    """One demo: its seconds, its measures, and the baseline on the same held-out pairs."""
    begun = time.perf_counter()
    command = [sys.executable, "-m", "preftune.cli.main", "demo", "--seed", str(seed), "--output", str(folder)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - begun
    evaluation = json.loads((folder / "eval.json").read_text(encoding="utf-8"))
    return {"seed": seed, "seconds": seconds, "evaluation": evaluation, "longer_wins": longer_wins(seed)}


def longer_wins(seed: int) -> dict[str, Any]:
    """The accuracy of taking the longer answer, on the pairs this seed holds out; ties count half."""
    from preftune.data.read import read_pairs
    from preftune.data.records import character_count
    from preftune.data.split import prompt_key, split_by_prompt
    from preftune.evaluate.measures import share_of

    settings = demo_settings()
    _, held_out = split_by_prompt(read_pairs(settings["data"]).records, settings["eval_fraction"], seed)
    longer = [character_count(pair.chosen) - character_count(pair.rejected) for pair in held_out]
    flags = [0.5 if difference == 0 else float(difference > 0) for difference in longer]
    prompts = [prompt_key(pair) for pair in held_out]
    return share_of(flags, prompts, "Longer answer", "Accuracy of always taking the longer answer.").as_dict()


def demo_settings() -> dict[str, Any]:
    """The settings the demo runs with, its data's place in the repository."""
    folder = Path(__file__).parents[1] / "preftune" / "demo"
    settings = yaml.safe_load((folder / "demo.yaml").read_text(encoding="utf-8"))
    return settings | {"data": str((folder / "pairs.jsonl").relative_to(Path.cwd()))}


def improved(evaluation: Mapping[str, Any]) -> bool:
    """True where the interval after training lies above the interval before."""
    return evaluation["after"][ACCURACY]["low"] > evaluation["before"][ACCURACY]["high"]


def table(runs: Sequence[Mapping[str, Any]]) -> str:
    """The runs as a Markdown table."""
    head = (
        "| seed | n | before | after | longer wins | likelier before / after | KL | length before / after | seconds |"
    )
    lines = [head, "|---" * 9 + "|"]
    for run in runs:
        before, after = run["evaluation"]["before"], run["evaluation"]["after"]
        ranks = f"{_percent(before['ranking_accuracy'])} / {_percent(after['ranking_accuracy'])}"
        lengths = f"{before['mean_length']['value']:.0f} / {after['mean_length']['value']:.0f}"
        kl = after["kl"]
        cells = [
            run["seed"],
            after[ACCURACY]["n"],
            _with_interval(before[ACCURACY]),
            _with_interval(after[ACCURACY]),
            _with_interval(run["longer_wins"]),
            ranks,
            f"{kl['value']:.1f} ({kl['low']:.1f} to {kl['high']:.1f})",
            lengths,
            f"{run['seconds']:.0f}",
        ]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def _with_interval(measure: Mapping[str, Any]) -> str:
    return f"{_percent(measure)} ({100 * measure['low']:.1f} to {100 * measure['high']:.1f})"


def _percent(measure: Mapping[str, Any]) -> str:
    return f"{100 * measure['value']:.1f}%"


if __name__ == "__main__":
    raise SystemExit(main())
