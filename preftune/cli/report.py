"""``preftune report``: the page of a run, written again."""

from __future__ import annotations

from pathlib import Path

from preftune.cli.output import Outcome
from preftune.cli.screen import show


def report(run: Path) -> Outcome:
    """The HTML page of a run, again.

    Example:
      preftune report out

    Parameters
    ----------
    run: Folder of a run, its --output.
    """
    from preftune.report.page import write_report

    page = write_report(run)
    show(f"The report is {page}.")
    return Outcome({"report": str(page)})
