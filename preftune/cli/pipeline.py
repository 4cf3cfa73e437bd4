"""``preftune run``: the stages of a pipeline file, one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from preftune.cli.output import Outcome
from preftune.cli.screen import notify, progress, show

ALWAYS_SHOWN = ("model", "data", "learning_rate", "num_train_epochs", "max_steps", "per_device_train_batch_size")
_LONGEST = 44  # characters of a value in the table


def run(
    pipeline: Path,
    /,
    *,
    output: Path | None = None,
    from_stage: Annotated[str | None, Parameter(name="--from")] = None,
    dry_run: bool = False,
) -> Outcome:
    """The stages of a pipeline in order: SFT, reward model, PPO, or any others.

    Called again it goes on: finished stages are skipped, a stopped one resumes from its checkpoint, and one whose
    settings or data have changed since is refused until you say --from. Nothing is ever deleted.

    Example:
      preftune run examples/rlhf.yaml --dry-run
      preftune run examples/rlhf.yaml
      preftune run examples/rlhf.yaml --from reward

    Parameters
    ----------
    pipeline: YAML file with output_dir, model, defaults and stages.
    output: Folder of the pipeline, over the file's output_dir.
    from_stage: Run this stage and those after it again; what is there is kept aside.
    dry_run: Show the plan, with each stage's settings, and run nothing.
    """
    from preftune.pipeline.plan import read_plan

    plan = read_plan(pipeline, output)
    for note in plan.notes:
        notify(note)
    return _show_plan(plan, from_stage) if dry_run else _run(plan, from_stage, _command(pipeline, output))


def _show_plan(plan: Any, from_stage: str | None) -> Outcome:
    from preftune.pipeline.record import read_record
    from preftune.pipeline.stages import describe

    again = None if from_stage is None else plan.stage(from_stage)
    stages = describe(plan, read_record(plan.output))
    for stage in stages:
        if again is not None and stage["number"] >= again.number and stage["standing"] != "waiting":
            stage["standing"] = "again"
    show(_stage_table(stages))
    show(_settings_table(stages, plan.stages))
    for stage in stages:
        if stage["standing"] == "changed":
            notify(stage["changed"])
    return Outcome({"pipeline": str(plan.file), "output": str(plan.output), "stages": stages})


def _run(plan: Any, from_stage: str | None, command: str) -> Outcome:
    from preftune.cli.quiet import quieten_libraries

    quieten_libraries()
    from preftune.cli.summary import show_run
    from preftune.methods.reporting import Reporter
    from preftune.pipeline.stages import run_pipeline
    from preftune.training.stopping import exit_code

    evaluations: dict[str, Any] = {}

    def on_stage(stage: Any, summary: Any, report: Path) -> None:
        evaluations[stage.name] = summary.evaluation
        show(f"\n[bold]{stage.number}. {stage.name}[/bold]")
        show(show_run(summary, report))

    reporter = Reporter(notify, progress)
    result = run_pipeline(plan, reporter, again_from=from_stage, command=command, on_stage=on_stage)
    document = {
        "folder": str(result.folder),
        "report": str(result.report),
        "ran": list(result.ran),
        "skipped": list(result.skipped),
        "stopped": result.stopped,
        "stopped_in": result.stopped_in,
        "models": {stage.name: str(stage.model) for stage in plan.stages if stage.model.is_dir()},
        "evaluations": evaluations,
    }
    if result.stopped is not None:
        notify(
            f"stopped by {result.stopped} in stage {result.stopped_in}; its checkpoint is written. `{command}` goes on."
        )
        return Outcome(document, exit_code(result.stopped))
    show(f"\npipeline {result.folder}\nreport   {result.report}")
    return Outcome(document)


def _command(pipeline: Path, output: Path | None) -> str:
    """What goes on with the pipeline, whatever it was started with."""
    import shlex

    return shlex.join(["preftune", "run", str(pipeline), *(["--output", str(output)] if output else [])])


def _stage_table(stages: Sequence[dict[str, Any]]) -> Any:
    from rich.markup import escape
    from rich.table import Table

    table = Table(title="Plan", title_justify="left")
    for column in ("stage", "method", "folder", "takes the model of", "now"):
        table.add_column(column)
    for stage in stages:
        uses = ", ".join(stage["uses"]) or "-"
        cells = (f"{stage['number']}. {stage['name']}", stage["method"], stage["folder"], uses, stage["standing"])
        table.add_row(*(escape(cell) for cell in cells))
    return table


def _settings_table(stages: Sequence[dict[str, Any]], planned: Sequence[Any]) -> Any:
    """A row for each setting that the file gives or that says most of a run; ``--json`` has all of them."""
    from rich.markup import escape
    from rich.table import Table

    given = {name for stage in planned for name in stage.given}
    known = list(dict.fromkeys(name for stage in stages for name in stage["settings"]))
    shown = [name for name in ALWAYS_SHOWN if name in known]
    shown += [name for name in known if name in given and name not in shown]
    table = Table(title="Settings; bold ones are the file's", title_justify="left")
    for column in ("setting", *(stage["name"] for stage in stages)):
        table.add_column(escape(column), overflow="fold")
    for name in shown:
        cells = []
        for stage, plan in zip(stages, planned, strict=True):
            text = escape(_told(stage["settings"], name, plan))
            cells.append(f"[bold]{text}[/bold]" if name in plan.given else text)
        table.add_row(escape(name), *cells)
    return table


def _told(settings: dict[str, Any], name: str, stage: Any) -> str:
    if name not in settings:
        return "-"
    value = settings[name]
    values = value if isinstance(value, list) else [value]
    words = [f"model of {stage.uses[one]}" if one in stage.uses else _word(one) for one in values]
    text = ", ".join(words)
    return text if len(text) <= _LONGEST else "..." + text[-_LONGEST + 3 :]


def _word(value: Any) -> str:
    return (
        {True: "true", False: "false", None: "none"}[value] if value is None or isinstance(value, bool) else str(value)
    )
