"""One run of one contender: preftune or TRL trains, a clock watches. Each run has a process of its own.

python -m benchmarks.contenders JOB     what benchmarks.dpo starts; JOB is a ``Job`` as JSON
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.machine import peak_mib, reset_peak, resident_mib
from benchmarks.table import DTYPES, OURS

BATCH_SIZE, MAX_LENGTH, LEARNING_RATE, SEED = 4, 512, 1e-6, 42
LORA = {"r": 16, "lora_alpha": 32, "lora_dropout": 0.0}
BEST_ON_CPU: dict[str, Any] = {"precompute_ref_log_probs": True, "gradient_checkpointing": False}
TRL_SETTINGS: dict[str, dict[str, Any]] = {
    "trl-best": BEST_ON_CPU,
    "trl-bf16": BEST_ON_CPU | {"model_init_kwargs": {"dtype": "bfloat16"}},
    "trl-default": {},
}


@dataclass(frozen=True)
class Job:
    """One run of one contender; ``spawned`` is when its process was asked for, in seconds since 1970."""

    contender: str
    setting: str
    model: str
    pairs: str
    folder: str
    spawned: float

    @property
    def shared(self) -> dict[str, Any]:
        """The settings that both sides know by the same names."""
        return {
            "output_dir": str(Path(self.folder) / "run"),
            "bf16": DTYPES[self.setting] == "bfloat16",
            "max_length": MAX_LENGTH,
            "per_device_train_batch_size": BATCH_SIZE,
            "learning_rate": LEARNING_RATE,
            "seed": SEED,
            "train_sampling_strategy": "sequential",
            "num_train_epochs": 1,
            "save_strategy": "no",
            "logging_steps": 1,
        }

    @property
    def uses_lora(self) -> bool:
        return self.setting.endswith("lora")


def run_job(job: Job) -> None:
    """Trains, and writes ``sample.json`` into the job's folder."""
    clock = Clock(job.spawned)
    train: Callable[[Job, Clock], Mapping[str, Any]] = _train_preftune if job.contender == OURS else _train_trl
    seen = train(job, clock)
    sample = {"setting": job.setting, "contender": job.contender} | clock.sample() | dict(seen)
    (Path(job.folder) / "sample.json").write_text(json.dumps(sample), encoding="utf-8")


@dataclass
class Clock:
    """When a run's steps ended, their losses, and its memory; each side tells it the same moments.

    As a reporter's ``progress`` it hears of preftune's training as the command line does.
    """

    spawned: float
    begun: float = field(default_factory=time.perf_counter)
    imported: float = 0.0
    training: float = 0.0
    first_done: float = 0.0
    ends: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    memory: dict[str, float | None] = field(default_factory=dict)

    def libraries_imported(self) -> None:
        self.imported = time.perf_counter()

    @contextmanager
    def training_phase(self) -> Iterator[None]:
        """Memory and time from here to the end of the block are the training's."""
        peak_before = peak_mib()
        was_reset = reset_peak()
        self.memory = {"resident_before_training_mib": resident_mib(), "peak_before_training_mib": peak_before}
        self.training = time.perf_counter()
        yield
        self.memory["peak_training_mib"] = peak_mib() if was_reset else None

    def step_done(self) -> None:
        self.ends.append(time.perf_counter())
        self.cpu.append(time.process_time())
        self.first_done = self.first_done or time.time()

    @contextmanager
    def progress(self, description: str, total: float | None) -> Iterator[Clock]:
        """For preftune's ``Reporter``."""
        with self.training_phase() if description == "training" else _nothing():
            yield self

    def advance(self, n: float = 1, **figures: float) -> None:
        if "loss" in figures:
            self.losses.append(figures["loss"])
            self.step_done()

    def sample(self) -> dict[str, Any]:
        """What was measured; seconds, MiB. ``peak_process_mib`` includes loading before and saving after."""
        peaks = [self.memory["peak_before_training_mib"], peak_mib()]
        seconds = [end - begin for begin, end in zip(self.ends, self.ends[1:], strict=False)]
        return {
            "import_seconds": self.imported - self.begun,
            "preparation_seconds": self.training - self.imported,
            "first_step_seconds": self.ends[0] - self.training,
            "start_to_first_step_seconds": self.first_done - self.spawned,
            "step_seconds": seconds,
            "cores_busy": (self.cpu[-1] - self.cpu[0]) / sum(seconds),
            "losses": self.losses,
            "peak_process_mib": max((peak for peak in peaks if peak is not None), default=None),
            **self.memory,
        }


@contextmanager
def _nothing() -> Iterator[None]:
    yield


def _train_preftune(job: Job, clock: Clock) -> Mapping[str, Any]:
    """What ``preftune dpo`` does; nothing held out, since this is about the steps."""
    from preftune.methods.dpo import DPOConfig, dpo_method
    from preftune.methods.reporting import Reporter
    from preftune.methods.run import run_pairs

    clock.libraries_imported()
    config = DPOConfig(
        model=job.model,
        data=job.pairs,
        eval_fraction=0.0,
        num_samples=0,
        num_completions=0,
        use_peft=job.uses_lora,
        lora_r=LORA["r"],
        lora_alpha=LORA["lora_alpha"],
        precompute_ref_log_probs=True,
        **job.shared,
    )
    summary = run_pairs(config, dpo_method(config), Reporter(print, clock.progress))
    return {"tokens": summary.audit["tokens"]["train"]["total"]}


def _train_trl(job: Job, clock: Clock) -> Mapping[str, Any]:
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoTokenizer, TrainerCallback
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DPOTrainer

    clock.libraries_imported()

    class Watcher(TrainerCallback):
        def on_step_end(self, *arguments: Any, **named: Any) -> None:
            clock.step_done()

        def on_log(self, *arguments: Any, logs: Mapping[str, float], **named: Any) -> None:
            if "loss" in logs:
                clock.losses.append(logs["loss"])

    settings = DPOConfig(
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        **job.shared,
        **TRL_SETTINGS[job.contender],
    )
    trainer = DPOTrainer(
        model=job.model,
        args=settings,
        train_dataset=Dataset.from_list([json.loads(line) for line in Path(job.pairs).read_text().splitlines()]),
        processing_class=AutoTokenizer.from_pretrained(job.model),
        peft_config=LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM", **LORA) if job.uses_lora else None,
        callbacks=[Watcher()],
    )
    with clock.training_phase():
        trainer.train()
    trainer.save_model(f"{job.folder}/model")
    return _trl_tokens(trainer.train_dataset)


def _trl_tokens(rows: Any) -> Mapping[str, Any]:
    """What TRL made of the pairs, to be compared with what preftune did."""
    import numpy as np

    from preftune.data.tokens import TokenPair, fingerprint_tokens

    fields = ("prompt_ids", "chosen_ids", "rejected_ids")
    pairs = [TokenPair("", *(np.asarray(row[name], dtype=np.int32) for name in fields)) for row in rows]
    return {"tokens": sum(pair.length for pair in pairs), "fingerprint": fingerprint_tokens(pairs)}


if __name__ == "__main__":
    run_job(Job(**json.loads(sys.argv[1])))
