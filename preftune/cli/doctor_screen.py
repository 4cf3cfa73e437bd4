"""A diagnosis on the screen: the verdict, the findings, and what cannot be told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from rich.console import RenderableType
from rich.markup import escape
from rich.padding import Padding
from rich.text import Text

_COLOURS: Final = {"error": "bold red", "warning": "yellow", "hint": "cyan"}
_NOUNS: Final = {"error": "errors", "warning": "warnings", "hint": "hints"}


def doctor_screen(document: Mapping[str, Any], *, is_one: bool = True) -> Iterator[RenderableType]:
    """The document line by line; with several runs each begins with its name."""
    method = document.get("method") or "method not known"
    head = f"{document['name']} ({document['tool']}, {method}, {document['steps']:,} steps)"
    yield f"[bold]{escape(head)}[/bold]" if not is_one else f"[dim]{escape(head)}[/dim]"
    yield from _verdict(document)
    for finding in document["findings"]:
        yield from finding_lines(finding)
    yield from _unclear(document["cannot_tell"])
    for note in document.get("notes", ()):
        yield _wrapped(f"[dim]note: {escape(note)}[/dim]")


def finding_lines(finding: Mapping[str, Any]) -> Iterator[RenderableType]:
    """What, where, the figures, how sure, and what helps."""
    colour = _COLOURS.get(finding["severity"], "dim")
    where = shown_steps(finding["first_step"], finding["last_step"])
    sure = {"certain": "certain", "likely": "likely", "hint": "a hint"}[finding["certainty"]]
    yield ""
    yield _wrapped(
        f"[{colour}]{finding['severity']}[/] [bold]{escape(finding['title'])}[/bold] "
        f"[dim]{escape(finding['id'])}, {where}, {sure}[/dim]"
    )
    yield _indented(escape(finding["what"]))
    if finding["evidence"]:
        yield _indented(f"[dim]figures[/dim] {escape(finding['evidence'])}")
    if finding["why"]:
        yield _indented(f"[dim]cause[/dim] {escape(finding['why'])}")
    yield _indented(f"[dim]mend[/dim] {escape(finding['remedy'])}")
    if finding.get("source"):
        yield _indented(f"[dim]source {escape(finding['source'])}[/dim]")


def verdict(document: Mapping[str, Any]) -> str:
    """One sentence: what was found, or that nothing was, of how much that could be told."""
    findings, unclear = document["findings"], document["cannot_tell"]
    looked = len(document["checked"])
    if findings:
        counts = Counter(finding["severity"] for finding in findings)
        told = [f"{counts[kind]} {kind if counts[kind] == 1 else _NOUNS[kind]}" for kind in _NOUNS if counts[kind]]
        return f"{_listed(told)} found; the first: {findings[0]['title']}."
    if not looked:
        return "Nothing can be told: the log is too short, or lacks what detectors read."
    checks = f"{looked} check{'s' if looked != 1 else ''}"
    if len(unclear) >= looked:
        return f"Nothing was found by {checks}, but {len(unclear)} cannot tell: this is no clean bill of health."
    limits = f"; {len(unclear)} cannot tell" if unclear else ""
    return f"Nothing wrong was found by {checks}{limits}."


def shown_steps(first: int, last: int) -> str:
    """``step 40`` or ``steps 40 to 90``."""
    return f"step {first:,}" if first == last else f"steps {first:,} to {last:,}"


def _verdict(document: Mapping[str, Any]) -> Iterator[RenderableType]:
    grave = {finding["severity"] for finding in document["findings"]}
    is_thin = len(document["checked"]) <= len(document["cannot_tell"])
    colour = "bold red" if "error" in grave else "yellow" if "warning" in grave or is_thin else "green"
    yield _wrapped(f"[{colour}]{escape(verdict(document))}[/]")


def _unclear(entries: Sequence[Mapping[str, Any]]) -> Iterator[RenderableType]:
    """What could not be told, together where the reason is one."""
    if not entries:
        return
    reasons: dict[str, list[str]] = {}
    for entry in entries:
        reasons.setdefault(str(entry["why"]).rstrip("."), []).append(str(entry["name"]))
    yield ""
    yield f"Cannot be told ({len(entries)}):"
    for why, names in reasons.items():
        yield _indented(f"{escape(', '.join(names))} [dim]- {escape(why)}[/dim]")


def _listed(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _wrapped(markup: str) -> RenderableType:
    return Text.from_markup(markup)


def _indented(markup: str) -> RenderableType:
    return Padding(Text.from_markup(markup), (0, 0, 0, 4))
