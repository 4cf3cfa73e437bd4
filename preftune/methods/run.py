"""A run from beginning to end, whatever the method: made ready, trained, measured, its model folder written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accelerate import Accelerator, DistributedType

from preftune.config import dump_config
from preftune.diagnose.live import LiveDoctor
from preftune.durable import write_file, write_json
from preftune.errors import PreftuneError
from preftune.methods.context import Context, Given
from preftune.methods.job import Job
from preftune.methods.reporting import SILENT, Reporter
from preftune.methods.settings import RunConfig
from preftune.models.weights import count_weights
from preftune.training.allocator import tune_allocator
from preftune.training.loop import TrainingResult, Watch, Work, train
from preftune.training.rng import seed_everything
from preftune.training.run_folder import open_run
from preftune.versions import installed_versions

Prepare = Callable[[Context[Any]], Job[Any]]
NOTHING_GIVEN = Given()


@dataclass(frozen=True)
class RunSummary:
    """What a run leaves: its folder, how training ended, the measures of ``eval.json``, and ``findings.json``."""

    folder: Path
    training: TrainingResult
    evaluation: Mapping[str, Any]
    audit: Mapping[str, Any]
    findings: Mapping[str, Any] = field(default_factory=dict)


def run(
    config: RunConfig,
    prepare: Prepare,
    reporter: Reporter = SILENT,
    command: str = "",
    given: Given = NOTHING_GIVEN,
    on_job: Callable[[Job[Any]], None] = lambda job: None,
) -> RunSummary:
    """Trains into ``config.output_dir`` what ``prepare`` makes ready, and measures what it changed.

    ``given`` stands in for what the config names; ``on_job`` is told what was made ready. Raises ``PreftuneError``
    for what the user can mend: data, model, settings, disk.
    """
    accelerator = _start(config)
    with _own_folder(config, accelerator) as folder:
        _start_trackers(config, accelerator)
        seed_everything(config.seed)
        context = Context(config, accelerator, folder, reporter, given)
        job = prepare(context)
        on_job(job)
        audit: Mapping[str, Any] = {}
        if accelerator.is_main_process:
            audit = job.write_audit(folder)
            _write_config(context, job, command)
        doctor = _doctor(context, job)
        result = _train(context, job, doctor)
        _check_reference(job, "the end")
        if result.stopped is not None:
            findings = doctor.conclude() if accelerator.is_main_process else {}
            return RunSummary(folder, result, {}, audit, findings)
        if accelerator.is_main_process:
            job.save(folder / "model")
        document = {
            "method": job.method,
            "steps": result.steps,
            "nan_steps": result.nan_steps,
            "seconds": result.seconds,
            **job.measure(result.steps).as_document(),
            "reference": _reference_record(job),
        }
        findings: Mapping[str, Any] = {}
        if accelerator.is_main_process:
            write_json(folder / "eval.json", document)
            findings = doctor.conclude()
        accelerator.end_training()
    return RunSummary(folder, result, document, audit, findings)


def _start(config: RunConfig) -> Accelerator:
    tune_allocator()
    try:
        accelerator = Accelerator(log_with=list(config.report_to) or None, project_dir=config.output_dir)
    except ValueError as error:
        raise PreftuneError(
            f"A tracker is not known ({str(error).splitlines()[0]}).",
            where="--report_to",
            mend="Use tensorboard, wandb, trackio or another of accelerate's.",
        ) from error
    if accelerator.distributed_type not in (DistributedType.NO, DistributedType.MULTI_GPU, DistributedType.MULTI_CPU):
        raise PreftuneError(
            f"{accelerator.distributed_type.value} is not supported yet.",
            where="accelerate's configuration",
            mend="Launch with data parallelism (--multi_gpu), or in one process.",
        )
    return accelerator


def _start_trackers(config: RunConfig, accelerator: Accelerator) -> None:
    if not config.report_to:
        return
    if len(accelerator.log_with) < len(config.report_to):
        raise PreftuneError(
            f"Of the trackers {', '.join(config.report_to)} not all are installed.",
            where="--report_to",
            mend="Install them: pip install 'preftune[tracking]'.",
        )
    plain = {k: v for k, v in config.model_dump().items() if isinstance(v, str | int | float | bool)}
    named = {"wandb": {"name": config.run_name}} if config.run_name else {}
    accelerator.init_trackers("preftune", config=plain, init_kwargs=named)


@contextmanager
def _own_folder(config: RunConfig, accelerator: Accelerator) -> Iterator[Path]:
    """The run's folder; one process of a distributed run locks it for all."""
    folder = Path(config.output_dir)
    if not accelerator.is_main_process:
        yield folder
        return
    with open_run(folder, resume=config.resume):
        if config.resume and (folder / "eval.json").is_file():
            raise PreftuneError(
                "This run is finished: there is nothing to resume.",
                where=str(folder),
                mend="Read its report, or start anew with another --output.",
            )
        yield folder


def _write_config(context: Context[Any], job: Job[Any], command: str) -> None:
    extra = {
        "method": job.method,
        "command": command,
        "data_fingerprint": job.data_fingerprint,
        "reference": _reference_record(job),
        "parameters": dict(zip(("trained", "all"), count_weights(job.engine), strict=True)),
        "versions": installed_versions(),
    }
    write_file(context.folder / "config.yaml", dump_config(_all_said(context.config), extra))


def _all_said(config: RunConfig) -> RunConfig:
    """The config with the learning rate that its method takes where none is set."""
    return config.model_copy(update={"learning_rate": config.peak_learning_rate})


def _reference_record(job: Job[Any]) -> dict[str, Any] | None:
    return None if job.guard is None else job.guard.record()


def _check_reference(job: Job[Any], moment: str) -> None:
    if job.guard is not None:
        job.guard.check(moment)


def _doctor(context: Context[Any], job: Job[Any]) -> LiveDoctor:
    """Who looks at the curves as they come."""
    config = context.config
    return LiveDoctor(
        context.folder,
        job.method,
        {**config.model_dump(), "learning_rate": config.peak_learning_rate},
        context.reporter.note,
        stop_on=config.stop_on,
        kl_cap=getattr(config, "kl_cap", None),
        resumes=config.resume,
    )


def _train(context: Context[Any], job: Job[Any], doctor: LiveDoctor) -> TrainingResult:
    config, accelerator, supply = context.config, context.accelerator, job.supply
    total = config.total_steps(supply.steps_per_epoch)

    def evaluate(step: int) -> Mapping[str, float]:
        _check_reference(job, f"step {step}")
        if step < total:
            job.answer(step)
        return job.during(step)

    work = Work(
        module=job.engine,
        micro_batches=supply.micro_batches,
        items=supply.divisor,
        compute=job.compute,
        name=lambda batch: ", ".join(item.id for item in batch),
        evaluate=evaluate,
        steps_per_epoch=supply.steps_per_epoch,
        identity={
            "tokens": job.fingerprint,
            "steps": total,
            "seed": config.seed,
            "learning_rate": config.peak_learning_rate,
            "lr_scheduler_type": config.lr_scheduler_type,
            "reference": None if job.guard is None else job.guard.at_start,
            **supply.identity,
        },
        largest=supply.largest(total),
        figures=supply.figures,
        shown=supply.shown,
        told=supply.told,
        half=supply.half,
        carried=supply.carried,
    )
    job.engine.train()
    with context.reporter.progress("training", total) as bar:
        reached = 0

        def on_step(step: int, figures: Mapping[str, float]) -> None:
            nonlocal reached
            bar.advance(step - reached, **figures)
            reached = step

        watch = Watch(on_step, context.reporter.note, doctor.on_log)
        return train(work, config, config.peak_learning_rate, context.folder, accelerator, watch)
