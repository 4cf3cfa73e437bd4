"""``preftune annotate``: the web page where people choose."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.markup import escape

from preftune.cli.output import Outcome
from preftune.cli.screen import notify, show

if TYPE_CHECKING:
    from preftune.audit.findings import Share
    from preftune.collect.people import Annotation


def annotate(
    data: str,
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"])],
    annotators: int = 3,
    host: str = "127.0.0.1",
    port: int = 8765,
    rubric: Path | None = None,
    gold: str | None = None,
    blind: bool = True,
    shuffle: bool = True,
    seed: int = 0,
    split: str = "train",
    limit: int | None = None,
    open_page: Annotated[bool, Parameter(name="--open")] = False,
) -> Outcome:
    """The web page where people choose between two answers.

    Votes are kept at once in an SQLite file beside the output; Ctrl-C ends, and the same command goes on.

    Example:
      preftune annotate pairs.jsonl -o votes.jsonl --annotators 3 --rubric rubric.md --open

    Parameters
    ----------
    data: Pairs, whose labels are not shown, or comparisons: JSONL, JSON, CSV, Parquet, a datasets folder, a hub name.
    output: File for the votes, as comparisons in JSON lines.
    annotators: Votes of different people that each item gets.
    host: Address to serve at; from other machines than this one, people take part by the link that is shown.
    port: Port to serve at; 0 takes a free one.
    rubric: Guidelines in Markdown that the annotators can read.
    gold: Pairs or comparisons whose answer is known, to mix in and measure the annotators by.
    blind: Without it, the page tells after each answer what the data's label or the gold answer is.
    shuffle: Items in an order drawn by the seed, and not in the data's.
    seed: Decides order, sides and gold's places.
    split: Split of a hub data set or datasets folder.
    limit: Read at most so many rows.
    open_page: Open the page in this machine's browser.
    """
    from preftune.collect.people import annotate as serve

    result = serve(
        data,
        output,
        annotators=annotators,
        host=host,
        port=port,
        seed=seed,
        shuffle=shuffle,
        rubric=rubric,
        gold=gold,
        blind=blind,
        split=split,
        limit=limit,
        open_browser=open_page,
        tell=notify,
    )
    for line in _lines(result):
        show(escape(line))  # names are whatever people typed
    return Outcome(_document(result))


def _document(result: Annotation) -> dict[str, object]:
    return {"output": str(result.output), "records": result.exported.records, **asdict(result.figures)}


def _lines(result: Annotation) -> list[str]:
    figures = result.figures
    lines = [
        f"{figures.votes:,} of {figures.wanted:,} votes; {figures.complete:,} of {figures.items:,} items have all of "
        f"theirs. {result.exported.records:,} records with votes are in {result.output}."
    ]
    for person in figures.annotators:
        gold = f", right on gold {_shown(person.right_on_gold)}" if person.gold else ""
        lines.append(f"  {person.name}: {person.votes:,} votes, {person.skipped:,} skipped{gold}")
    lines += [f"  {share.title}: {_shown(share)}" for share in figures.agreement]
    return lines + ([f"  {figures.note}"] if figures.note else [])


def _shown(share: Share) -> str:
    if share.value is None:
        return "not known"
    style = ".1%" if share.unit == "share" else ".3f"
    interval = "" if share.low is None else f" ({share.low:{style}} to {share.high:{style}})"
    return f"{share.value:{style}}{interval}, n = {share.n:,}"
