"""``preftune dpo``: settings to a run, and what it came to."""

from __future__ import annotations

import shlex
import signal
from typing import Annotated

from cyclopts import Parameter
from rich.text import Text

from preftune.cli.output import Outcome
from preftune.cli.screen import notify, progress, show
from preftune.cli.settings import asks_for_help, load_settings, settings_help

Tokens = Annotated[str, Parameter(allow_leading_hyphen=True, show=False)]


def dpo(*tokens: Tokens) -> Outcome:
    """Train a model on preference pairs with DPO."""
    from preftune.methods.dpo import DPOConfig, dpo_method

    if asks_for_help(tokens):
        show(Text(settings_help(DPOConfig, "dpo")))
        return Outcome({})
    loaded = load_settings(tokens, DPOConfig)
    for note in loaded.notes:
        notify(note)
    return train_and_report(loaded.config, dpo_method(loaded.config), shlex.join(["preftune", "dpo", *tokens]))


def train_and_report(config, method, command: str) -> Outcome:
    """Runs, writes the report, and shows what changed."""
    from preftune.cli.quiet import quieten_libraries

    quieten_libraries()
    from preftune.cli.summary import show_run
    from preftune.methods.reporting import Reporter
    from preftune.methods.run import run_pairs
    from preftune.report.page import write_report

    summary = run_pairs(config, method, Reporter(notify, progress), command)
    report = write_report(summary.folder)
    document = {
        "folder": str(summary.folder),
        "report": str(report),
        "steps": summary.training.steps,
        "stopped": summary.training.stopped,
    }
    if summary.training.stopped is not None:
        notify(
            f"stopped by {summary.training.stopped} after step {summary.training.steps}; its checkpoint is written. "
            "The same command with --resume goes on."
        )
        return Outcome(document, 128 + signal.Signals[summary.training.stopped].value)
    show(show_run(summary, report))
    return Outcome(document | {"model": str(summary.folder / "model"), "evaluation": summary.evaluation})
