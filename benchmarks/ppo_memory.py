"""What do PPO's four models cost in memory, and what is saved where they share their weights?

    python -m benchmarks.ppo_memory --model DIR --data PAIRS.jsonl [--prompts 16]

PPO holds a policy, its frozen reference, a reward model and a value model. Each way takes two optimiser steps in a
process of its own, in bfloat16, on the same prompts with 32 tokens of completion each, and its peak is read from the
second on; speed is not measured. The reward model is the same model with a scoring head whose weights are random.

  full, four models   every weight of policy and value model is trained; reference and reward model lie beside them
  LoRA, four models   adapters are trained; still four sets of weights
  LoRA, two trunks    the reference is the policy without its adapter, the value model an adapter on the reward model
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

from benchmarks.dpo import count_parameters, idle_machine, tell, write
from benchmarks.grpo import lay_out
from benchmarks.machine import machine_slug, peak_mib, reset_peak, resident_mib
from benchmarks.table import markdown

WAYS: Final[dict[str, dict[str, Any]]] = {
    "full, four models": {},
    "LoRA, four models": {"use_peft": True, "ref_model": "MODEL"},
    "LoRA, two trunks": {"use_peft": True, "share_reward_trunk": True},
}
COMMON: Final[dict[str, Any]] = {
    "bf16": True,
    "max_completion_length": 32,
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 2,
    "num_ppo_epochs": 1,
    "max_steps": 2,
    "learning_rate": 1e-6,
    "eval_fraction": 0.0,
    "num_samples": 0,
    "eval_strategy": "no",
    "save_strategy": "no",
    "max_length": 512,
}


@dataclass(frozen=True)
class Job:
    """One way of PPO; ``folder`` holds the prompts, the reward model, and what the run writes."""

    way: str
    model: str
    folder: str


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    arguments = sys.argv[1:] if argv is None else argv
    if len(arguments) == 2 and arguments[0] == "--job":
        print(json.dumps(run_job(Job(**json.loads(arguments[1])))))
        return 0
    options = _parse(arguments)
    machine = idle_machine()
    output = options.output or Path(__file__).parent / "results" / f"ppo-memory-{machine_slug(machine)}.json"
    result: dict[str, Any] = {"machine": machine, "model": count_parameters(options.model), "settings": COMMON}
    result |= {"prompts": options.prompts, "ways": {}}
    with tempfile.TemporaryDirectory(prefix="ppo-memory-") as folder:
        asked = SimpleNamespace(model=options.model, data=options.data, prompts=options.prompts)
        lay_out(asked, Path(folder) / "prompts.jsonl")  # type: ignore[arg-type]
        _save_reward_model(options.model, f"{folder}/reward")
        for way in WAYS:
            result["ways"][way] = _spawn(Job(way, options.model, folder))
            write(result, output)
            tell(f"{way}: {result['ways'][way]['peak_training_mib']:,.0f} MiB")
    print(memory_table(result))
    return 0


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.ppo_memory",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", required=True, help="model folder; SmolLM2-135M-Instruct for the README's table")
    parser.add_argument("--data", required=True, help="preference pairs, in any form preftune reads, for their prompts")
    parser.add_argument("--prompts", type=int, default=16, help="prompts (default %(default)s)")
    parser.add_argument("--output", type=Path, help="the JSON file")
    options = parser.parse_args(arguments)
    options.model = str(Path(options.model).expanduser().absolute())  # a link keeps its name
    return options


def _save_reward_model(model: str, folder: str) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    torch.manual_seed(0)
    scorer = AutoModelForSequenceClassification.from_pretrained(model, num_labels=1, dtype=torch.bfloat16)
    tokenizer = AutoTokenizer.from_pretrained(model)
    scorer.config.pad_token_id = tokenizer.pad_token_id
    scorer.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _spawn(job: Job) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.ppo_memory", "--job", json.dumps(asdict(job))]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        tail = "\n".join(done.stderr.splitlines()[-15:])
        raise SystemExit(f"{job.way} ended with {done.returncode}:\n{tail}")
    return json.loads(done.stdout.splitlines()[-1])


def run_job(job: Job) -> dict[str, Any]:
    """Trains; the peak from the second optimiser step on, and what was held before it."""
    from preftune.methods.ppo import prepare
    from preftune.methods.ppo_settings import PPOConfig
    from preftune.methods.reporting import SILENT
    from preftune.methods.run import run
    from preftune.training import loop

    take_step, seen = loop._take_step, dict[str, Any]()

    def watched(*arguments: Any, **named: Any) -> None:
        if seen:
            reset_peak()
        seen["resident_before_last_step_mib"] = resident_mib()
        take_step(*arguments, **named)
        seen["peak_training_mib"] = peak_mib()

    loop._take_step = watched
    folder = Path(job.folder)
    own = {name: job.model if value == "MODEL" else value for name, value in WAYS[job.way].items()}
    config = PPOConfig(
        model=job.model,
        data=str(folder / "prompts.jsonl"),
        output_dir=str(folder / job.way.replace(", ", "-").replace(" ", "-")),
        reward_funcs=(str(folder / "reward"),),
        **COMMON | own,
    )
    run(config, prepare, SILENT)
    return seen


def memory_table(result: Mapping[str, Any]) -> str:
    """The result as Markdown."""
    machine, peaks = result["machine"], {way: one["peak_training_mib"] for way, one in result["ways"].items()}
    first = next(iter(peaks.values()))
    rows = [[way, f"{peak:,.0f}", f"{peak / first:.2f}"] for way, peak in peaks.items()]
    about = (
        f"{result['model']['name']} in bfloat16, {result['prompts']} prompts with 32 tokens of completion, "
        f"micro-batches of 8; one run each. {machine['cpu']}, {machine['cores']} cores, {machine['date'][:10]}."
    )
    return f"{about}\n\n{markdown(['PPO', 'peak MiB, training', 'of four models'], rows)}"


if __name__ == "__main__":
    sys.exit(main())
