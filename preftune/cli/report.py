"""``preftune report``: the page of a run or of a pipeline, written again."""

from __future__ import annotations

from pathlib import Path

from preftune.cli.output import Outcome
from preftune.cli.screen import show


def report(run: Path) -> Outcome:
    """The HTML page of a run or of a pipeline, again.

    Example:
      preftune report out

    Parameters
    ----------
    run: Folder of a run or of a pipeline, its --output.
    """
    from preftune.report.page import write_report
    from preftune.report.pipeline_page import FILE, write_pipeline_page

    page = write_pipeline_page(run) if (run / FILE).is_file() else write_report(run)
    show(f"The report is {page}.")
    return Outcome({"report": str(page)})
