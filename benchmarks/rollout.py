"""How much faster does preftune draw completions than transformers' generate on this machine?

    python -m benchmarks.rollout --model DIR --data PAIRS.jsonl [--prompts 8] [--group 8] [--rounds 5]

These contenders draw the same number of completions of the same prompts from the same model, at temperature 1 from
the whole distribution, each run in a process of its own:

  preftune     its built-in sampler, `rollout/engine.py`
  generate     transformers' generate, one call for all rows, prompts padded on the left

in these settings:

  bf16-fixed     bfloat16, 64 tokens a completion, nothing stops one: equal work on both sides
  bf16-natural   bfloat16, up to 256 tokens, completions end with the model's stop tokens
  fp32-fixed     as the first, in float32; on demand, see --settings

In each round every contender runs once in every setting, in an order that rotates from round to round; ratios are
taken within a round. A run loads the model, draws a few tokens to warm up, and is then timed over one call; prompts
computed, completions as lists in hand. glibc's malloc keeps freed memory on both sides, as in training. With natural
stops the two sides draw other completions, so that tokens/s compares them, not seconds. Chance has the round as seed.

Every raw sample goes into the JSON file. Leave the machine alone meanwhile: about 3 minutes a round on two cores.
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
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Any, Final

from benchmarks.dpo import count_parameters, idle_machine, measure_matmul, rotated, tell, write
from benchmarks.machine import machine_slug, peak_mib, reset_peak
from benchmarks.table import OURS, VERSIONS, Target, markdown, round_ratios, spread

GENERATE: Final = "generate"
CONTENDERS: Final = (OURS, GENERATE)
SEED, MAX_PROMPT_LENGTH, WARM_UP_TOKENS = 42, 512, 4


@dataclass(frozen=True)
class Setting:
    """What is drawn: precision, the most tokens, and whether stop tokens end a completion before."""

    dtype: str
    tokens: int
    stops: bool


SETTINGS: Final = {
    "bf16-fixed": Setting("bfloat16", 64, stops=False),
    "bf16-natural": Setting("bfloat16", 256, stops=True),
    "fp32-fixed": Setting("float32", 64, stops=False),
}
TARGETS: Final = {"bf16-fixed": Target(2.0), "bf16-natural": Target(3.0)}


@dataclass(frozen=True)
class Job:
    """One run of one contender; ``prompts`` is a file of token lists."""

    contender: str
    setting: str
    model: str
    prompts: str
    group: int
    seed: int
    threads: int | None


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    arguments = sys.argv[1:] if argv is None else argv
    if len(arguments) == 2 and arguments[0] == "--job":
        print(json.dumps(run_job(Job(**json.loads(arguments[1])))))
        return 0
    options = _parse(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # ends the run under way, tidies up
    machine = idle_machine()
    output = options.output or Path(__file__).parent / "results" / f"rollout-{machine_slug(machine)}.json"
    with tempfile.TemporaryDirectory(prefix="benchmark-") as name:
        result = _compare(options, machine, Path(name), output)
    print(rollout_tables(result))
    tell(f"raw samples: {output}")
    return 0


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.rollout", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="model folder; SmolLM2-135M-Instruct for the targets")
    parser.add_argument("--data", required=True, help="preference pairs, in any form preftune reads, for their prompts")
    parser.add_argument("--prompts", type=int, default=8, help="prompts (default %(default)s)")
    parser.add_argument("--group", type=int, default=8, help="completions of each (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each contender in each setting")
    parser.add_argument("--settings", default="bf16-fixed,bf16-natural", help=f"some of {','.join(SETTINGS)}")
    parser.add_argument("--threads", type=int, help="torch's threads; as many as it takes by default")
    parser.add_argument(
        "--output", type=Path, help="the JSON file; benchmarks/results/rollout-<machine>.json by default"
    )
    options = parser.parse_args(arguments)
    options.settings = options.settings.split(",")
    if unknown := set(options.settings) - set(SETTINGS):
        parser.error(f"--settings: {', '.join(sorted(unknown))} is none of {', '.join(SETTINGS)}")
    if min(options.prompts, options.group, options.rounds) < 1:
        parser.error("--prompts, --group and --rounds should be 1 or more")
    options.model = str(Path(options.model).expanduser().absolute())  # a link keeps its name
    return options


def _compare(options: argparse.Namespace, machine: dict[str, Any], folder: Path, output: Path) -> dict[str, Any]:
    """All rounds; the file is written after each run, so that a stopped benchmark keeps what it measured."""
    prompts = draw_prompts(options.data, options.model, options.prompts)
    (folder / "prompts.json").write_text(json.dumps(prompts), encoding="utf-8")
    result: dict[str, Any] = {
        "question": (__doc__ or "").partition("\n")[0],
        "machine": machine,
        "options": {"settings": options.settings, "rounds": options.rounds, "group": options.group, "seed": SEED}
        | {"threads": options.threads},
        "model": count_parameters(options.model),
        "data": {"source": Path(options.data).name, "prompt_lengths": [len(prompt) for prompt in prompts]},
        "matmul_gflops": [],
        "samples": [],
    }
    for number in range(options.rounds):
        result["matmul_gflops"].append(measure_matmul())
        for setting in options.settings:
            for contender in rotated(CONTENDERS, number):
                job = Job(
                    contender,
                    setting,
                    options.model,
                    str(folder / "prompts.json"),
                    options.group,
                    seed=number,
                    threads=options.threads,
                )
                sample = {"round": number, "setting": setting, "contender": contender} | _spawn(job)
                result["samples"].append(sample)
                write(result, output)
                tell(
                    f"round {number + 1}/{options.rounds}, {setting}, {contender}: {tokens_per_second(sample):,.0f} "
                    f"tokens/s ({sum(sample['lengths'])} tokens in {sample['seconds']:.1f} s)"
                )
    return result


def draw_prompts(data: str, model: str, count: int) -> list[list[int]]:
    """Random prompts (fixed seed) as tokens, the chat template applied; those above MAX_PROMPT_LENGTH left out."""
    from transformers import AutoTokenizer

    from preftune.data.read import read_pairs
    from preftune.data.tokens import encode_prompt

    tokenizer = AutoTokenizer.from_pretrained(model)
    records = list(read_pairs(data).records)
    random.Random(SEED).shuffle(records)
    found: dict[tuple[int, ...], None] = {}
    for record in records:
        tokens = tuple(encode_prompt(record, tokenizer))
        if 0 < len(tokens) <= MAX_PROMPT_LENGTH:
            found.setdefault(tokens)
        if len(found) == count:
            return [list(tokens) for tokens in found]
    raise SystemExit(f"{data}: only {len(found)} prompts fit {MAX_PROMPT_LENGTH} tokens; {count} are asked for.")


# --- a run ----------------------------------------------------------------------------------------------


def _spawn(job: Job) -> dict[str, Any]:
    """The job done in a process of its own; its sample."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_") and k != "GLIBC_TUNABLES"}
    environment = inherited | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, "-m", "benchmarks.rollout", "--job", json.dumps(asdict(job))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        tail = "\n".join(done.stderr.splitlines()[-15:])
        raise SystemExit(f"{job.contender} in {job.setting} ended with {done.returncode}:\n{tail}")
    return json.loads(done.stdout.splitlines()[-1])


def run_job(job: Job) -> dict[str, Any]:
    """Draws once to warm up and once by the clock; seconds, the length of each completion, memory."""
    from preftune.training.allocator import tune_allocator

    tune_allocator()
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if job.threads is not None:
        torch.set_num_threads(job.threads)
    setting = SETTINGS[job.setting]
    prompts = json.loads(Path(job.prompts).read_text(encoding="utf-8"))
    tokenizer = AutoTokenizer.from_pretrained(job.model)
    model = AutoModelForCausalLM.from_pretrained(job.model, dtype=getattr(torch, setting.dtype)).eval()
    begun = time.perf_counter()
    draw = (_ours if job.contender == OURS else _generate)(model, tokenizer, prompts, job, setting)
    opened = time.perf_counter() - begun
    draw(WARM_UP_TOKENS)
    reset_peak()
    begun, begun_cpu = time.perf_counter(), time.process_time()
    lengths = draw(setting.tokens)
    seconds, cpu = time.perf_counter() - begun, time.process_time() - begun_cpu
    return {
        "seconds": seconds,
        "lengths": lengths,
        "opening_seconds": opened,
        "peak_mib": peak_mib(),
        "cores_busy": cpu / seconds,
    }


def _ours(model: Any, tokenizer: Any, prompts: list[list[int]], job: Job, setting: Setting) -> Any:
    from preftune.models.lean_modules import make_lean
    from preftune.rollout.engine import open_sampler
    from preftune.rollout.protocol import Sampling
    from preftune.rollout.sample import stop_token_ids

    make_lean(model)  # as in a training run
    stop_ids = stop_token_ids(model, tokenizer) if setting.stops else []
    sampler = open_sampler(model, tokenizer, stop_ids=stop_ids, note=tell)

    def draw(tokens: int) -> list[int]:
        drawn = sampler.sample(prompts, job.group, Sampling(max_new_tokens=tokens), job.seed)
        return [len(one.tokens) for completions in drawn for one in completions]

    return draw


def _generate(model: Any, tokenizer: Any, prompts: list[list[int]], job: Job, setting: Setting) -> Any:
    import torch
    from transformers import GenerationConfig

    from preftune.rollout.sample import stop_token_ids

    stop_ids = stop_token_ids(model, tokenizer)
    model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        pad_token_id=tokenizer.pad_token_id or 0,
        eos_token_id=stop_ids if setting.stops else None,
    )
    tokenizer.padding_side = "left"
    rows = [prompt for prompt in prompts for _ in range(job.group)]
    batch = tokenizer.pad({"input_ids": rows}, return_tensors="pt")
    width = batch["input_ids"].shape[1]

    def draw(tokens: int) -> list[int]:
        torch.manual_seed(job.seed)
        found = model.generate(**batch, max_new_tokens=tokens)[:, width:].tolist()
        return [_length(row, stop_ids) if setting.stops else len(row) for row in found]

    return draw


def _length(tokens: Sequence[int], stop_ids: Sequence[int]) -> int:
    return next((number for number, token in enumerate(tokens, 1) if token in stop_ids), len(tokens))


# --- what came out --------------------------------------------------------------------------------------


def tokens_per_second(sample: Mapping[str, Any]) -> float:
    """Tokens of completions, the stop token included, what pads them not."""
    return sum(sample["lengths"]) / sample["seconds"]


def rollout_tables(result: Mapping[str, Any]) -> str:
    """Everything that a run measured, as Markdown."""
    settings = list(dict.fromkeys(sample["setting"] for sample in result["samples"]))
    return "\n\n".join([_about(result), *(_setting(result, setting) for setting in settings)])


def _about(result: Mapping[str, Any]) -> str:
    machine, options, lengths = result["machine"], result["options"], result["data"]["prompt_lengths"]
    known = machine["versions"]
    versions = ", ".join(f"{name} {known[name]}" for name in VERSIONS if known.get(name, "absent") != "absent")
    rates = result["matmul_gflops"]
    matmul = ", ".join(f"{name} {spread([one[name] for one in rates]).text(0)}" for name in rates[0])
    return (
        f"### {machine['cpu']}, {machine['cores']} cores, {machine['date'][:10]}\n\n"
        f"{versions}. Matrix product of 2048, GFLOP/s, once a round: {matmul}.\n"
        f"{result['model']['name']}; {len(lengths)} prompts of {min(lengths)} to {max(lengths)} tokens (mean "
        f"{mean(lengths):.0f}), {options['group']} completions of each; {options['rounds']} round(s). Figures are "
        "medians over rounds, with the range in brackets."
    )


def _setting(result: Mapping[str, Any], setting: str) -> str:
    samples = [sample for sample in result["samples"] if sample["setting"] == setting]
    rows = []
    for name in CONTENDERS:
        of_one = [sample for sample in samples if sample["contender"] == name]
        if of_one:
            cells = (
                spread([tokens_per_second(sample) for sample in of_one]).text(0),
                spread([sample["seconds"] for sample in of_one]).text(1),
                spread([mean(sample["lengths"]) for sample in of_one]).text(0),
                spread([max(sample["lengths"]) for sample in of_one]).text(0),
                spread([sample["peak_mib"] or 0 for sample in of_one]).text(0),
                spread([sample["cores_busy"] for sample in of_one]).text(2),
            )
            rows.append([name, *cells])
    columns = ["", "tokens/s", "seconds", "mean length", "longest", "peak MiB", "cores busy"]
    ratios = round_ratios(samples, tokens_per_second, OURS, GENERATE)
    parts = [f"#### {setting}", markdown(columns, rows)]
    if ratios:
        parts.append(
            f"preftune draws {spread(ratios).text(2)} times the tokens/s of generate{_verdict(setting, ratios)}."
        )
    return "\n\n".join(parts)


def _verdict(setting: str, ratios: Sequence[float]) -> str:
    if setting not in TARGETS:
        return ""
    target = TARGETS[setting].speed
    return f" (target ≥ {target:g}: {'met' if spread(ratios).middle >= target else 'missed'})"


if __name__ == "__main__":
    sys.exit(main())
