"""How much faster and leaner is a GRPO step of preftune than TRL's on this machine?

    python -m benchmarks.grpo --model DIR --data PAIRS.jsonl [--prompts 8] [--group 8] [--steps 3] [--rounds 3]

A step draws `group` completions of each of `prompts` prompts (the same on both sides), asks one cheap reward, the share
of even token ids, and updates all weights once, in bfloat16 with float32 masters. Nothing ends a completion before its
last token, so that both sides do equal work. Both take one micro-batch of eight completions after the other. Each run
has a process of its own; the first step warms up and is not timed.

  preftune     its defaults
  trl          TRL with what helps on a CPU: no gradient checkpointing, glibc's malloc told to keep freed memory

Leave the machine alone meanwhile: TRL takes about two minutes a step on two cores.
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
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from benchmarks.contenders import Clock
from benchmarks.dpo import KEEP_FREED_MEMORY, count_parameters, idle_machine, measure_matmul, rotated, tell, write
from benchmarks.machine import machine_slug
from benchmarks.rollout import draw_prompts
from benchmarks.table import OURS, Target, markdown, round_ratios, spread

CONTENDERS: Final = (OURS, "trl")
TOKENS, SEED, LEARNING_RATE = 64, 42, 1e-6
TARGET: Final = Target(3.5, 0.4)


@dataclass(frozen=True)
class Job:
    """One run of one contender; ``data`` is a file of prompts as text."""

    contender: str
    model: str
    data: str
    folder: str
    prompts: int
    group: int
    steps: int
    spawned: float = 0.0


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    arguments = sys.argv[1:] if argv is None else argv
    if len(arguments) == 2 and arguments[0] == "--job":
        run_job(Job(**json.loads(arguments[1])))
        return 0
    options = _parse(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # ends the run under way, tidies up
    machine = idle_machine()
    output = options.output or Path(__file__).parent / "results" / f"grpo-{machine_slug(machine)}.json"
    with tempfile.TemporaryDirectory(prefix="benchmark-") as name:
        result = _compare(options, machine, Path(name), output)
    print(grpo_tables(result))
    tell(f"raw samples: {output}")
    return 0


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.grpo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="model folder; SmolLM2-135M-Instruct for the targets")
    parser.add_argument("--data", required=True, help="preference pairs, in any form preftune reads, for their prompts")
    parser.add_argument("--prompts", type=int, default=8, help="prompts a step (default %(default)s)")
    parser.add_argument("--group", type=int, default=8, help="completions of each (default %(default)s)")
    parser.add_argument("--steps", type=int, default=3, help="steps a run, the first not timed (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each contender (default %(default)s)")
    parser.add_argument("--output", type=Path, help="the JSON file; benchmarks/results/grpo-<machine>.json by default")
    options = parser.parse_args(arguments)
    if options.steps < 2 or min(options.prompts, options.group, options.rounds) < 1:
        parser.error("--steps should be 2 or more, --prompts, --group and --rounds 1 or more")
    if options.prompts * options.group % 8:
        parser.error("--prompts times --group should be a multiple of 8")
    if find_spec("trl") is None:
        parser.error("TRL is not installed; it is in the dependency group 'parity'")
    options.model = str(Path(options.model).expanduser().absolute())  # a link keeps its name
    return options


def _compare(options: argparse.Namespace, machine: dict[str, Any], folder: Path, output: Path) -> dict[str, Any]:
    """All rounds; the file is written after each run, so that a stopped benchmark keeps what it measured."""
    lengths = lay_out(options, folder / "prompts.jsonl")
    result: dict[str, Any] = {
        "question": (__doc__ or "").partition("\n")[0],
        "machine": machine,
        "options": {name: getattr(options, name) for name in ("prompts", "group", "steps", "rounds")}
        | {"tokens": TOKENS, "seed": SEED, "learning_rate": LEARNING_RATE},
        "model": count_parameters(options.model),
        "data": {"source": Path(options.data).name, "prompt_lengths": lengths},
        "matmul_gflops": [],
        "samples": [],
    }
    for number in range(options.rounds):
        result["matmul_gflops"].append(measure_matmul())
        for contender in rotated(CONTENDERS, number):
            job = Job(
                contender,
                options.model,
                str(folder / "prompts.jsonl"),
                "",
                options.prompts,
                options.group,
                options.steps,
            )
            sample = {"round": number, "contender": contender, "setting": "bf16-full"} | _spawn(job, folder)
            result["samples"].append(sample)
            write(result, output)
            peak = sample["peak_training_mib"] or 0
            tell(f"round {number + 1}/{options.rounds}, {contender}: {seconds(sample):.1f} s a step, {peak:,.0f} MiB")
    return result


def lay_out(options: argparse.Namespace, file: Path) -> list[int]:
    """Writes the prompts, rendered by the chat template, as text that needs no template; gives their tokens."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(options.model)
    prompts = draw_prompts(options.data, options.model, options.prompts)
    rows = [{"prompt": tokenizer.decode(prompt)} for prompt in prompts]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return [len(prompt) for prompt in prompts]


# --- a run ----------------------------------------------------------------------------------------------


def _spawn(job: Job, folder: Path) -> dict[str, Any]:
    """The job done in a process of its own; its sample."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        job = Job(**asdict(job) | {"folder": name, "spawned": time.time()})
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_") and k != "GLIBC_TUNABLES"}
        environment = inherited | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        environment |= KEEP_FREED_MEMORY if job.contender == "trl" else {}
        command = [sys.executable, "-m", "benchmarks.grpo", "--job", json.dumps(asdict(job))]
        log = Path(name) / "log.txt"
        with log.open("wb") as sink:
            done = subprocess.run(command, env=environment, stdout=sink, stderr=subprocess.STDOUT)
        if done.returncode:
            tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
            raise SystemExit(f"{job.contender} ended with {done.returncode}:\n{tail}")
        return json.loads((Path(name) / "sample.json").read_text(encoding="utf-8"))


def run_job(job: Job) -> None:
    """Trains, and writes ``sample.json`` into the job's folder."""
    clock = Clock(job.spawned)
    (_train_trl if job.contender == "trl" else _train_preftune)(job, clock)
    (Path(job.folder) / "sample.json").write_text(json.dumps(clock.sample()), encoding="utf-8")


def even(completion_ids: Sequence[Sequence[int]], **columns: Any) -> list[float]:
    """The reward: the share of even token ids."""
    return [sum(token % 2 == 0 for token in ids) / max(len(ids), 1) for ids in completion_ids]


def _train_preftune(job: Job, clock: Clock) -> None:
    from preftune.methods.context import Given
    from preftune.methods.grpo import GRPOConfig, prepare
    from preftune.methods.reporting import Reporter
    from preftune.methods.run import run

    clock.libraries_imported()
    config = GRPOConfig(
        model=job.model,
        data=job.data,
        output_dir=f"{job.folder}/run",
        bf16=True,
        eval_fraction=0.0,
        num_samples=0,
        eval_strategy="no",
        save_strategy="no",
        logging_steps=1,
        num_generations=job.group,
        per_device_train_batch_size=8,
        gradient_accumulation_steps=job.prompts * job.group // 8,
        max_completion_length=TOKENS,
        max_steps=job.steps,
        learning_rate=LEARNING_RATE,
        seed=SEED,
    )
    run(config, _without_stops(prepare), Reporter(print, clock.progress), given=Given(rewards=(even,)))


def _without_stops(prepare: Any) -> Any:
    """Nothing ends a completion early, so that both sides draw as many tokens."""

    def prepared(context: Any) -> Any:
        from preftune.methods import online

        online.stop_token_ids = lambda model, tokenizer: []
        return prepare(context)

    return prepared


def _train_trl(job: Job, clock: Clock) -> None:
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl.trainer.grpo_config import GRPOConfig
    from trl.trainer.grpo_trainer import GRPOTrainer

    clock.libraries_imported()

    class Watcher(TrainerCallback):
        def on_step_end(self, *arguments: Any, **named: Any) -> None:
            clock.losses.append(0.0)
            clock.step_done()

    rows = [json.loads(line) for line in Path(job.data).read_text().splitlines()]
    config = GRPOConfig(
        output_dir=f"{job.folder}/run",
        use_cpu=True,
        bf16=True,
        report_to=[],
        disable_tqdm=True,
        gradient_checkpointing=False,
        num_generations=job.group,
        per_device_train_batch_size=8,
        gradient_accumulation_steps=job.prompts * job.group // 8,
        max_completion_length=TOKENS,
        generation_kwargs={"min_new_tokens": TOKENS},
        max_steps=job.steps,
        learning_rate=LEARNING_RATE,
        save_strategy="no",
        logging_steps=1,
        seed=SEED,
    )
    trainer = GRPOTrainer(
        model=job.model,
        reward_funcs=even,
        args=config,
        train_dataset=Dataset.from_list(rows),
        callbacks=[Watcher()],
    )
    with clock.training_phase():
        trainer.train()


# --- what came out --------------------------------------------------------------------------------------


def seconds(sample: Mapping[str, Any]) -> float:
    """Mean seconds of the timed steps."""
    return sum(sample["step_seconds"]) / len(sample["step_seconds"])


def grpo_tables(result: Mapping[str, Any]) -> str:
    """What a run measured, as Markdown."""
    samples, options = result["samples"], result["options"]
    rows = []
    for name in dict.fromkeys(sample["contender"] for sample in samples):
        of_one = [sample for sample in samples if sample["contender"] == name]
        rows.append(
            [
                name,
                spread([seconds(sample) for sample in of_one]).text(1),
                spread([sample["peak_training_mib"] or 0 for sample in of_one]).text(0),
            ]
        )
    lengths = result["data"]["prompt_lengths"]
    about = (
        f"{result['model']['name']}, {options['prompts']} prompts of {min(lengths)} to "
        f"{max(lengths)} tokens, {options['group']} completions of {options['tokens']} tokens, "
        f"{options['rounds']} round(s) of {options['steps'] - 1} timed steps. {result['machine']['cpu']}, "
        f"{result['machine']['cores']} cores, {result['machine']['date'][:10]}."
    )
    parts = [about, markdown(["", "seconds a step", "peak MiB, training"], rows)]
    speed = round_ratios(samples, lambda sample: 1 / seconds(sample), OURS, "trl")
    memory = round_ratios(samples, lambda sample: sample["peak_training_mib"], OURS, "trl")
    if speed and memory:
        parts.append(
            f"preftune makes {spread(speed).text(2)} times TRL's steps a second (target {TARGET.speed}) at "
            f"{spread(memory).text(2)} of its memory (target {TARGET.memory})."
        )
    return "\n\n".join(parts)


if __name__ == "__main__":
    sys.exit(main())
