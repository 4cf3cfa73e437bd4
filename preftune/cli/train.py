"""``preftune dpo`` and the other methods: settings to a run, and what it came to."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from typing import Annotated, Any

from cyclopts import Parameter
from rich.text import Text

from preftune.cli.output import Outcome
from preftune.cli.screen import notify, progress, show
from preftune.cli.settings import asks_for_help, load_settings, settings_help
from preftune.methods.registry import METHODS, Method, find_method

Tokens = Annotated[str, Parameter(allow_leading_hyphen=True, show=False)]


def train(name: str, tokens: tuple[str, ...]) -> Outcome:
    """Trains with the method ``name`` by the settings in ``tokens``."""
    method = find_method(name)
    config_class = method.config_class()
    if asks_for_help(tokens):
        show(Text(settings_help(config_class, name)))
        return Outcome({})
    loaded = load_settings(tokens, config_class)
    for note in loaded.notes:
        notify(note)
    return train_and_report(loaded.config, method, shlex.join(["preftune", name, *tokens]))


def train_and_report(config: Any, method: Method, command: str) -> Outcome:
    """Runs, writes the report, and shows what changed."""
    from preftune.cli.quiet import quieten_libraries

    quieten_libraries()
    from preftune.cli.summary import show_run
    from preftune.methods.reporting import Reporter
    from preftune.methods.run import run
    from preftune.report.page import write_report
    from preftune.training.stopping import exit_code

    summary = run(config, method.prepare(), Reporter(notify, progress), command)
    report = write_report(summary.folder)
    document = {
        "folder": str(summary.folder),
        "report": str(report),
        "steps": summary.training.steps,
        "stopped": summary.training.stopped,
        "findings": [f"{one['severity']}: {one['title']}" for one in summary.findings.get("findings", ())],
    }
    if summary.training.stopped is not None:
        notify(
            f"stopped by {summary.training.stopped} after step {summary.training.steps}; its checkpoint is written. "
            f"{_how_to_go_on(summary.training.stopped)}"
        )
        return Outcome(document, exit_code(summary.training.stopped))
    show(show_run(summary, report))
    return Outcome(document | {"model": str(summary.folder / "model"), "evaluation": summary.evaluation})


def _how_to_go_on(stopped: str) -> str:
    if "--kl_cap" in stopped:
        return "The same command with --resume and a larger --kl_cap goes on."
    return "The same command with --resume goes on."


def __getattr__(name: str) -> Callable[..., Outcome]:
    """A command for each method of the registry, by its name."""
    if name not in METHODS:
        raise AttributeError(name)

    def command(*tokens: Tokens) -> Outcome:
        return train(name, tokens)

    command.__doc__ = METHODS[name].line
    return command
