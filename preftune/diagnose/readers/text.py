"""Files as text and as JSON lines, whatever state they were left in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from preftune.errors import PreftuneError

LARGEST = 2**31  # bytes; a log of a million values has some thirty million


def read_text(path: Path) -> str:
    """The file's text; raises ``PreftuneError`` where it cannot be opened, or is no log by its size or its bytes."""
    try:
        if path.stat().st_size > LARGEST:
            raise PreftuneError("It is too large for a log (2 GiB).", where=str(path), mend="Give the metrics alone.")
        content = path.read_bytes()
    except OSError as error:
        raise PreftuneError(f"It cannot be read ({error.strerror or error}).", where=str(path)) from error
    if b"\0" in content[:4096]:
        raise PreftuneError("It is no text file.", where=str(path), mend="Give the run's folder or its log.")
    return content.decode("utf-8-sig", "replace")


def read_json(path: Path) -> Any:
    """The document; raises ``PreftuneError`` where it is damaged."""
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise PreftuneError(
            "It is damaged or half written: this is no JSON.", where=str(path), mend="Give another checkpoint's."
        ) from error


def read_json_lines(path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """The objects of a file of lines, and notes on what could not be read; a torn last line is no fault."""
    rows: list[dict[str, Any]] = []
    unreadable: list[int] = []
    lines = read_text(path).split("\n")
    for number, line in enumerate(lines, start=1):
        row = _object(line)
        if row is not None:
            rows.append(row)
        elif line.strip():
            unreadable.append(number)
    is_torn = bool(unreadable) and unreadable[-1] == len(lines)  # the last line has no end
    notes = [f"{path.name}: its last line is half written and was left out."] if is_torn else []
    bad = unreadable[:-1] if is_torn else unreadable
    if bad:
        notes.append(f"{path.name}: {len(bad)} lines could not be read and were left out (first: line {bad[0]}).")
    return rows, notes


def _object(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None
