"""Logged rows to columns: which number is the step, where one run ends and the next begins, what is no number."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

Row: TypeAlias = Mapping[str, Any]
Column: TypeAlias = tuple[np.ndarray, np.ndarray]  # steps, values; as they were logged

STEP_NAMES = (
    "train/global_step",
    "training/global_step",
    "eval/global_step",
    "global_step",
    "step",
    "Step",
    "train/step",
    "_step",
    "counters/updates",
    "iteration",
    "iter",
    "update",
)
RUN_NAMES = ("run_id", "run_name", "_run_id", "Run", "run", "Name")
_OVERLAPS_KEPT = 50


@dataclass(frozen=True)
class Rows:
    """The rows of one run with their steps; ``overlaps`` are steps logged twice, with what they were and then were."""

    label: str
    rows: Sequence[Row]
    steps: Sequence[float]
    overlaps: Sequence[dict[str, Any]] = ()
    notes: Sequence[str] = field(default=())


def split_runs(rows: Sequence[Row]) -> list[Rows]:
    """The runs that lie in these rows one after the other, or told apart by a column with the run's name.

    Where the step falls back to where the run began, the next run begins; where it falls back less, the run was
    resumed, and its later figures count.
    """
    named = _by_name(rows)
    found = [part for label, own in named for part in _by_restart(own, label)]
    if len(found) > 1 and len(named) == 1:
        found = [Rows(str(i), one.rows, one.steps, one.overlaps, one.notes) for i, one in enumerate(found, start=1)]
    return found


def columns_of(rows: Sequence[Row], steps: Sequence[float]) -> dict[str, Column]:
    """The numbers by name; null is NaN, as is text such as "NaN". What is mostly no number is left out."""
    alike: dict[tuple[str, ...], list[int]] = {}  # rows with the same names: read name by name, which is fast
    for place, row in enumerate(rows):
        alike.setdefault(tuple(row), []).append(place)
    places: dict[str, list[int]] = {}
    values: dict[str, list[Any]] = {}
    for names, own in alike.items():
        members = [rows[place] for place in own]
        for name in names:
            places.setdefault(name, []).extend(own)
            values.setdefault(name, []).extend([row[name] for row in members])
    at = np.asarray(steps, dtype=np.float64)
    columns = {}
    for name, listed in values.items():
        numbers = None if name in STEP_NAMES or name in RUN_NAMES else _numbers(listed)
        if numbers is None:
            continue
        where = np.array(places[name])
        order = np.argsort(where, kind="stable") if len(alike) > 1 else slice(None)
        own_steps, own_values = at[where[order]], numbers[order]
        kept = np.isfinite(own_steps)
        columns[name] = own_steps[kept], own_values[kept]
    return columns


def flattened(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row whose nested values have names with a slash; verl's file logger has its numbers under ``data``."""
    if not any(isinstance(value, dict) for value in row.values()):
        return dict(row)
    flat: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, dict):
            before = "" if name == "data" else f"{name}/"
            flat |= {f"{before}{key}": part for key, part in value.items() if not isinstance(part, dict | list)}
        else:
            flat[name] = value
    return flat


def as_number(value: Any) -> float | None:
    """The value as a float, NaN and infinities included; None for what is no number."""
    if isinstance(value, bool) or value is None:
        return None
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _by_name(rows: Sequence[Row]) -> list[tuple[str, Sequence[Row]]]:
    name = next((name for name in RUN_NAMES if rows and isinstance(rows[0].get(name), str)), None)
    if name is None:
        return [("", rows)]
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(str(row.get(name)), []).append(row)
    return [(label if len(groups) > 1 else "", own) for label, own in groups.items()]


def _by_restart(rows: Sequence[Row], label: str) -> Iterator[Rows]:
    steps, notes = _steps(rows)
    begin, highest, parts = 0, -math.inf, []
    for place, step in enumerate(steps):
        if step < highest and step <= steps[begin]:
            parts.append((begin, place))
            begin, highest = place, step
        highest = max(highest, step)
    parts.append((begin, len(rows)))
    for first, last in parts:
        own, at = rows[first:last], steps[first:last]
        yield Rows(label, own, at, _overlaps(own, at), notes)


def _steps(rows: Sequence[Row]) -> tuple[list[float], list[str]]:
    """The step of each row; a row that has none is of the step before it."""
    name = _step_name(rows)
    if name is None:
        return [float(place) for place in range(1, len(rows) + 1)], ["The rows have no step: they are counted."]
    steps, latest, missing = [], 0.0, 0
    for row in rows:
        number = as_number(row.get(name))
        if number is None or not math.isfinite(number):
            missing += 1
        else:
            latest = number
        steps.append(latest)
    many = missing > len(rows) / 2
    return steps, [f"{missing} of {len(rows)} rows have no step; they count for the one before."] if many else []


def _step_name(rows: Sequence[Row]) -> str | None:
    """The name that most rows have; of equals the one that other tools mean by a step."""
    counts: dict[str, int] = dict.fromkeys(STEP_NAMES, 0)
    for row in rows:
        for name in row.keys() & counts.keys():
            counts[name] += as_number(row[name]) is not None
    for name in STEP_NAMES:
        if counts[name] > 0.5 * len(rows):
            return name
    most = max(counts, key=counts.__getitem__)
    return most if counts[most] else None


def _overlaps(rows: Sequence[Row], steps: Sequence[float]) -> list[dict[str, Any]]:
    """Steps logged again after a resume: what they were, and what they then were."""
    falls = [place for place in range(1, len(steps)) if steps[place] < steps[place - 1]]
    if not falls:
        return []
    earlier: dict[float, dict[str, Any]] = {}
    for row, step in zip(rows[: falls[0]], steps[: falls[0]], strict=True):
        earlier.setdefault(step, {}).update(row)
    found: dict[float, dict[str, Any]] = {}
    for row, step in zip(rows[falls[0] :], steps[falls[0] :], strict=True):
        if step in earlier and (step in found or len(found) < _OVERLAPS_KEPT):
            found.setdefault(step, {}).update(row)
    return [{"step": step, "first": earlier[step], "again": later} for step, later in found.items()]


def _numbers(values: list[Any]) -> np.ndarray | None:
    try:
        return np.array(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        pass
    numbers = [math.nan if value is None else as_number(value) for value in values]
    known = sum(number is not None for number in numbers)
    if known <= len(values) / 2:
        return None
    return np.array([math.nan if number is None else number for number in numbers])
