"""One run of one contender: preftune or TRL trains, a clock watches. Each run has a process of its own.

python -m benchmarks.contenders JOB     what benchmarks.dpo and benchmarks.offline start; JOB is a ``Job`` as JSON
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.machine import peak_mib, reset_peak, resident_mib
from benchmarks.sequences import our_sequences, receipt, trl_sequences
from benchmarks.table import OURS_AS_TRL, TRL

BATCH_SIZE, MAX_LENGTH, LEARNING_RATE, SEED = 4, 512, 1e-6, 42  # the batch in pairs, whatever a method makes of them
LORA = {"r": 16, "lora_alpha": 32, "lora_dropout": 0.0}

OUR_SETTINGS: dict[str, dict[str, Any]] = {
    "dpo": {"precompute_ref_log_probs": True},
    "kto": {"precompute_ref_log_probs": True},
    "reward": {"group_by_prompt": False},  # TRL knows no groups, and the warm-up's pairs come again
}
# TRL's modules, without the ending that tells trainer and config apart, and the names in them.
TRAINERS = {
    "dpo": ("trl.trainer.dpo", "DPO"),
    "kto": ("trl.trainer.kto", "KTO"),
    "orpo": ("trl.experimental.orpo.orpo", "ORPO"),
    "reward": ("trl.trainer.reward", "Reward"),
    "sft": ("trl.trainer.sft", "SFT"),
}


@dataclass(frozen=True)
class Job:
    """One run of one contender; ``spawned`` is when its process was asked for, in seconds since 1970."""

    contender: str
    setting: str
    model: str
    data: str
    folder: str
    spawned: float
    method: str = "dpo"

    @property
    def shared(self) -> dict[str, Any]:
        """The settings that both sides know by the same names."""
        return {
            "output_dir": str(Path(self.folder) / "run"),
            "bf16": self.setting.startswith("bf16"),
            "max_length": MAX_LENGTH,
            "per_device_train_batch_size": 2 * BATCH_SIZE if self.method == "kto" else BATCH_SIZE,
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

    @property
    def is_quantised(self) -> bool:
        return self.setting.endswith("qlora")


def run_job(job: Job) -> None:
    """Trains, and writes ``sample.json`` into the job's folder."""
    clock = Clock(job.spawned)
    train: Callable[[Job, Clock], Mapping[str, Any]] = _train_trl if job.contender in TRL else _train_preftune
    seen = train(job, clock)
    named = {"method": job.method, "setting": job.setting, "contender": job.contender}
    (Path(job.folder) / "sample.json").write_text(json.dumps(named | clock.sample() | dict(seen)), encoding="utf-8")


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


def our_settings(job: Job) -> dict[str, Any]:
    """What preftune is told beside the shared settings: the method's defaults, and what makes it comparable."""
    settings = {"use_peft": job.uses_lora, "lora_r": LORA["r"], "lora_alpha": LORA["lora_alpha"]}
    settings |= {"load_in_4bit": job.is_quantised, **OUR_SETTINGS.get(job.method, {})}
    return settings | ({"nll_of": "sequence"} if job.contender == OURS_AS_TRL else {})


def trl_settings(job: Job) -> dict[str, Any]:
    """What TRL is told beside the shared settings: nothing by default, else what helps on a CPU.

    Its ORPO takes the precision that a model was saved in, its other trainers float32: ORPO is told so.
    """
    if job.contender == "trl-default":
        return {}
    settings: dict[str, Any] = {"gradient_checkpointing": False}
    if job.method in ("dpo", "kto"):
        settings["precompute_ref_log_probs"] = True
    if job.contender == "trl-bf16":
        settings["model_init_kwargs"] = {"dtype": "bfloat16"}
    elif job.method == "orpo":
        settings["model_init_kwargs"] = {"dtype": "float32", "device_map": None}
    return settings


def _train_preftune(job: Job, clock: Clock) -> Mapping[str, Any]:
    """What the method's command does; nothing held out, since this is about the steps."""
    from preftune.methods.registry import find_method
    from preftune.methods.reporting import Reporter
    from preftune.methods.run import run

    method = find_method(job.method)
    config_class, prepare = method.config_class(), method.prepare()
    clock.libraries_imported()
    none_held_out = {"eval_fraction": 0.0, "num_samples": 0, "num_completions": 0}
    config = config_class(model=job.model, data=job.data, **none_held_out, **job.shared, **our_settings(job))
    items: list[Any] = []
    run(config, prepare, Reporter(print, clock.progress), on_job=lambda ready: items.extend(ready.supply.items))
    return receipt(our_sequences(job.method, items))


def _train_trl(job: Job, clock: Clock) -> Mapping[str, Any]:
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import TrainerCallback

    place, name = TRAINERS[job.method]
    config_class = getattr(import_module(f"{place}_config"), f"{name}Config")
    trainer_class = getattr(import_module(f"{place}_trainer"), f"{name}Trainer")
    clock.libraries_imported()

    class Watcher(TrainerCallback):
        def on_step_end(self, *arguments: Any, **named: Any) -> None:
            clock.step_done()

        def on_log(self, *arguments: Any, logs: Mapping[str, float], **named: Any) -> None:
            if "loss" in logs:
                clock.losses.append(logs["loss"])

    trainer = trainer_class(
        model=job.model,
        args=config_class(use_cpu=True, report_to=[], disable_tqdm=True, **job.shared, **trl_settings(job)),
        train_dataset=Dataset.from_list([json.loads(line) for line in Path(job.data).read_text().splitlines()]),
        processing_class=_trl_tokenizer(job),
        peft_config=LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM", **LORA) if job.uses_lora else None,
        callbacks=[Watcher()],
    )
    with clock.training_phase():
        trainer.train()
    trainer.save_model(f"{job.folder}/model")
    return receipt(trl_sequences(job.method, trainer.train_dataset))


def _trl_tokenizer(job: Job) -> Any:
    """The model's; for a reward model it pads with another token than EOS, before which TRL would read the score."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(job.model)
    if job.method == "reward":
        from preftune.models.reward_models import padding_token

        if (padding := padding_token(tokenizer, len(tokenizer))) is not None:
            tokenizer.pad_token = tokenizer.convert_ids_to_tokens(padding)
    return tokenizer


if __name__ == "__main__":
    run_job(Job(**json.loads(sys.argv[1])))
