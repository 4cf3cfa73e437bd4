"""TensorBoard's event files. Records are framed here, and read by TensorBoard's own protocol buffers."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from preftune.diagnose.readers.assemble import make_log
from preftune.diagnose.readers.rows import Column
from preftune.diagnose.series import RunLog
from preftune.errors import PreftuneError

PATTERN = "*tfevents*"
_HEADER = struct.Struct("<QI")  # length of the record and a checksum of it; another follows the record
_LARGEST_RECORD = 2**28
_SEARCHED = 8 * 2**20  # bytes of a file within which its settings lie: they are written first


def find_event_files(folder: Path) -> list[Path]:
    """Those of a folder and of the folders in it, the newest first."""
    found = [path for pattern in (PATTERN, f"*/{PATTERN}", f"*/*/{PATTERN}") for path in folder.glob(pattern)]
    return sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)


def read_event_folder(folder: Path, name: str = "") -> list[RunLog]:
    """The runs of the event files in one folder.

    A file that goes on where the one before ended belongs to the same run; one that begins anew is another run.
    """
    files = sorted(folder.glob(PATTERN), key=_begun)
    return read_event_files(files, name or folder.resolve().name)


def _begun(path: Path) -> tuple[float, str]:
    """When the file was begun: its name says so, and a copy has another time of its own."""
    said = re.search(r"tfevents\.(\d{9,11})\.", path.name)
    return float(said[1]) if said else path.stat().st_mtime, path.name


def read_event_files(files: Sequence[Path], name: str) -> list[RunLog]:
    """The runs of these files, the oldest first."""
    parts: list[_Part] = []
    notes: list[str] = []
    for path in files:
        part = _read(path, notes)
        if not part.scalars:
            continue
        if parts and part.first > parts[-1].first:
            parts[-1].append(part)
        else:
            parts.append(part)
    if not parts:
        raise PreftuneError(
            "No scalar is in its event files.", where=name, mend="Nothing was logged yet, or elsewhere."
        )
    several = len(parts) > 1
    if several:
        notes.append(f"The folder holds {len(parts)} runs, told apart by where their steps begin.")
    return [
        make_log(
            f"{name} ({number})" if several else name,
            "tensorboard",
            part.columns(),
            config=part.config,
            notes=[*notes, *part.notes()],
        )
        for number, part in enumerate(parts, start=1)
    ]


def settings_in_events(files: Sequence[Path]) -> dict[str, Any]:
    """The arguments that transformers' Trainer has written as text; nothing without TensorBoard."""
    try:
        event = _event_type()
    except PreftuneError:
        return {}
    for path in files:
        for record in _records(path, [], _SEARCHED):
            if b"args" in record and (found := _settings(event.FromString(record))):
                return found
    return {}


class _Part:
    """The scalars of one run by name: steps and values as they come."""

    def __init__(self) -> None:
        self.scalars: dict[str, tuple[list[int], list[float]]] = {}
        self.config: dict[str, Any] = {}
        self.resumed: list[int] = []

    @property
    def first(self) -> int:
        return min(min(steps) for steps, _ in self.scalars.values())

    @property
    def last(self) -> int:
        return max(max(steps) for steps, _ in self.scalars.values())

    def append(self, later: _Part) -> None:
        if later.first <= self.last:
            self.resumed.append(later.first)
        for name, (steps, values) in later.scalars.items():
            mine = self.scalars.setdefault(name, ([], []))
            mine[0].extend(steps)
            mine[1].extend(values)
        self.config = later.config or self.config

    def columns(self) -> dict[str, Column]:
        return {
            name: (np.array(steps, dtype=float), np.array(values)) for name, (steps, values) in self.scalars.items()
        }

    def notes(self) -> list[str]:
        return [f"Resumed at step {step}: the later figures are read." for step in self.resumed]


def _read(path: Path, notes: list[str]) -> _Part:
    event_type, part = _event_type(), _Part()
    try:
        for record in _records(path, notes):
            event = event_type.FromString(record)
            for value in event.summary.value:
                number = _scalar(value)
                if number is not None:
                    steps, values = part.scalars.setdefault(value.tag, ([], []))
                    steps.append(event.step)
                    values.append(number)
                elif not part.config and value.tag.startswith("args"):
                    part.config = _settings(event)
    except Exception as error:  # the protocol buffers' own, whose type depends on how they were built
        if type(error).__name__ != "DecodeError":
            raise
        notes.append(f"{path.name} is damaged: what lies behind the damage was left out.")
    return part


def _scalar(value: Any) -> float | None:
    kind = value.WhichOneof("value")
    if kind == "simple_value":
        return value.simple_value
    if kind != "tensor" or value.metadata.plugin_data.plugin_name == "text":
        return None
    tensor = value.tensor
    for numbers in (tensor.float_val, tensor.double_val):
        if len(numbers) == 1:
            return float(numbers[0])
    if tensor.dtype in (1, 2) and len(tensor.tensor_content) == 4 * tensor.dtype:  # a float, a double
        return struct.unpack("<f" if tensor.dtype == 1 else "<d", tensor.tensor_content)[0]
    return None


def _settings(event: Any) -> dict[str, Any]:
    for value in event.summary.value:
        if value.tag.startswith("args") and value.tensor.string_val:
            try:
                found = json.loads(value.tensor.string_val[0].decode("utf-8", "replace"))
            except (ValueError, RecursionError):
                continue
            if isinstance(found, dict):
                return {key: setting for key, setting in found.items() if setting is not None}
    return {}


def _records(path: Path, notes: list[str], most: int | None = None) -> Iterator[bytes]:
    """The records of a file; a half one at its end is what a run that still writes leaves."""
    try:
        with path.open("rb") as file:
            while most is None or file.tell() < most:
                header = file.read(_HEADER.size)
                if not header:
                    return
                length = _HEADER.unpack(header)[0] if len(header) == _HEADER.size else 0
                record = file.read(length + 4) if 0 < length < _LARGEST_RECORD else b""
                if not length or len(record) < length + 4:
                    notes.append(f"{path.name}: its last record is half written or damaged and was left out.")
                    return
                yield record[:length]
    except OSError as error:
        notes.append(f"{path.name} could not be opened ({error.strerror}).")


def _event_type() -> Any:
    try:
        return import_module("tensorboard.compat.proto.event_pb2").Event
    except ImportError as error:
        raise PreftuneError(
            "TensorBoard's files need TensorBoard to be read.", mend="pip install 'preftune[tracking]', or tensorboard."
        ) from error
