"""How much faster and leaner is a DPO step of preftune than TRL's on this machine?

    python -m benchmarks.dpo --model DIR --data PAIRS.jsonl [--pairs 24] [--rounds 3]

These contenders train the same model on the same pairs, each run in a process of its own:

  preftune     its defaults, by the function behind `preftune dpo`; references computed before training
  trl-best     TRL with what helps on a CPU: precompute_ref_log_probs, no gradient checkpointing, and glibc's
               malloc told by environment to keep freed memory (preftune tells it from inside the process)
  trl-default  TRL with use_cpu=True and nothing else; in the first setting only
  trl-bf16     with LoRA only: trl-best with the frozen base loaded in bfloat16, as preftune has it

in three settings: full fine-tuning in bfloat16 (float32 master weights on both sides), LoRA (r 16, alpha 32,
all linear layers) in bfloat16, and full fine-tuning in float32. In each round every contender runs once in
every setting, in an order that rotates from round to round; ratios are taken within a round, so that what
drifts with the machine cancels.

The pairs are drawn at random (fixed seed) from those that fit max_length, and written as text with the chat
template applied, so that both sides make the same tokens of them; they are taken in that order, so that the
steps can be compared loss by loss. Both sides have the same learning rate, schedule, clipping and AdamW.
A step is timed from the end of the one before: collating, logging and the optimiser count, and the first
step, which warms up on the longest pairs, is left out. Peak memory is the kernel's high-water mark, reset when
training begins.
Every raw sample goes into the JSON file; `python -m benchmarks.table` makes the README's tables of it.

Leave the machine alone meanwhile: about 15 minutes a round on two cores with the defaults.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.contenders import BATCH_SIZE, LEARNING_RATE, LORA, MAX_LENGTH, SEED, Job
from benchmarks.machine import describe_machine, machine_slug
from benchmarks.sequences import expected_sequences, receipt
from benchmarks.table import DTYPES, OURS, pairs_per_second, tables

# What preftune tells glibc from inside its process, told by environment.
KEEP_FREED_MEMORY = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1),
    "MALLOC_TOP_PAD_": str(64 * 2**20),
}
HELP_RUNS, FIRST_STEP_RUNS = 5, 3
BUSY_LOAD = 0.5
T = TypeVar("T")


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    options = _parse(sys.argv[1:] if argv is None else argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # ends the run under way, tidies up
    machine = idle_machine()
    output = options.output or Path(__file__).parent / "results" / f"dpo-{machine_slug(machine)}.json"
    with tempfile.TemporaryDirectory(prefix="benchmark-") as name:
        result = _compare(options, machine, Path(name), output)
        result["commands"] = time_commands(options.model, options.data, Path(name))
    write(result, output)
    print(tables(result))
    tell(f"raw samples: {output}; `python -m benchmarks.table` writes the README's tables")
    return 0


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.dpo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="model folder; SmolLM2-135M-Instruct for the targets")
    parser.add_argument("--data", required=True, help="preference pairs, in any form preftune reads")
    parser.add_argument("--pairs", type=int, default=24, help=f"pairs to train on, a multiple of {BATCH_SIZE}")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each contender in each setting")
    parser.add_argument("--settings", default=",".join(DTYPES), help="which of %(default)s")
    parser.add_argument("--output", type=Path, help="the JSON file; benchmarks/results/dpo-<machine>.json by default")
    options = parser.parse_args(arguments)
    options.settings = options.settings.split(",")
    if unknown := set(options.settings) - set(DTYPES):
        parser.error(f"--settings: {', '.join(sorted(unknown))} is none of {', '.join(DTYPES)}")
    if options.pairs % BATCH_SIZE or options.pairs < 2 * BATCH_SIZE:
        parser.error(f"--pairs should be a multiple of {BATCH_SIZE}, and two batches at least")
    if options.rounds < 1:
        parser.error("--rounds should be 1 or more")
    if find_spec("trl") is None:
        parser.error("TRL is not installed; it is in the dependency group 'parity'")
    options.model = str(Path(options.model).expanduser().absolute())  # a link keeps its name
    return options


def _compare(options: argparse.Namespace, machine: dict[str, Any], folder: Path, output: Path) -> dict[str, Any]:
    """All rounds; the file is written after each run, so that a stopped benchmark keeps what it measured."""
    pairs = folder / "pairs.jsonl"
    result: dict[str, Any] = {
        "question": (__doc__ or "").partition("\n")[0],
        "machine": machine,
        "options": {
            "settings": options.settings,
            "rounds": options.rounds,
            "batch_size": BATCH_SIZE,
            "max_length": MAX_LENGTH,
            "learning_rate": LEARNING_RATE,
            "seed": SEED,
            "lora": LORA,
        },
        "model": count_parameters(options.model),
        "data": draw_pairs(options.data, options.model, options.pairs, pairs),
        "matmul_gflops": [],
        "samples": [],
        "commands": {},
    }
    total = options.rounds * sum(len(contenders_of(setting)) for setting in options.settings)
    for number in range(options.rounds):
        result["matmul_gflops"].append(measure_matmul())
        for setting in options.settings:
            for contender in rotated(contenders_of(setting), number):
                begun = time.monotonic()
                sample = spawn(Job(contender, setting, options.model, str(pairs), "", 0.0), folder)
                result["samples"].append({"round": number} | sample)
                write(result, output)
                tell(
                    f"{len(result['samples'])}/{total} round {number + 1}, {setting}, {contender}: "
                    f"{pairs_per_second(sample, BATCH_SIZE):.2f} pairs/s, "
                    f"peak {sample['peak_training_mib'] or 0:,.0f} MiB ({time.monotonic() - begun:.0f} s)"
                )
    return result


def contenders_of(setting: str) -> tuple[str, ...]:
    """TRL's defaults where a target names them; a frozen base in bfloat16 where there is one (LoRA)."""
    last = {"bf16-full": ("trl-default",), "bf16-lora": ("trl-bf16",)}
    return (OURS, "trl-best", *last.get(setting, ()))


def rotated(names: Sequence[T], by: int) -> list[T]:
    """The names in turn, beginning with number ``by``."""
    return [names[(position + by) % len(names)] for position in range(len(names))]


def idle_machine() -> dict[str, Any]:
    """The machine, with a warning where it is busy."""
    machine = describe_machine()
    if (machine["load_at_start"] or 0) > BUSY_LOAD:
        tell(f"warning: the machine is busy (load {machine['load_at_start']:.2f}); figures will be off")
    return machine


# --- what is trained ------------------------------------------------------------------------------------


def draw_pairs(data: str, model: str, count: int, path: Path) -> dict[str, Any]:
    """Writes ``count`` random pairs that fit MAX_LENGTH to ``path``, as text; says what was drawn.

    Before them come the longest once more, a batch to warm up on: memory is then at hand for both sides alike.
    """
    from transformers import AutoTokenizer

    from preftune.data.read import read_pairs
    from preftune.data.tokens import tokenize_pairs

    tokenizer = AutoTokenizer.from_pretrained(model)
    records = list(read_pairs(data).records)
    random.Random(SEED).shuffle(records)
    rows, drawn, too_long = [], [], 0
    for record in records:
        text = _as_text(record, tokenizer)
        (tokens,) = tokenize_pairs([text], tokenizer).pairs
        if len(tokens.prompt) + max(len(tokens.chosen), len(tokens.rejected)) > MAX_LENGTH:
            too_long += 1
            continue
        rows.append({"prompt": text.prompt, "chosen": text.chosen, "rejected": text.rejected})
        drawn.append(tokens)
        if len(drawn) == count:
            break
    else:
        raise SystemExit(f"{data}: only {len(drawn)} pairs fit {MAX_LENGTH} tokens; {count} are asked for.")
    longest = sorted(range(count), key=lambda i: -drawn[i].length)[:BATCH_SIZE]
    rows, drawn = ([kept[i] for i in longest] + kept for kept in (rows, drawn))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return {
        "source": Path(data).name,
        "rows": len(records),
        "pairs": len(drawn),
        "too_long": too_long,
        "lengths": [[len(pair.prompt), len(pair.chosen), len(pair.rejected)] for pair in drawn],
        **receipt(expected_sequences("dpo", drawn, BATCH_SIZE)),
    }


def _as_text(pair: Any, tokenizer: Any) -> Any:
    """The pair with the chat template applied; what the template writes after the end of a turn is left out.

    Given as messages, TRL would keep that (SmolLM2's line break) as a completion token, and preftune not.
    """
    from preftune.data.records import Pair
    from preftune.data.tokens import render_prompt

    if not pair.is_conversational:
        return pair
    prompt = render_prompt(pair, tokenizer)
    sides = []
    for side in (pair.chosen, pair.rejected):
        messages = [message.as_row() for message in (*pair.prompt, *side)]
        whole = tokenizer.apply_chat_template(messages, tokenize=False)
        if not whole.startswith(prompt):
            raise SystemExit("The chat template writes a prompt with its answer otherwise than alone: give plain text.")
        sides.append(whole.removeprefix(prompt).rstrip())
    return Pair(prompt=prompt, chosen=sides[0], rejected=sides[1])


def count_parameters(model: str) -> dict[str, Any]:
    """Parameters in all, of the layers (``body``) and of the LM head, which may be the embedding's."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        empty: Any = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model))
    embedding, head = empty.get_input_embeddings().weight, empty.get_output_embeddings().weight
    total = sum(parameter.numel() for parameter in empty.parameters())
    outside = embedding.numel() + (0 if head is embedding else head.numel())
    return {
        "name": Path(model).name,
        "parameters": total,
        "body_parameters": total - outside,
        "head_parameters": head.numel(),
    }


# --- runs -----------------------------------------------------------------------------------------------


class RunFailed(SystemExit):
    """A contender's process that ended without a sample; its message has the end of its log."""


def spawn(job: Job, folder: Path) -> dict[str, Any]:
    """The job done in a process of its own; its sample."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        job = Job(**asdict(job) | {"folder": name, "spawned": time.time()})
        log = Path(name) / "log.txt"
        with log.open("wb") as sink:
            command = [sys.executable, "-m", "benchmarks.contenders", json.dumps(asdict(job))]
            done = subprocess.run(command, env=_environment(job), stdout=sink, stderr=subprocess.STDOUT)
        if done.returncode:
            tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
            raise RunFailed(f"{job.method} by {job.contender} in {job.setting} ended with {done.returncode}:\n{tail}")
        return json.loads((Path(name) / "sample.json").read_text(encoding="utf-8"))


def _environment(job: Job) -> dict[str, str]:
    """The user's, without malloc settings, without the network, with caches that are empty."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_") and k != "GLIBC_TUNABLES"}
    return (
        inherited
        | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        | {"PREFTUNE_CACHE": f"{job.folder}/cache", "HF_DATASETS_CACHE": f"{job.folder}/datasets"}
        | (KEEP_FREED_MEMORY if job.contender in ("trl-best", "trl-bf16") else {})
    )


def measure_matmul() -> dict[str, float]:
    """GFLOP/s by dtype, in a process of its own as the contenders are."""
    command = [sys.executable, "-m", "benchmarks.machine"]
    return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)["matmul_gflops"]


# --- commands -------------------------------------------------------------------------------------------


def time_commands(model: str, data: str, folder: Path) -> dict[str, list[float]]:
    """Seconds from the start of a command: to the end of ``--help``, to the first step of a LoRA run."""
    script = Path(sys.executable).with_name("preftune")
    preftune = [str(script)] if script.exists() else [sys.executable, "-m", "preftune.cli.main"]
    lora = [*preftune, "dpo", "--model", model, "--use_peft", "--logging_steps", "1"]
    no_answers = ["--num_samples", "0", "--num_completions", "0", "--eval_fraction", "0"]
    small = ["--data", str(folder / "pairs.jsonl"), *no_answers]
    _time_help(preftune)  # warms the file cache
    return {
        "`preftune --help`": [_time_help(preftune) for _ in range(HELP_RUNS)],
        "`preftune dpo --use_peft`, first step done; the pairs above, nothing held out": [
            _time_to_first_step([*lora, *small], folder) for _ in range(FIRST_STEP_RUNS)
        ],
        f"the same on all of {Path(data).name}, all defaults": [_time_to_first_step([*lora, "--data", data], folder)],
    }


def _time_help(command: Sequence[str]) -> float:
    begun = time.perf_counter()
    subprocess.run([*command, "--help"], check=True, capture_output=True)
    return time.perf_counter() - begun


def _time_to_first_step(command: Sequence[str], folder: Path) -> float:
    """Until the first line of metrics.jsonl, by its own clock; the run is then ended."""
    from preftune.training.metrics import read_metrics

    with tempfile.TemporaryDirectory(dir=folder) as name:
        job = Job(OURS, "", "", "", name, time.time())
        log, metrics = Path(name) / "log.txt", Path(name) / "run" / "metrics.jsonl"
        with log.open("wb") as sink:
            run = subprocess.Popen(
                [*command, "--output", str(metrics.parent)], env=_environment(job), stdout=sink, stderr=sink
            )
            try:
                while not (rows := read_metrics(metrics)) and run.poll() is None:
                    time.sleep(0.2)
            finally:
                run.kill()
                run.wait()
        if not rows:
            raise SystemExit(f"{command[0]} dpo ended without a step:\n{log.read_text(errors='replace')[-2000:]}")
        return rows[0]["time"] - job.spawned


def write(result: Mapping[str, Any], output: Path) -> None:
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
