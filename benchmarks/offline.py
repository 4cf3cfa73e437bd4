"""How much faster and leaner are steps of preftune's other offline methods than TRL's on this machine?

    python -m benchmarks.offline --model DIR --data PAIRS.jsonl [--methods sft,reward,kto,orpo,qlora] [--rounds 3]

As benchmarks.dpo does for DPO (its --help tells how a run is timed): the same model, pairs, order and tokens on both
sides, each run in a process of its own, in an order that rotates from round to round; ratios within a round. All
weights are trained in bfloat16 with float32 master weights. Of the drawn pairs, four a step, are made

  sft      the four chosen answers
  reward   the four pairs, each by itself; both sides start from one model with one score head
  kto      their eight answers as labels
  orpo     the four pairs; preftune by its default, the likelihood of the chosen answer, and by `nll_of: sequence`,
           that of the prompt too, which is TRL's loss

and these contenders train on them:

  preftune     its defaults
  trl-best     TRL with what helps on a CPU: references computed before training where there are any, no gradient
               checkpointing, and glibc's malloc told to keep freed memory

Beside ORPO, DPO and SimPO of preftune run in the same rounds: what does the reference cost? And `qlora` trains
preftune's DPO with an adapter, over the weights in bfloat16 and in 4 bits.

A run that fails is noted in the result, and the others go on. Leave the machine alone meanwhile: about 9 minutes a
round on two cores with the defaults.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from benchmarks.contenders import BATCH_SIZE, LEARNING_RATE, LORA, MAX_LENGTH, SEED, Job
from benchmarks.dpo import (
    RunFailed,
    count_parameters,
    draw_pairs,
    idle_machine,
    measure_matmul,
    rotated,
    spawn,
    tell,
    write,
)
from benchmarks.machine import machine_slug
from benchmarks.sequences import expected_sequences, receipt
from benchmarks.table import OURS, OURS_AS_TRL, offline_tables, pairs_per_second
from preftune.cli.quiet import quieten_libraries


@dataclass(frozen=True)
class Entry:
    """A contender with its method, in a setting."""

    method: str
    contender: str = OURS
    setting: str = "bf16-full"


PARTS: Final[dict[str, tuple[Entry, ...]]] = {
    "sft": (Entry("sft"), Entry("sft", "trl-best")),
    "reward": (Entry("reward"), Entry("reward", "trl-best")),
    "kto": (Entry("kto"), Entry("kto", "trl-best")),
    "orpo": (Entry("orpo"), Entry("orpo", OURS_AS_TRL), Entry("orpo", "trl-best"), Entry("dpo"), Entry("simpo")),
    "qlora": (Entry("dpo", setting="bf16-lora"), Entry("dpo", setting="bf16-qlora")),
}
PAIRS, ANSWERS, LABELS = "pairs.jsonl", "answers.jsonl", "labels.jsonl"
FILES: Final = {"sft": ANSWERS, "kto": LABELS}


def main(argv: Sequence[str] | None = None) -> int:
    """The command; 1 where a run failed."""
    options = _parse(sys.argv[1:] if argv is None else argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # ends the run under way, tidies up
    machine = idle_machine()
    output = options.output or Path(__file__).parent / "results" / f"offline-{machine_slug(machine)}.json"
    with tempfile.TemporaryDirectory(prefix="benchmark-") as name:
        result = _prepare(options, machine, Path(name))
        for number in range(options.rounds):
            _run_round(result, number, options, Path(name), output)
    print(offline_tables(result))
    tell(f"raw samples: {output}; `python -m benchmarks.table` writes the README's tables")
    return 1 if result["failures"] else 0


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.offline", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="model folder; SmolLM2-135M-Instruct for the targets")
    parser.add_argument("--data", required=True, help="preference pairs, in any form preftune reads")
    parser.add_argument("--pairs", type=int, default=16, help=f"pairs to time, a multiple of {BATCH_SIZE}")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each contender")
    parser.add_argument("--methods", default=",".join(PARTS), help="which of %(default)s")
    parser.add_argument(
        "--output", type=Path, help="the JSON file; benchmarks/results/offline-<machine>.json by default"
    )
    options = parser.parse_args(arguments)
    options.methods = options.methods.split(",")
    if unknown := set(options.methods) - set(PARTS):
        parser.error(f"--methods: {', '.join(sorted(unknown))} is none of {', '.join(PARTS)}")
    if options.pairs % BATCH_SIZE or options.pairs < BATCH_SIZE:
        parser.error(f"--pairs should be a multiple of {BATCH_SIZE}")
    if options.rounds < 1:
        parser.error("--rounds should be 1 or more")
    if find_spec("trl") is None:
        parser.error("TRL is not installed; it is in the dependency group 'parity'")
    options.model = str(Path(options.model).expanduser().absolute())  # a link keeps its name
    return options


# --- what is trained ------------------------------------------------------------------------------------


def _prepare(options: argparse.Namespace, machine: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The result without samples; the data, and the reward model to start from, lie in ``folder``."""
    quieten_libraries()
    data = draw_pairs(options.data, options.model, options.pairs, folder / PAIRS)
    lay_out(folder)
    if "reward" in options.methods:
        add_score_head(options.model, folder / "reward")
    return {
        "question": (__doc__ or "").partition("\n")[0],
        "machine": machine,
        "options": {
            "methods": options.methods,
            "rounds": options.rounds,
            "batch_size": BATCH_SIZE,
            "max_length": MAX_LENGTH,
            "learning_rate": LEARNING_RATE,
            "seed": SEED,
            "lora": LORA,
        },
        "model": count_parameters(options.model),
        "data": data | {"by_method": _expected(folder / PAIRS, options.model)},
        "matmul_gflops": [],
        "samples": [],
        "failures": [],
    }


def lay_out(folder: Path) -> None:
    """Writes the pairs of ``folder`` as answers to learn and as labels, in the order of ``expected_sequences``."""
    rows = [json.loads(line) for line in (folder / PAIRS).read_text(encoding="utf-8").splitlines()]
    answers = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in rows]
    labels = [
        {"prompt": row["prompt"], "completion": row[side], "label": side == "chosen"}
        for begin in range(0, len(rows), BATCH_SIZE)
        for side in ("chosen", "rejected")
        for row in rows[begin : begin + BATCH_SIZE]
    ]
    for name, records in ((ANSWERS, answers), (LABELS, labels)):
        (folder / name).write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def add_score_head(model: str, folder: Path) -> None:
    """The language model with a new score head as a reward model in ``folder``: one start for both sides."""
    import torch

    from preftune.models.loading import load_tokenizer
    from preftune.models.reward_models import load_scorer
    from preftune.models.settings import ModelConfig

    torch.manual_seed(SEED)  # of which the head is drawn
    config = ModelConfig(model=model, dtype="float32")
    load_scorer(config, torch.device("cpu")).save_pretrained(folder)  # type: ignore[operator]
    load_tokenizer(config).save_pretrained(folder)


def _expected(pairs: Path, model: str) -> dict[str, Any]:
    """What each method should make of the pairs: tokens and their fingerprint."""
    from transformers import AutoTokenizer

    from preftune.data.read import read_pairs
    from preftune.data.tokens import tokenize_pairs

    tokens = tokenize_pairs(read_pairs(str(pairs)).records, AutoTokenizer.from_pretrained(model)).records
    methods = dict.fromkeys(entry.method for part in PARTS.values() for entry in part)
    return {method: receipt(expected_sequences(method, tokens, BATCH_SIZE)) for method in methods}


# --- runs -----------------------------------------------------------------------------------------------


def _run_round(result: dict[str, Any], number: int, options: argparse.Namespace, folder: Path, output: Path) -> None:
    """Every contender once; the file is written after each run, so that a stopped benchmark keeps what it measured."""
    result["matmul_gflops"].append(measure_matmul())
    entries = [entry for name in options.methods for entry in rotated(PARTS[name], number)]
    for place, entry in enumerate(entries, 1):
        begun = time.monotonic()
        try:
            sample = spawn(_job(entry, options.model, folder), folder)
            result["samples"].append({"round": number} | sample)
            rate, peak = pairs_per_second(sample, BATCH_SIZE), sample["peak_training_mib"] or 0
            told = f"{rate:.2f} pairs/s, peak {peak:,.0f} MiB"
        except RunFailed as failure:
            result["failures"].append({"round": number, **asdict(entry), "what": str(failure)})
            told = f"failed: {failure}"
        write(result, output)
        tell(
            f"round {number + 1}/{options.rounds}, {place}/{len(entries)} {entry.method}, {entry.setting}, "
            f"{entry.contender}: {told} ({time.monotonic() - begun:.0f} s)"
        )


def _job(entry: Entry, model: str, folder: Path) -> Job:
    start = str(folder / "reward") if entry.method == "reward" else model
    data = str(folder / FILES.get(entry.method, PAIRS))
    return Job(entry.contender, entry.setting, start, data, "", 0.0, entry.method)


if __name__ == "__main__":
    sys.exit(main())
