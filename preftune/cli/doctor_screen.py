"""A diagnosis on the screen: the verdict, the findings, and what cannot be told."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from rich.console import RenderableType
from rich.markup import escape
from rich.padding import Padding
from rich.text import Text

from preftune.diagnose.telling import by_reason
from preftune.report.rendering import printable

_COLOURS: Final = {"error": "bold red", "warning": "yellow", "hint": "cyan"}


def doctor_screen(document: Mapping[str, Any], *, is_one: bool = True) -> Iterator[RenderableType]:
    """The document line by line; with several runs each begins with its name."""
    yield f"[bold]{_text(_head(document))}[/bold]" if not is_one else f"[dim]{_text(_head(document))}[/dim]"
    yield from _verdict(document)
    for finding in document["findings"]:
        yield from finding_lines(finding)
    yield from _unclear(document["cannot_tell"])
    for note in document.get("notes", ()):
        yield _wrapped(f"[dim]note: {_text(note)}[/dim]")


def _head(document: Mapping[str, Any]) -> str:
    if document["tool"] in ("audit", "judge"):  # documents, which have neither method nor steps
        return f"{document['name']} ({'an audit of data' if document['tool'] == 'audit' else 'an audit of judges'})"
    steps = f"{document['steps']:,} step{'' if document['steps'] == 1 else 's'}"
    return f"{document['name']} ({document['tool']}, {document.get('method') or 'method not known'}, {steps})"


def finding_lines(finding: Mapping[str, Any]) -> Iterator[RenderableType]:
    """What, where, the figures, how sure, and what helps."""
    colour = _COLOURS.get(finding["severity"], "dim")
    where = shown_steps(finding["first_step"], finding["last_step"])
    place = f"{where}, " if finding["last_step"] > 0 else ""  # what a document tells is of no step
    sure = {"certain": "certain", "likely": "likely", "hint": "a hint"}[finding["certainty"]]
    yield ""
    yield _wrapped(
        f"[{colour}]{finding['severity']}[/] [bold]{_text(finding['title'])}[/bold] "
        f"[dim]{_text(finding['id'])}, {place}{sure}[/dim]"
    )
    yield _indented(_text(finding["what"]))
    if finding["evidence"]:
        yield _indented(f"[dim]figures[/dim] {_text(finding['evidence'])}")
    if finding["why"]:
        yield _indented(f"[dim]cause[/dim] {_text(finding['why'])}")
    yield _indented(f"[dim]mend[/dim] {_text(finding['remedy'])}")
    if finding.get("source"):
        yield _indented(f"[dim]source {_text(finding['source'])}[/dim]")


def shown_steps(first: int, last: int) -> str:
    """``step 40`` or ``steps 40 to 90``."""
    return f"step {first:,}" if first == last else f"steps {first:,} to {last:,}"


def _verdict(document: Mapping[str, Any]) -> Iterator[RenderableType]:
    grave = {finding["severity"] for finding in document["findings"]}
    is_thin = len(document["checked"]) <= len(document["cannot_tell"])
    colour = "bold red" if "error" in grave else "yellow" if "warning" in grave or is_thin else "green"
    yield _wrapped(f"[{colour}]{_text(document['verdict'])}[/]")


def _unclear(entries: Sequence[Mapping[str, Any]]) -> Iterator[RenderableType]:
    """What could not be told, together where the reason is one."""
    if not entries:
        return
    yield ""
    yield f"Cannot be told ({len(entries)}):"
    for why, names in by_reason(entries).items():
        yield _indented(f"{_text(', '.join(names))} [dim]- {_text(why)}[/dim]")


def _text(text: str) -> str:
    """Foreign text as it stands there: no markup, and nothing that a terminal obeys."""
    return escape(printable(text))


def _wrapped(markup: str) -> RenderableType:
    return Text.from_markup(markup)


def _indented(markup: str) -> RenderableType:
    return Padding(Text.from_markup(markup), (0, 0, 0, 4))
