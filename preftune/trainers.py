"""The Python API with TRL's names: a trainer a method, over the same run as the command line.

from preftune import DPOConfig, DPOTrainer

trainer = DPOTrainer(model="Qwen/Qwen3-0.6B", args=DPOConfig(output_dir="out"), train_dataset=pairs)
trainer.train()
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final, Protocol

from torch import nn

from preftune.errors import PreftuneError
from preftune.methods.context import Given
from preftune.methods.dpo import DPOConfig, IPOConfig
from preftune.methods.job import Job
from preftune.methods.kto import KTOConfig
from preftune.methods.orpo import ORPOConfig
from preftune.methods.registry import METHODS
from preftune.methods.reporting import SILENT, Progress, Reporter
from preftune.methods.reward import RewardConfig
from preftune.methods.run import RunSummary, run
from preftune.methods.settings import RunConfig
from preftune.methods.sft import SFTConfig
from preftune.methods.simpo import CPOConfig, SimPOConfig
from preftune.report.page import write_report
from preftune.training.metrics import read_metrics

# What TRL's trainers take beside what is taken here, and what to do instead.
UNSUPPORTED: Final[dict[str, str]] = {
    "data_collator": "Batches are packed without padding, so nothing is collated.",
    "compute_metrics": "The held-out measures are in trainer.summary.evaluation and eval.json.",
    "optimizers": "Set learning_rate, lr_scheduler_type and the adam_ settings instead.",
    "optimizer_cls_and_kwargs": "Set learning_rate and the adam_ settings instead.",
    "preprocess_logits_for_metrics": "Logits are never held whole.",
    "compute_loss_func": "Add a loss as docs/architecture.md shows.",
    "formatting_func": "Give the data as prompt and completion, or as messages.",
    "model_init": "Give the model.",
    "quantization_config": "Set load_in_4bit in the config.",
}
# Fields of peft's LoraConfig by our names; all others must be as peft has them.
LORA_FIELDS: Final = {
    "r": "lora_r",
    "lora_alpha": "lora_alpha",
    "lora_dropout": "lora_dropout",
    "target_modules": "lora_target_modules",
    "modules_to_save": "lora_modules_to_save",
    "use_rslora": "use_rslora",
    "use_dora": "use_dora",
}


class Callback(Protocol):
    """Told of each step with its figures; a function of (step, figures) is one."""

    def __call__(self, step: int, figures: Mapping[str, float]) -> object: ...


@dataclass(frozen=True)
class TrainOutput:
    """What ``train`` gives: steps done, the mean of the logged losses, the figures of the last log line."""

    global_step: int
    training_loss: float
    metrics: Mapping[str, float]
    summary: RunSummary


@dataclass(frozen=True)
class TrainerState:
    """The run as its log tells it; ``log_history`` holds the rows of ``metrics.jsonl``."""

    log_history: Sequence[Mapping[str, Any]]
    global_step: int


class Trainer:
    """One run of a method, with the arguments of TRL's trainers.

    ``model`` is a folder, hub name or GGUF file, or a loaded model, which is then trained in place; likewise
    ``ref_model``. Data is a ``datasets.Dataset``, a list of dicts, or a path. ``processing_class`` (or
    ``tokenizer``) is the tokenizer, ``peft_config`` peft's LoraConfig, ``callbacks`` functions of (step, figures).
    Raises ``PreftuneError`` for what is not supported.
    """

    method: ClassVar[str]
    config_class: ClassVar[type[RunConfig]]

    def __init__(
        self,
        model: str | nn.Module | None = None,
        ref_model: str | nn.Module | None = None,
        args: RunConfig | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        tokenizer: Any = None,
        peft_config: Any = None,
        callbacks: Sequence[Callback] | None = None,
        reporter: Reporter = SILENT,
        **others: Any,
    ) -> None:
        _refuse_others(type(self).__name__, others)
        settings = self._settings(args, model, ref_model, train_dataset, eval_dataset, peft_config)
        self.args = self.config_class.model_validate(settings)
        self.given = _given(self.args, model, ref_model, train_dataset, eval_dataset, processing_class or tokenizer)
        self.callbacks = tuple(callbacks or ())
        self.reporter = reporter
        self.summary: RunSummary | None = None
        self._job: Job[Any] | None = None

    def train(self, resume_from_checkpoint: bool | str | None = None) -> TrainOutput:
        """Runs to the end, or on from the newest checkpoint; writes the run's folder and its report."""
        config = self.args.model_copy(update={"resume": bool(resume_from_checkpoint) or self.args.resume})
        prepare = METHODS[self.method].prepare()
        reporter = _listened(self.reporter, self.callbacks)
        self.summary = run(config, prepare, reporter, given=self.given, on_job=self._remember)
        write_report(self.summary.folder)
        history = self.state.log_history
        losses = [row["loss"] for row in history if row.get("loss") is not None]
        mean = sum(losses) / len(losses) if losses else float("nan")
        return TrainOutput(self.summary.training.steps, mean, history[-1] if history else {}, self.summary)

    @property
    def model(self) -> nn.Module:
        """The model being trained, or trained; there before ``train`` only where it was given loaded."""
        if self._job is not None:
            return self._job.engine.model  # type: ignore[return-value]
        if self.given.model is None:
            raise PreftuneError("The model is loaded when training starts.", mend="Call train first.")
        return self.given.model

    @property
    def state(self) -> TrainerState:
        """What was logged so far."""
        file = Path(self.args.output_dir) / "metrics.jsonl"
        rows = read_metrics(file) if file.is_file() else []
        return TrainerState(rows, rows[-1]["step"] if rows else 0)

    def evaluate(self) -> dict[str, float]:
        """The figures of the last evaluation, by TRL's names."""
        rows = [row for row in self.state.log_history if any(name.startswith("eval_") for name in row)]
        if not rows:
            raise PreftuneError("Nothing was evaluated yet.", mend="Call train first, with held-out data.")
        return {name: value for name, value in rows[-1].items() if name.startswith("eval_")}

    def save_model(self, output_dir: str | None = None) -> None:
        """Copies the run's model folder, which ``train`` has written, to ``output_dir``."""
        source = Path(self.args.output_dir) / "model"
        if not source.is_dir():
            raise PreftuneError("There is no trained model yet.", where=str(source), mend="Call train first.")
        if output_dir is not None:
            shutil.copytree(source, output_dir, dirs_exist_ok=True)

    def _remember(self, job: Job[Any]) -> None:
        self._job = job

    def _settings(
        self, args: RunConfig | None, model: Any, ref_model: Any, train: Any, evaluation: Any, peft_config: Any
    ) -> dict[str, Any]:
        """The config's values with what the other arguments say of them."""
        args = self.config_class() if args is None else args
        if not isinstance(args, self.config_class):
            raise PreftuneError(
                f"args should be a {self.config_class.__name__}, not {type(args).__name__}.", where=type(self).__name__
            )
        values = args.model_dump()
        if ref_model is not None and "ref_model" not in self.config_class.model_fields:
            raise PreftuneError(
                f"{type(self).__name__} has no reference.", where="ref_model", mend="Leave ref_model out."
            )
        for name, value in (("model", model), ("ref_model", ref_model), ("data", train), ("eval_data", evaluation)):
            if isinstance(value, str | Path):
                values[name] = str(value)
            elif isinstance(value, nn.Module) and name == "model":
                values[name] = getattr(getattr(value, "config", None), "_name_or_path", "") or type(value).__name__
        if not values["model"] or (train is None and not values["data"]):
            missing = "model" if not values["model"] else "train_dataset"
            raise PreftuneError(f"{missing} is not given.", where=type(self).__name__, mend=f"Give {missing}.")
        return values if peft_config is None else values | _lora_settings(peft_config)


class SFTTrainer(Trainer):
    """Supervised fine-tuning on demonstrations."""

    method, config_class = "sft", SFTConfig


class RewardTrainer(Trainer):
    """A reward model from preference pairs."""

    method, config_class = "reward", RewardConfig


class DPOTrainer(Trainer):
    """DPO or one of its variants on preference pairs."""

    method, config_class = "dpo", DPOConfig


class IPOTrainer(Trainer):
    """IPO on preference pairs."""

    method, config_class = "ipo", IPOConfig


class KTOTrainer(Trainer):
    """KTO on labelled answers, or on pairs read as labels."""

    method, config_class = "kto", KTOConfig


class ORPOTrainer(Trainer):
    """ORPO on preference pairs."""

    method, config_class = "orpo", ORPOConfig


class CPOTrainer(Trainer):
    """CPO, or SimPO, on preference pairs."""

    method, config_class = "simpo", CPOConfig


class SimPOTrainer(CPOTrainer):
    """SimPO on preference pairs."""

    config_class = SimPOConfig


def _refuse_others(trainer: str, others: Mapping[str, Any]) -> None:
    for name, value in others.items():
        if name not in UNSUPPORTED:
            raise PreftuneError(f"{trainer} has no argument {name}.", mend="TRL's names are understood.")
        if value is not None and value != (None, None):
            raise PreftuneError(f"{name} is not supported.", where=trainer, mend=UNSUPPORTED[name])


def _given(config: RunConfig, model: Any, ref_model: Any, train: Any, evaluation: Any, tokenizer: Any) -> Given:
    """What was handed over as objects; a model trained whole is copied, for its start is the reference."""
    loaded = model if isinstance(model, nn.Module) else None
    other = ref_model if isinstance(ref_model, nn.Module) else None
    if other is not None and other is loaded:
        raise PreftuneError(
            "ref_model is the model itself, which training moves.",
            where="ref_model",
            mend="Leave it out: the reference is then the model as it is at the start.",
        )
    start = copy.deepcopy(loaded) if loaded is not None and not config.use_peft else None
    as_object = [None if isinstance(data, str | Path) else data for data in (train, evaluation)]
    return Given(loaded, start, other, tokenizer, as_object[0], as_object[1])


def _lora_settings(peft_config: Any) -> dict[str, Any]:
    from peft import LoraConfig

    if not isinstance(peft_config, LoraConfig):
        raise PreftuneError(
            f"{type(peft_config).__name__} is not supported.", where="peft_config", mend="Give a LoraConfig."
        )
    plain = LoraConfig().to_dict()
    own = {"task_type", "base_model_name_or_path", "inference_mode", "peft_version", "auto_mapping", "revision"}
    for name, value in peft_config.to_dict().items():
        if name not in LORA_FIELDS and name not in own and value != plain[name]:
            raise PreftuneError(f"LoraConfig({name}={value!r}) is not supported.", where="peft_config")
    values: dict[str, Any] = {"use_peft": True}
    for name, ours in LORA_FIELDS.items():
        value = getattr(peft_config, name)
        if name in ("target_modules", "modules_to_save"):
            default = ("all-linear",) if name == "target_modules" else ()
            value = default if value is None else (value,) if isinstance(value, str) else tuple(sorted(value))
        values[ours] = value
    return values


def _listened(reporter: Reporter, callbacks: Sequence[Callback]) -> Reporter:
    """The reporter, with the callbacks told of each step of training."""
    if not callbacks:
        return reporter

    def progress(description: str, total: float | None) -> Any:
        opened = reporter.progress(description, total)
        return _Listened(opened, callbacks) if description == "training" else opened

    return Reporter(reporter.note, progress)


class _Listened:
    """A progress bar that passes each step on."""

    def __init__(self, opened: Any, callbacks: Sequence[Callback]) -> None:
        self._opened, self._callbacks, self._step = opened, callbacks, 0

    def __enter__(self) -> _Listened:
        self._bar: Progress = self._opened.__enter__()
        return self

    def __exit__(self, *error: Any) -> Any:
        return self._opened.__exit__(*error)

    def advance(self, n: float = 1, **figures: Any) -> None:
        """Counts, and tells the callbacks."""
        self._bar.advance(n, **figures)
        self._step += int(n)
        for callback in self._callbacks:
            callback(self._step, figures)
