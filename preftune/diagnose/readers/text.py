"""Files as text and as JSON lines, whatever state they were left in."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

from preftune.errors import PreftuneError

LARGEST = 2**31  # bytes; a log of a million values has some thirty million
_GZIP, _UTF16 = b"\x1f\x8b", (b"\xff\xfe", b"\xfe\xff")  # what such files begin with; PowerShell writes the latter


def read_text(path: Path) -> str:
    """The file's text, unpacked where it is gzip's.

    Raises ``PreftuneError`` where it cannot be opened, or is no log by its size or its bytes.
    """
    try:
        content = path.read_bytes() if path.stat().st_size <= LARGEST else None
    except OSError as error:
        raise PreftuneError(f"It cannot be read ({error.strerror or error}).", where=str(path)) from error
    if content is not None and content.startswith(_GZIP):
        content = _unpacked(content, path)
    if content is None:
        raise PreftuneError("It is too large for a log (2 GiB).", where=str(path), mend="Give the metrics alone.")
    if content.startswith(_UTF16):
        return content.decode("utf-16", "replace")
    if b"\0" in content[:4096]:
        raise PreftuneError("It is no text file.", where=str(path), mend="Give the run's folder or its log.")
    return content.decode("utf-8-sig", "replace")


def plain_name(path: Path) -> Path:
    """The file's name without what packing has added: ``run.jsonl`` of ``run.jsonl.gz``."""
    return Path(path.name[:-3]) if path.suffix.lower() == ".gz" else Path(path.name)


def read_json(path: Path) -> Any:
    """The document; raises ``PreftuneError`` where it is damaged."""
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise PreftuneError("It is damaged or half written: this is no JSON.", where=str(path)) from error


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


def _unpacked(content: bytes, path: Path) -> bytes | None:
    """What gzip has packed, as far as it goes: a log that is still written has no end. None where it is too large."""
    found = bytearray()
    while content.startswith(_GZIP) and len(found) <= LARGEST:
        unpacker = zlib.decompressobj(zlib.MAX_WBITS | 16)
        try:
            found += unpacker.decompress(content, LARGEST + 1 - len(found))
        except zlib.error as error:
            raise PreftuneError("It is damaged: gzip cannot unpack it.", where=str(path)) from error
        content = unpacker.unused_data
    return bytes(found) if len(found) <= LARGEST else None


def _object(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None
