"""Are the estimates of memory and time within a quarter of what runs take?

    python -m benchmarks.advise --model DIR --data PAIRS.jsonl [--only "DPO, LoRA"]

A handful of small real runs, each in a process of its own, after `preftune advise` has estimated them in another. The
peak is the kernel's high-water mark of resident memory while steps are taken, the largest micro-batch among them; the
time is that of a step, the first left out. Both sides use one thread, and count its processor seconds: then other work
on the machine does not matter, which on a shared one it would. Memory is held to 25%, and so is time.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.machine import describe_machine, machine_slug, peak_mib, reset_peak
from benchmarks.table import markdown

PAIRS: Final = 24
COMMON: Final[dict[str, Any]] = {
    "bf16": True,
    "max_length": 512,
    "eval_fraction": 0.0,
    "num_samples": 0,
    "num_completions": 0,
    "eval_strategy": "no",
    "save_strategy": "no",
    "logging_steps": 1,
    "learning_rate": 1e-6,
}
DRAWN: Final[dict[str, Any]] = {
    "reward_funcs": ("benchmarks.grpo:even",),  # differs within a group, or nothing would be computed
    "max_completion_length": 32,
    "num_generations": 8,
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 2,
    "max_steps": 4,
}
RUNS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "SFT, all weights": ("sft", {}),
    "DPO, all weights": ("dpo", {}),
    "DPO, LoRA": ("dpo", {"use_peft": True}),
    "DPO, all weights, float32": ("dpo", {"bf16": False, "per_device_train_batch_size": 2}),
    "DPO, LoRA, activations twice": ("dpo", {"use_peft": True, "gradient_checkpointing": True}),
    "reward model, all weights": ("reward", {}),
    "GRPO, LoRA": ("grpo", {**DRAWN, "use_peft": True}),
    "GRPO, all weights": ("grpo", DRAWN),
}


@dataclass(frozen=True)
class Job:
    """A run, or its estimate, by ``what``."""

    what: str
    run: str
    model: str
    data: str
    folder: str


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    arguments = sys.argv[1:] if argv is None else argv
    if len(arguments) == 2 and arguments[0] == "--job":
        job = Job(**json.loads(arguments[1]))
        print(json.dumps((_estimate if job.what == "estimate" else _run)(job)))
        return 0
    options = _parse(arguments)
    machine = describe_machine() | {"omp_num_threads": "1"}
    output = options.output or Path(__file__).parent / "results" / f"advise-{machine_slug(machine)}.json"
    result = _known(output) or {"question": (__doc__ or "").partition("\n")[0], "runs": {}}
    result |= {"machine": machine, "model": Path(options.model).name, "pairs": PAIRS, "settings": COMMON}
    with tempfile.TemporaryDirectory(prefix="advise-") as folder:
        rows = Path(options.data).read_text(encoding="utf-8").splitlines()[:PAIRS]
        data = Path(folder) / "pairs.jsonl"
        data.write_text("\n".join(rows) + "\n", encoding="utf-8")
        for name in options.only or RUNS:
            jobs = [Job(what, name, options.model, str(data), folder) for what in ("estimate", "run")]
            estimate, measured = (_spawn(job) for job in jobs)
            result["runs"][name] = {"method": RUNS[name][0], "estimate": estimate, "measured": measured}
            output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
            print(f"{name}: {_row(name, result['runs'][name])[1:]}", file=sys.stderr, flush=True)
    print(advise_table(result))
    return 0


def _known(output: Path) -> dict[str, Any] | None:
    return json.loads(output.read_text(encoding="utf-8")) if output.is_file() else None


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.advise", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="model folder; SmolLM2-135M-Instruct for the README's table")
    parser.add_argument("--data", required=True, help="preference pairs as JSON lines")
    parser.add_argument("--only", nargs="*", choices=list(RUNS), help="runs to make (again); all by default")
    parser.add_argument("--output", type=Path, help="the JSON file")
    options = parser.parse_args(arguments)
    options.model = str(Path(options.model).expanduser().absolute())  # a link keeps its name
    return options


def _spawn(job: Job) -> dict[str, Any]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, "-m", "benchmarks.advise", "--job", json.dumps(asdict(job))]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        tail = "\n".join(done.stderr.splitlines()[-15:])
        raise SystemExit(f"{job.run} ({job.what}) ended with {done.returncode}:\n{tail}")
    return json.loads(done.stdout.splitlines()[-1])


def _config(job: Job) -> Any:
    from preftune.methods.registry import METHODS

    method, own = RUNS[job.run]
    cls = METHODS[method].config_class()
    settings = {"per_device_train_batch_size": 4, **COMMON, **own}
    settings = {name: value for name, value in settings.items() if name in cls.model_fields}
    return cls(model=job.model, data=job.data, output_dir=f"{job.folder}/{job.run}", **settings)


def _estimate(job: Job) -> dict[str, Any]:
    import torch

    from preftune.advise.data_facts import read_data
    from preftune.advise.duration import estimate_duration, measure_speed
    from preftune.advise.memory import estimate_memory, trained_parameters
    from preftune.advise.model_facts import read_model
    from preftune.advise.workload import plan_workload
    from preftune.models.loading import load_tokenizer

    torch.set_num_threads(1)
    config, method = _config(job), RUNS[job.run][0]
    facts = read_data(job.data, tokenizer=load_tokenizer(config))
    sizes = read_model(job.model).sizes
    workload = plan_workload(method, config, facts.lengths, facts.records, facts.prompts)
    memory = estimate_memory(workload, config, sizes, has_bfloat16=True)
    begun = time.process_time()
    speed = measure_speed(job.model, config, workload)
    taken = time.process_time() - begun
    duration = estimate_duration(workload, trained_parameters(config, sizes), speed)
    return {**memory.as_dict(), **duration.as_dict(), "speed": speed.as_dict(), "processor_seconds_to_time": taken}


def _run(job: Job) -> dict[str, Any]:
    """Peak from the second step on, when the optimiser has its state, and processor seconds of those steps."""
    import torch

    from preftune.methods.registry import METHODS
    from preftune.methods.reporting import SILENT
    from preftune.methods.run import run
    from preftune.training import loop

    torch.set_num_threads(1)
    take_step, rehearse, seconds, peaks = loop._take_step, loop._rehearse, [], []

    def timed(*arguments: Any, **named: Any) -> None:
        reset_peak()
        begun = time.process_time()
        take_step(*arguments, **named)
        seconds.append(time.process_time() - begun)
        peaks.append(peak_mib() or 0.0)

    def rehearsed(*arguments: Any, **named: Any) -> None:
        reset_peak()
        rehearse(*arguments, **named)
        peaks.append(peak_mib() or 0.0)

    loop._take_step, loop._rehearse = timed, rehearsed
    run(_config(job), METHODS[RUNS[job.run][0]].prepare(), SILENT)
    return {"peak_mib": max(peaks), "step_seconds": seconds, "seconds_a_step": statistics.fmean(seconds[1:])}


def advise_table(result: Mapping[str, Any]) -> str:
    """The result as Markdown."""
    machine = result["machine"]
    about = (
        f"{result['model']}, {result['pairs']} pairs; {machine['cpu']}, one thread, {machine['date'][:10]}. Time is "
        "processor seconds of a step, the first left out; 1.00 is an estimate that is met exactly."
    )
    head = ["run", "peak MiB, estimated", "measured", "estimate/measured", "s a step, estimated", "measured", "ratio"]
    return f"{about}\n\n{markdown(head, [_row(name, one) for name, one in result['runs'].items()])}"


def _row(name: str, one: Mapping[str, Any]) -> list[str]:
    estimate, measured = one["estimate"], one["measured"]
    figures = []
    for key, form in (("peak_mib", ",.0f"), ("seconds_a_step", ".2f")):
        figures += [f"{estimate[key]:{form}}", f"{measured[key]:{form}}", f"{estimate[key] / measured[key]:.2f}"]
    return [name, *figures]


if __name__ == "__main__":
    sys.exit(main())
