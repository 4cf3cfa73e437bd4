"""What the commands that make records share: where they write, what they say of their rows, plans without work."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from preftune.cli.output import Outcome
from preftune.cli.screen import notify, show, warn
from preftune.errors import PreftuneError


def require_output(data: str, output: Path) -> None:
    """PreftuneError for an output that is the input, or that holds no JSON lines by its name."""
    if output.suffix != ".jsonl":
        raise PreftuneError("Records are written as JSON lines.", where=str(output), mend="Let --output end in .jsonl.")
    if output.exists() and Path(data).exists() and output.samefile(data):
        raise PreftuneError("The output is the input.", where=str(output), mend="Give another --output.")


def tell_reading(reading: Any) -> None:
    """What was read as something else, and which rows could not be used."""
    for text in reading.notes:
        notify(text)
    if reading.rejected:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in reading.reasons().items())
        notify(f"{len(reading.rejected):,} of {reading.read:,} rows left out: {reasons}")


def planned(plan: Any, document: Mapping[str, Any], writer: Any) -> Outcome:
    """The outcome of a dry run: what would be asked for, printed and as a document."""
    plan = plan if writer.named.provider == "local" else plan.priced(writer.named.price)
    cost = "cost not known" if plan.cost is None else f"{plan.cost:,.{2 if plan.cost >= 1 else 4}f} US dollars"
    price = "" if writer.named.provider == "local" else f", {cost}"
    show(
        f"at most {plan.calls:,} texts, {plan.input_tokens:,} tokens read and {plan.output_tokens:,} written"
        f" (estimated){price}; nothing was asked for"
    )
    return Outcome({"dry_run": True, **document, "plan": plan.as_dict()})


def tell_made(document: Mapping[str, Any], output: Path, asked: int, figures: Sequence[str]) -> None:
    """The counts, the figures with their intervals, and where the rows are."""
    from preftune.collect.writing import left_out_file

    made, reasons = document["made"], document["left_out"]
    show(f"{made:,} pairs of {asked:,} prompts, {document['new']:,} of the prompts in this run: {output}")
    if reasons:
        listed = ", ".join(f"{count:,} {reason}" for reason, count in reasons.items())
        show(f"{sum(reasons.values()):,} left out ({listed}): {left_out_file(output)}")
    for name in figures:
        show(f"{document[name]['title'].lower()}: {_shown(document[name])}")
    for text in document["warnings"]:
        warn(text)


def read_extra(text: str | None) -> dict[str, Any]:
    """The JSON object that goes into every request."""
    try:
        value = {} if text is None else json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise PreftuneError(f"{text!r} is no JSON object.", where="--extra", mend="Such as '{\"top_k\": 1}'.")
    return value


def journal_of(output: Path, journal: Path | None) -> Path:
    """Where an endpoint's answers are kept."""
    return journal or output.with_name(f"{output.name}.journal")


def _shown(figure: Mapping[str, Any]) -> str:
    if figure["value"] is None:
        return "nothing to count"
    is_share = figure["unit"] == "share"
    value, low, high = (
        None if one is None else f"{100 * one:.1f}%" if is_share else f"{one:.4g}"
        for one in (figure["value"], figure["low"], figure["high"])
    )
    interval = "too few for an interval" if low is None else f"95% interval {low} to {high}"
    return f"{value} ({interval}, n = {figure['n']:,})"
