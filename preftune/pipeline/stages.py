"""A pipeline from its first stage to its last: what is finished is skipped, what was stopped goes on."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from preftune.errors import PreftuneError
from preftune.methods.registry import METHODS
from preftune.methods.reporting import Reporter
from preftune.methods.run import RunSummary, run
from preftune.pipeline.plan import Plan, Stage
from preftune.pipeline.record import (
    Entry,
    Record,
    Standing,
    begun,
    ended,
    move_aside,
    read_record,
    standing,
    write_record,
)
from preftune.report.page import write_report
from preftune.report.pipeline_page import write_pipeline_page
from preftune.training.run_folder import open_run

OnStage = Callable[[Stage, RunSummary, Path], object]


@dataclass(frozen=True)
class PipelineResult:
    """What a call did: the stages it ran and those it found finished, and where it was stopped, by which signal."""

    folder: Path
    report: Path
    ran: tuple[str, ...]
    skipped: tuple[str, ...]
    stopped_in: str | None = None
    stopped: str | None = None


def run_pipeline(
    plan: Plan,
    reporter: Reporter,
    *,
    again_from: str | None = None,
    command: str = "",
    on_stage: OnStage = lambda stage, summary, report: None,
    only: Collection[str] | None = None,
    write_index: Callable[[Path], Path] = write_pipeline_page,
) -> PipelineResult:
    """Runs what the plan asks for and is not done yet, into ``plan.output``.

    ``again_from`` names a stage that is run again, with all after it; their folders are moved aside, not deleted.
    ``on_stage`` is told of each finished stage, with its page. ``only`` names the stages to look at: the settings of
    the others may not be decided yet. ``write_index`` writes the page of the whole. Raises PreftuneError, before
    anything is loaded, where a stage has changed since it was run; one of a stage itself says which.
    """
    _require_one_process()
    again = None if again_from is None else plan.stage(again_from)
    with open_run(plan.output, resume=True):
        record = read_record(plan.output)
        if again is not None:
            record = _move_aside(plan, record, again, reporter)
        wanted = [stage for stage in plan.stages if only is None or stage.name in only]
        for stage in wanted:
            standing(stage, record)
        write_record(plan, record)
        ran: list[str] = []
        skipped: list[str] = []
        for stage in wanted:
            now = standing(stage, record)  # again: an earlier stage may have made another model by now
            if now is Standing.FINISHED:
                reporter.note(f"{_label(stage, plan)} is finished: skipped")
                skipped.append(stage.name)
                continue
            reporter.note(f"{_label(stage, plan)} {'goes on' if now is Standing.INTERRUPTED else 'begins'}")
            summary = _run_stage(stage, plan, record, reporter, command, resume=now is Standing.INTERRUPTED)
            page = write_report(stage.folder)
            ran.append(stage.name)
            if summary.training.stopped is not None:
                index = write_index(plan.output)
                signal = summary.training.stopped
                return PipelineResult(plan.output, index, tuple(ran), tuple(skipped), stage.name, signal)
            on_stage(stage, summary, page)
            del summary
            _free_memory()
        return PipelineResult(plan.output, write_index(plan.output), tuple(ran), tuple(skipped))


def describe(plan: Plan, record: Record) -> list[dict[str, Any]]:
    """The plan as a document: each stage with where it stands, every setting it would run with, and why not if not."""
    told = []
    for stage in plan.stages:
        entry: dict[str, Any] = {
            "number": stage.number,
            "name": stage.name,
            "method": stage.method,
            "folder": str(stage.folder),
            "uses": sorted(set(stage.uses.values())),
        }
        try:
            entry["standing"] = standing(stage, record).value
        except PreftuneError as error:
            entry |= {"standing": "changed", "changed": str(error)}
        settings = stage.config.model_dump(mode="json")
        settings["learning_rate"] = stage.config.peak_learning_rate
        told.append(entry | {"settings": settings})
    return told


def _run_stage(
    stage: Stage, plan: Plan, record: Record, reporter: Reporter, command: str, *, resume: bool
) -> RunSummary:
    """Runs the stage and keeps its record; an error is told with the stage's name."""
    entry = begun(stage)
    _keep(plan, record, stage, entry)
    config = stage.config.model_copy(update={"resume": resume})
    try:
        summary = run(config, METHODS[stage.method].prepare(), reporter, command)
    except PreftuneError as error:
        _keep(plan, record, stage, ended(entry, "failed", error=str(error)))
        error.where = f"stage {stage.name}" + (f", {error.where}" if error.where else "")
        raise
    except BaseException as error:
        _keep(plan, record, stage, ended(entry, "failed", error=type(error).__name__))
        raise
    status = "finished" if summary.training.stopped is None else "stopped"
    _keep(plan, record, stage, ended(entry, status, steps=summary.training.steps))
    return summary


def _keep(plan: Plan, record: Record, stage: Stage, entry: Entry) -> None:
    record[stage.name] = entry
    write_record(plan, record)


def _move_aside(plan: Plan, record: Record, again: Stage, reporter: Reporter) -> Record:
    record, moved = move_aside(plan, record, again)
    write_record(plan, record)
    for folder in moved:
        reporter.note(f"{folder.name} is kept as {folder}")
    return record


def _label(stage: Stage, plan: Plan) -> str:
    return f"stage {stage.number} of {len(plan.stages)}, {_name(stage)},"


def _name(stage: Stage) -> str:
    return stage.name if stage.name == stage.method else f"{stage.name} ({stage.method})"


def _require_one_process() -> None:
    processes = int(os.environ.get("WORLD_SIZE", "1") or 1)
    if processes > 1:
        raise PreftuneError(
            f"A pipeline runs in one process, not in {processes}.",
            where="accelerate launch",
            mend="Launch its stages one by one: accelerate launch -m preftune.cli.main sft ...",
        )


def _free_memory() -> None:
    """The models of a finished stage are of no use to the next one."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
