"""A run that Weights & Biases has written on this machine: ``wandb/run-DATE-ID/``.

``run-ID.wandb`` is LevelDB's log format around protocol buffers (wandb/sdk/internal/datastore.py and
wandb/proto/wandb_internal.proto); the few fields that are needed are read here, without the wandb package.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from preftune.diagnose.readers.assemble import log_of_rows
from preftune.diagnose.readers.rows import split_runs
from preftune.diagnose.readers.text import read_json, read_text
from preftune.diagnose.series import RunLog
from preftune.errors import PreftuneError

EXPORT = (
    "With a network: `[json.dumps(row) for row in wandb.Api().run(PATH).scan_history()]` as lines of a .jsonl file."
)
_FILE_HEADER = struct.pack("<4sHB", b":W&B", 0xBEE1, 0)
_HEADER = struct.Struct("<IHB")  # checksum, length, type
_BLOCK = 32768
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4
_HISTORY, _CONFIG, _RUN = 2, 5, 17  # fields of a Record


def is_wandb_run(folder: Path) -> bool:
    """True for ``run-*`` and ``offline-run-*`` with what W&B puts there."""
    return bool(list(folder.glob("run-*.wandb"))) or (folder / "files" / "wandb-summary.json").is_file()


def read_wandb_run(folder: Path) -> list[RunLog]:
    """The run's history; only its last values where the history cannot be read."""
    notes: list[str] = []
    files = sorted(folder.glob("run-*.wandb"))
    config = _config_file(folder / "files" / "config.yaml")
    for path in files:
        rows, settings = read_wandb_file(path, notes)
        if rows:
            settings = config | settings
            return [log_of_rows(folder.name, "wandb", one, config=settings, notes=notes) for one in split_runs(rows)]
    summary = folder / "files" / "wandb-summary.json"
    if not summary.is_file():
        raise PreftuneError("No history is in this run of Weights & Biases.", where=str(folder), mend=EXPORT)
    row = read_json(summary)
    if not isinstance(row, dict) or not row:
        raise PreftuneError("The summary of this run is empty.", where=str(summary), mend=EXPORT)
    notes.append(f"Only the last value of each metric is here, of which no trend can be told. {EXPORT}")
    plain = {name: value for name, value in row.items() if not isinstance(value, dict | list)}
    return [log_of_rows(folder.name, "wandb", one, config=config, notes=notes) for one in split_runs([plain])]


def read_wandb_file(path: Path, notes: list[str]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The history's rows and the settings in a ``.wandb`` file; what is damaged at its end is a note."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise PreftuneError(f"It cannot be read ({error.strerror}).", where=str(path)) from error
    if not content.startswith(_FILE_HEADER):
        raise PreftuneError("It is no file of Weights & Biases, or of another version.", where=str(path), mend=EXPORT)
    rows: list[dict[str, Any]] = []
    config: dict[str, Any] = {}
    try:
        for record in _records(content):
            for field, value in _fields(record):
                if field == _HISTORY and isinstance(value, bytes):
                    rows.append(_history(value))
                elif field == _CONFIG and isinstance(value, bytes):
                    config |= _items(value)
                elif field == _RUN and isinstance(value, bytes):
                    config |= {
                        key: v for number, part in _fields(value) if number == 4 for key, v in _items(part).items()
                    }
    except (ValueError, IndexError, struct.error):
        notes.append(f"{path.name}: its end is half written or damaged and was left out.")
    return [row for row in rows if row], {key: value for key, value in config.items() if key != "_wandb"}


def _records(content: bytes) -> Iterator[bytes]:
    place, whole = len(_FILE_HEADER), b""
    while place < len(content):
        left = _BLOCK - place % _BLOCK
        if left < _HEADER.size:
            place += left
            continue
        _, length, kind = _HEADER.unpack_from(content, place)
        place += _HEADER.size
        data = content[place : place + length]
        if len(data) < length:
            raise ValueError("half a record")
        if not length and not kind:  # space that is not written yet
            return
        place += length
        if kind in (_FULL, _FIRST):
            whole = data
        elif kind in (_MIDDLE, _LAST):
            whole += data
        else:
            raise ValueError("no record")
        if kind in (_FULL, _LAST):
            yield whole


def _history(message: bytes) -> dict[str, Any]:
    """A row: the items' names and values, and the step W&B counts."""
    row = _items(message)
    for field, value in _fields(message):
        if field == 2 and isinstance(value, bytes):
            row.setdefault("_step", next((n for number, n in _fields(value) if number == 1), 0))
    return row


def _items(message: Any) -> dict[str, Any]:
    """Items of a history or a config: key 1, nested key 2, value as JSON 16."""
    found: dict[str, Any] = {}
    for field, item in _fields(message):
        if field != 1 or not isinstance(item, bytes):
            continue
        names, value = [], None
        for number, part in _fields(item):
            if number in (1, 2) and isinstance(part, bytes):
                names.append(part.decode("utf-8", "replace"))
            elif number == 16 and isinstance(part, bytes):
                value = _json(part)
        name = "/".join(filter(None, names))
        if name and not isinstance(value, dict | list):
            found[name] = value
    return found


def _json(text: bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _fields(message: Any) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a protocol buffer: their numbers, and integers or bytes."""
    place = 0
    while place < len(message):
        key, place = _varint(message, place)
        kind = key & 7
        if kind == 0:
            value, place = _varint(message, place)
            yield key >> 3, value
            continue
        length, place = _varint(message, place) if kind == 2 else ({1: 8, 5: 4}[kind] if kind in (1, 5) else -1, place)
        if length < 0 or place + length > len(message):
            raise ValueError("no protocol buffer")
        yield key >> 3, message[place : place + length]
        place += length


def _varint(message: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[place]
        value |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return value, place
        if shift > 63:
            raise ValueError("no number")


def _config_file(path: Path) -> dict[str, Any]:
    """``files/config.yaml``: settings as ``{value: ...}``."""
    if not path.is_file():
        return {}
    try:
        found = yaml.safe_load(read_text(path))
    except (yaml.YAMLError, PreftuneError, RecursionError):
        return {}
    if not isinstance(found, dict):
        return {}
    plain = {key: value.get("value") if isinstance(value, dict) else value for key, value in found.items()}
    return {str(key): value for key, value in plain.items() if key not in ("_wandb", "wandb_version")}
