"""``preftune audit``: what is wrong with preference data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from preftune.cli.output import DONE, FOUND_WRONG, Outcome
from preftune.cli.screen import notify, show


def audit(
    data: str,
    *,
    eval_data: str | None = None,
    split: str = "train",
    limit: int | None = None,
    rejected: Annotated[Path | None, Parameter(help="File for the rows left out, with their reasons.")] = None,
    strict: bool = False,
) -> Outcome:
    """What is wrong with preference data, row by row.

    Example:
      preftune audit pairs.jsonl --rejected rejected.jsonl --strict

    Parameters
    ----------
    data: Pairs: JSONL, JSON, CSV, Parquet, a datasets folder, or a hub name.
    eval_data: Held-out pairs, to look for prompts that occur in both.
    split: Split of a hub data set or datasets folder.
    limit: Read at most so many rows.
    strict: Exit with 1 where an error is found.
    """
    document = show_audit(data, eval_data=eval_data, split=split, limit=limit, rejected=rejected)
    has_error = any(finding["severity"] == "error" for finding in document["findings"])
    return Outcome(document, FOUND_WRONG if strict and has_error else DONE)


def show_audit(
    data: str,
    *,
    eval_data: str | None = None,
    split: str = "train",
    limit: int | None = None,
    rejected: Path | None = None,
) -> dict[str, Any]:
    """The audit as a document, printed line by line."""
    from preftune.audit.basics import audit_basics
    from preftune.cli.summary import audit_lines
    from preftune.data.read import read_pairs

    reading = read_pairs(data, split=split, limit=limit)
    evaluation = read_pairs(eval_data, split="test").records if eval_data else None
    document = audit_basics(reading, evaluation).as_dict()
    if rejected is not None:
        reading.write_rejected(rejected)
        notify(f"{len(reading.rejected)} rows left out are listed in {rejected}")
    for line in audit_lines(document):
        show(line)
    return document
