"""A diagnosis in words, as the screen and the pages tell it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

_NOUNS: Final = {"error": "errors", "warning": "warnings", "hint": "hints"}
_NOT_LOGGED: Final = re.compile(r"The log has no (\S+)(?: or .+)?")
_TOO_FEW: Final = re.compile(r".+ has (\d+ finite points?), and (\d+) are needed")


def verdict_of(findings: Sequence[tuple[str, str]], looked: int, unclear: int) -> str:
    """One sentence from severity and title of each finding, the gravest first.

    ``looked`` detectors could tell, ``unclear`` could not; a run of which little could be told is not called healthy.
    """
    if findings:
        counts = Counter(severity for severity, _ in findings)
        told = [f"{counts[kind]} {kind if counts[kind] == 1 else _NOUNS[kind]}" for kind in _NOUNS if counts[kind]]
        return f"{_listed(told)} found; the first: {findings[0][1]}."
    if not looked:
        return "Nothing can be told: the log is too short, or lacks what detectors read."
    checks = f"{looked} check{'s' if looked != 1 else ''}"
    if unclear >= looked:
        return f"Nothing was found by {checks}, but {unclear} cannot tell: this is no clean bill of health."
    limits = f"; {unclear} cannot tell" if unclear else ""
    return f"Nothing wrong was found by {checks}{limits}."


def by_reason(entries: Any) -> dict[str, list[str]]:
    """What could not be told: names by why; entries that are none are skipped.

    Curves that are too short stand together, and those that are not there, each with the first name it could have.
    """
    reasons: dict[str, list[str]] = {}
    for entry in entries if isinstance(entries, list | tuple) else ():
        if isinstance(entry, Mapping):
            reason, name = _shortened(entry)
            reasons.setdefault(reason, []).append(name)
    return reasons


def _shortened(entry: Mapping[str, Any]) -> tuple[str, str]:
    why = str(entry.get("why") or "No reason is given").rstrip(".")
    name = str(entry.get("name") or entry.get("id") or "")
    if short := _TOO_FEW.fullmatch(why):
        return f"The curves have {short[1]}, and {short[2]} are needed", name
    if absent := _NOT_LOGGED.fullmatch(why):
        return "The log has none of these", f"{name} ({absent[1]})"
    return why, name


def _listed(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
