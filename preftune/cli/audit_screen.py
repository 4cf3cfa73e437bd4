"""An audit on the screen: the counts, the figures that matter, and the findings, the gravest first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from rich.console import RenderableType
from rich.markup import escape
from rich.padding import Padding
from rich.text import Text

from preftune.cli.summary import audit_lines

SHOWN_ROWS: Final = 5
_COLOURS: Final = {"error": "bold red", "warning": "yellow", "info": "cyan"}
# Figures of the sections that are told in a line of their own, where they were measured.
_FIGURES: Final = (
    ("desirable",),
    ("agreement", "agreement"),
    ("agreement", "alpha"),
    ("agreement", "unanimous"),
    ("mislabelled", "rate"),
    ("shortcuts", "together"),
    ("leakage", "near"),
    ("person", "rate"),
    ("ceiling", "expected"),
)


def audit_screen(document: Mapping[str, Any]) -> Iterator[RenderableType]:
    """The audit's document line by line."""
    for note in document.get("notes", ()):
        yield escape(note)
    yield from audit_lines({**document, "findings": ()})
    for path in _FIGURES:
        figure: Any = document
        for name in path:
            figure = figure.get(name) if isinstance(figure, Mapping) else None
        if figure and figure.get("value") is not None:
            yield f"{escape(str(figure['title']))}: {shown_share(figure)}"
    score = (document.get("ceiling") or {}).get("score")
    if score is not None:
        yield f"[bold]Score of the set: {score:.0f} of 100[/bold]"
    yield from _limits(document)
    findings = document["findings"]
    yield "" if findings else "[green]Nothing was found that needs mending.[/green]"
    for finding in findings:
        yield from finding_lines(finding)


def finding_lines(finding: Mapping[str, Any]) -> Iterator[RenderableType]:
    """One finding: what, how often, where, and the mend."""
    severity = finding["severity"]
    share, evidence = finding.get("share"), str(finding["evidence"])
    often = f" {shown_share(share)}" if share and share["value"] is not None and "interval" not in evidence else ""
    colour = _COLOURS.get(severity, "dim")
    yield f"[{colour}]{severity}[/] [bold]{escape(finding['title'])}[/bold]: {escape(evidence)}{often}"
    yield _indented(escape(finding["what"]))
    if finding["rows"]:
        yield _indented(f"[dim]rows[/dim] {escape(shown_rows(finding['rows']))}")
    yield _indented(f"[dim]mend[/dim] {escape(finding['remedy'])}")


def shown_rows(rows: Any) -> str:
    """The first row ids, and how many more there are."""
    more = f" and {len(rows) - SHOWN_ROWS:,} more" if len(rows) > SHOWN_ROWS else ""
    return ", ".join(str(row) for row in rows[:SHOWN_ROWS]) + more


def shown_share(share: Mapping[str, Any]) -> str:
    """A figure with its interval and n."""
    is_share = share["unit"] == "share"
    value, low, high = (
        "-" if number is None else f"{100 * number:.1f}%" if is_share else f"{number:.3g}"
        for number in (share["value"], share["low"], share["high"])
    )
    unit = "" if is_share else f" {share['unit']}".rstrip()
    interval = "no interval" if share["low"] is None else f"95% interval {low} to {high}"
    return f"{value}{unit} ({interval}, n = {share['n']:,})"


def _indented(markup: str) -> RenderableType:
    return Padding(Text.from_markup(markup), (0, 0, 0, 4))


def _limits(document: Mapping[str, Any]) -> Iterator[str]:
    """What was looked at in part, and what was not looked at."""
    sample = document.get("sample")
    if sample:
        yield (
            f"[dim]{', '.join(sample['audits'])}: looked at {sample['looked_at']:,} of {sample['of']:,} records, drawn "
            f"with seed {sample['seed']}; --all looks at all[/dim]"
        )
    not_run = document.get("not_run") or {}
    if not_run:
        reasons: dict[str, list[str]] = {}
        for name, reason in not_run.items():
            reasons.setdefault(reason, []).append(name)
        told = "; ".join(f"{', '.join(names)} ({reason.rstrip('.')})" for reason, names in reasons.items())
        yield f"[dim]not run: {escape(told)}[/dim]"
