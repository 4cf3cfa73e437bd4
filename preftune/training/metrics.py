"""The curves of a run: a JSON object a line, written as they come, and the averages that go into them."""

from __future__ import annotations

import json
import math
import os
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from preftune.durable import BINARY, explained_errors, write_all, write_file

if TYPE_CHECKING:
    from torch import Tensor

SECONDS_BETWEEN_SYNCS = 5.0  # what a power cut may cost; a killed process loses nothing


class MetricsLog:
    """Appends one JSON object a logged step to a file. A torn last line left by a crash is removed first."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if _ends_torn(path):
            truncate_after(path, sys.maxsize)
        with explained_errors(path):
            self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | BINARY, 0o666)
        self._synced_at = time.monotonic()

    def log(self, step: int, epoch: float, values: Mapping[str, float | None]) -> None:
        """One line: ``step``, ``epoch``, ``time`` (seconds since 1970) and the values, null where not finite.

        Raises StorageFullError where there is no room; no half line is left.
        """
        row = {"step": step, "epoch": _finite(epoch), "time": time.time()}
        row |= {name: _finite(value) for name, value in values.items()}
        with explained_errors(self.path):
            _append_line(self._descriptor, json.dumps(row, allow_nan=False).encode() + b"\n")
            if time.monotonic() - self._synced_at >= SECONDS_BETWEEN_SYNCS:
                os.fsync(self._descriptor)
                self._synced_at = time.monotonic()

    def close(self) -> None:
        """Returns once all lines are on the disk. A second call does nothing."""
        if self._descriptor < 0:
            return
        descriptor, self._descriptor = self._descriptor, -1
        with explained_errors(self.path):
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The logged rows in file order; none where there is no file.

    A torn last line, which a stopped run leaves behind, is dropped; other unreadable lines are left out with
    a warning that counts them.
    """
    rows: list[dict[str, Any]] = []
    unreadable: list[int] = []
    for number, line in enumerate(_whole_lines(path), start=1):
        row = _parse(line)
        if row is not None:
            rows.append(row)
        elif line.strip():
            unreadable.append(number)
    if unreadable:
        warnings.warn(
            f"{path}: {len(unreadable)} line(s) could not be read, left out (first: line {unreadable[0]}).",
            stacklevel=2,
        )
    return rows


def truncate_after(path: Path, step: int) -> None:
    """Drops, in one stroke, the lines of later steps than ``step`` and a torn last line.

    To be called before a MetricsLog is opened on the file: an open one would write on into the old file.
    """
    if not path.exists():
        return
    # An unreadable line amid the file is kept: whoever reads the file is told of it.
    kept = [line for line in _whole_lines(path) if _step(line) <= step]
    write_file(path, b"".join(line + b"\n" for line in kept))


class Averages:
    """Weighted averages between two logged steps, gathered without waiting for the device.

    Sums are float64 and taken in the order of the additions, so that ``state`` at any moment, ``load_state``
    in another process and the remaining additions give the same averages to the last bit.
    """

    def __init__(self) -> None:
        self._totals: dict[str, list[float]] = {}  # name -> [sum, weight]
        self._pending: list[tuple[str, Tensor | float, Tensor | float]] = []

    def add(self, values: Mapping[str, tuple[Tensor | float, Tensor | float]]) -> None:
        """Adds a (sum, weight) to each name; both are numbers or 0-dimensional tensors, on any device."""
        self._pending += [(name, _own(total), _own(weight)) for name, (total, weight) in values.items()]

    def take(self) -> dict[str, float]:
        """Sum / weight of each name since the last call, NaN where the weight is zero; starts anew."""
        self._settle()
        averages = {name: total / weight if weight else math.nan for name, (total, weight) in self._totals.items()}
        self._totals = {}
        return averages

    def state(self) -> dict[str, list[float]]:
        """What was added since the last ``take``: name -> [sum, weight]."""
        self._settle()
        return {name: list(pair) for name, pair in self._totals.items()}

    def load_state(self, state: Mapping[str, Sequence[float]]) -> None:
        """Goes on from what ``state`` gave; what was added here before is forgotten."""
        self._pending = []
        self._totals = {name: [float(total), float(weight)] for name, (total, weight) in state.items()}

    def _settle(self) -> None:
        numbers = _to_floats([number for _, total, weight in self._pending for number in (total, weight)])
        pairs = zip(numbers[::2], numbers[1::2], strict=True)
        for (name, _, _), (total, weight) in zip(self._pending, pairs, strict=True):
            sums = self._totals.setdefault(name, [0.0, 0.0])
            sums[0] += total
            sums[1] += weight
        self._pending = []


def _append_line(descriptor: int, line: bytes) -> None:
    end = os.fstat(descriptor).st_size
    try:
        write_all(descriptor, line)
    except BaseException:
        os.ftruncate(descriptor, end)
        raise


def _finite(value: Any) -> float | None:
    if value is None or isinstance(value, int):
        return value
    number = float(value)
    return number if math.isfinite(number) else None


def _ends_torn(path: Path) -> bool:
    return path.exists() and path.read_bytes()[-1:] not in (b"", b"\n")


def _whole_lines(path: Path) -> list[bytes]:
    """The lines without their ends. A last one without its end counts only if it is a whole object."""
    if not path.exists():
        return []
    *lines, last = path.read_bytes().split(b"\n")
    return [*lines, last] if _parse(last) is not None else lines


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def _step(line: bytes) -> float:
    step = (_parse(line) or {}).get("step")
    return step if isinstance(step, int | float) else -math.inf


def _own(value: Tensor | float) -> Tensor | float:
    if isinstance(value, int | float):
        return value
    # A copy: the caller may change its tensor, and a view would keep a whole batch in memory.
    return value.detach().clone()


def _to_floats(numbers: Sequence[Tensor | float]) -> list[float]:
    """The numbers in their order, with one transfer a device and dtype however many they are."""
    floats = [0.0] * len(numbers)
    groups: dict[Any, list[tuple[int, Tensor]]] = defaultdict(list)
    for place, number in enumerate(numbers):
        if isinstance(number, int | float):
            floats[place] = float(number)
        else:
            groups[number.device, number.dtype].append((place, number))
    for group in groups.values():
        for place, number in zip((place for place, _ in group), _transfer([t for _, t in group]), strict=True):
            floats[place] = float(number)
    return floats


def _transfer(tensors: Sequence[Tensor]) -> list[float]:
    import torch

    return torch.stack([tensor.reshape(()) for tensor in tensors]).tolist()
