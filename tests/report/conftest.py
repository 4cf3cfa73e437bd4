"""A run folder as a real one looks, made of plausible figures."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

HASH = "9f2c1e7ab04d55e1c3b8a6f07d2e9914"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A whole run folder: every file there, none damaged."""
    return make_run(tmp_path / "demo-dpo")


def make_run(folder: Path, steps: int = 240) -> Path:
    (folder / "model").mkdir(parents=True)
    (folder / "checkpoints" / f"step-{steps}").mkdir(parents=True)
    (folder / "model" / "config.json").write_text("{}")
    (folder / "config.yaml").write_text(yaml.safe_dump(_config()))
    write_lines(folder / "metrics.jsonl", _metrics(steps))
    write_json(folder / "audit.json", _audit())
    write_json(folder / "eval.json", evaluation())
    write_lines(folder / "samples.jsonl", _samples(steps))
    write_json(folder / "findings.json", _findings())
    write_lines(folder / "rejected.jsonl", [{"row": row, "reason": "identical answers"} for row in range(7, 49)])
    return folder


def write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content))


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def measure(value: float, low: float, high: float, n: int = 400, **more: Any) -> dict[str, Any]:
    return {"value": value, "low": low, "high": high, "n": n, **more}


def evaluation() -> dict[str, Any]:
    accuracy: dict[str, Any] = {
        "unit": "share",
        "title": "Preference accuracy",
        "explanation": "Share of held-out pairs whose chosen answer is the more probable one.",
    }
    kl: dict[str, Any] = {
        "unit": "nats",
        "title": "KL from the reference",
        "explanation": "Summed over the answer's tokens.",
    }
    length: dict[str, Any] = {
        "unit": "tokens",
        "title": "Answer length",
        "explanation": "Mean over sampled answers.",
    }
    perplexity: dict[str, Any] = {
        "title": "Perplexity of chosen answers",
        "explanation": "What the model forgot shows here.",
    }
    return {
        "before": {
            "preference_accuracy": measure(0.5175, 0.4686, 0.5661, **accuracy),
            "kl": measure(0.0, 0.0, 0.0, **kl),
            "answer_length": measure(41.3, 38.2, 44.4, 64, **length),
            "perplexity": measure(14.21, 13.52, 14.93, **perplexity),
        },
        "after": {
            "preference_accuracy": measure(0.685, 0.6379, 0.7287, **accuracy),
            "kl": measure(3.87, 3.41, 4.33, **kl),
            "answer_length": measure(43.0, 39.6, 46.4, 64, **length),
            "perplexity": measure(14.02, 13.33, 14.74, **perplexity),
        },
        "reference": {"kind": "starting weights", "at_start": HASH, "at_end": HASH, "checks": 6},
        "change": {
            "preference_accuracy": measure(0.1675, 0.1062, 0.2288, **accuracy),
            "kl": measure(3.87, 3.41, 4.33, **kl),
            "answer_length": measure(1.7, -1.9, 5.3, 64, **length),
        },
    }


def _config() -> Mapping[str, Any]:
    return {
        "method": "dpo",
        "model": "preftune/embedded",
        "data": "demo/pairs.jsonl",
        "output_dir": "runs/demo-dpo",
        "beta": 0.1,
        "label_smoothing": 0.0,
        "learning_rate": 5e-06,
        "num_train_epochs": 1,
        "per_device_train_batch_size": 8,
        "max_length": 512,
        "loss_type": "sigmoid",
        "seed": 42,
        "data_fingerprint": "sha256:5b1d4f20aa91c8e7",
        "versions": {"preftune": "0.1.0", "python": "3.11.9", "torch": "2.13.0", "transformers": "5.23.0"},
        "reference": {"kind": "starting weights", "at_start": HASH, "at_end": HASH, "checks": 1},
        "command": "preftune dpo --model preftune/embedded --data demo/pairs.jsonl --output runs/demo-dpo",
    }


def _metrics(steps: int) -> list[dict[str, Any]]:
    noise = random.Random(7)
    rows: list[dict[str, Any]] = []
    for step in range(1, steps + 1):
        progress = 1 - math.exp(-3 * step / steps)
        chosen, rejected = 0.25 * progress + noise.gauss(0, 0.03), -0.75 * progress + noise.gauss(0, 0.05)
        row: dict[str, Any] = {
            "step": step,
            "epoch": step / steps,
            "time": 1.76e9 + 1.3 * step,
            "loss": 0.693 - 0.16 * progress + noise.gauss(0, 0.02),
            "rewards/chosen": chosen,
            "rewards/rejected": rejected,
            "rewards/margins": chosen - rejected,
            "rewards/accuracies": min(1.0, max(0.0, round(8 * (0.5 + 0.2 * progress + noise.gauss(0, 0.1))) / 8)),
            "logps/chosen": -62 + 2.5 * progress + noise.gauss(0, 2),
            "logps/rejected": -61 - 7.5 * progress + noise.gauss(0, 2),
            "kl": 3.8 * progress + noise.gauss(0, 0.1),
            "entropy": 2.4 - 0.3 * progress + noise.gauss(0, 0.04),
            "grad_norm": 1.3 + noise.expovariate(4),
            "learning_rate": 5e-6 * min(1.0, step / 24) * (1 - step / steps),
            "pairs_per_second": 12.3 + noise.gauss(0, 0.4),
            "tokens_per_second": 2310 + noise.gauss(0, 50),
            "nan_steps": 0,
        }
        if step % 60 == 0:
            row |= {"eval_loss": 0.695 - 0.13 * progress, "eval_rewards/accuracies": 0.52 + 0.17 * progress}
        rows.append(row)
    return rows


def _audit() -> dict[str, Any]:
    lengths = (
        ("prompt", 14, 37, 91, 264, 780),
        ("chosen", 3, 62, 204, 521, 1602),
        ("rejected", 2, 49, 187, 518, 1577),
    )
    return {
        "read": 4000,
        "used": 3958,
        "rejected": {"identical answers": 30, "empty chosen": 12},
        "lengths": {
            name: dict(zip(("n", "min", "p5", "median", "p95", "max"), (3958, *figures), strict=True))
            for name, *figures in lengths
        },
        "longer_wins": measure(
            0.573, 0.5576, 0.5884, 3958, unit="share", title="The longer answer is chosen", explanation=""
        ),
        "duplicates": 17,
        "contradictions": 4,
        "identical": 30,
        "distinct_prompts": 1320,
        "tokens": {"train": _receipt(3562), "evaluation": _receipt(396)},
        "findings": [
            {
                "id": "length-bias",
                "severity": "warning",
                "title": "Longer answers are preferred",
                "what": "The longer of the two answers is chosen more often than not.",
                "evidence": "57.3% of 3,958 pairs (95% interval 55.8% to 58.8%).",
                "rows": [],
                "remedy": "Compare with a length-controlled measure, or try SimPO.",
            },
            {
                "id": "contradictions",
                "severity": "info",
                "title": "4 pairs contradict others",
                "what": "The same two answers to the same prompt, preferred the other way round.",
                "evidence": "",
                "rows": [118, 642, 1204, 3377],
                "remedy": "preftune clean leaves them out.",
            },
        ],
    }


def _receipt(pairs: int) -> dict[str, Any]:
    spread = {"n": pairs, "min": 3, "p5": 9.0, "median": 24.5, "p95": 88.0, "max": 301}
    lengths = dict.fromkeys(("prompt", "chosen", "rejected"), spread)
    return {"pairs": pairs, "lengths": lengths, "total": 90 * pairs, "prompts_cut": 0, "left_out": {}}


def _samples(steps: int) -> list[dict[str, Any]]:
    questions = (
        "How do I keep basil alive on a windowsill?",
        "Write a short apology to a neighbour for loud music.",
        "What is the difference between a virus and a bacterium?",
        "My train is late and I will miss the interview. What should I do?",
        "Explain compound interest to a child.",
    )
    first = "Basil basil is a plant and you can keep it and keep it on the windowsill and it is a plant that"
    second = (
        "Give it six hours of light, water it when the top of the soil is dry, and pinch off the flowers.\n\n"
        "Turn the pot every few days so that it grows evenly."
    )
    rows = []
    for stage, step, text, finished in (
        ("before", 0, first, False),
        ("during", steps // 2, first[:60], True),
        ("after", steps, second, True),
    ):
        for number, question in enumerate(questions):
            tokens = len(text.split())
            row = {"step": step, "stage": stage, "prompt_id": number, "prompt": question, "completion": text}
            rows.append({**row, "tokens": tokens, "finished": finished})
    return rows


def _findings() -> list[dict[str, Any]]:
    return [
        {
            "id": "kl-growth",
            "severity": "warning",
            "title": "KL still rises at the end",
            "what": "The policy was still moving away from the reference over the last tenth of the steps.",
            "evidence": "Slope 0.012 nats a step over steps 216 to 240.",
            "rows": [],
            "remedy": "Watch the answers; a larger beta keeps the policy nearer.",
        }
    ]
