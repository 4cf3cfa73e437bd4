"""Logged rows to columns: which number is the step, where one run ends and the next begins, what is no number."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np

from preftune.diagnose.names import canonical, is_ours

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
_READ_AT_ONCE = {float, int, str, type(None)}  # what numpy reads as it is meant; it takes true for 1
_LARGEST = 10**308


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


def columns_of(rows: Sequence[Row], steps: Sequence[float], notes: list[str] | None = None) -> dict[str, Column]:
    """The numbers by name; null is NaN, as is text such as "NaN". Other text is left out, and ``notes`` say so.

    In a table whose rows all have the same names a null can also mean that nothing was logged: ``_unlogged``.
    """
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
        found = None if name in STEP_NAMES or name in RUN_NAMES else _numbers(listed)
        if found is None:
            _tell_text(name, listed, notes)
            continue
        kept, numbers = found
        if kept is not None:
            _tell_some_text(name, listed, kept, notes)
        where = np.array(places[name]) if kept is None else np.array(places[name])[kept]
        order = np.argsort(where, kind="stable") if len(alike) > 1 else slice(None)
        columns[name] = at[where[order]], numbers[order]
    if len(alike) == 1:
        columns = _unlogged(columns, len(rows))
    return {name: _at_finite_steps(*column) for name, column in columns.items()}


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
    if isinstance(value, bool | np.bool_) or value is None:
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
    if _runs_backwards(steps):
        rows, steps = rows[::-1], steps[::-1]
        notes.append("The last step stands first in it: it was read from its end.")
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


def _runs_backwards(steps: Sequence[float]) -> bool:
    """True for a table that was sorted with the newest on top."""
    falls = sum(later < sooner for sooner, later in pairwise(steps))
    rises = sum(later > sooner for sooner, later in pairwise(steps))
    return falls > 2 and falls > 10 * rises


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
            number = as_number(row[name])
            counts[name] += number is not None and math.isfinite(number)
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


def _numbers(values: list[Any]) -> tuple[np.ndarray | None, np.ndarray] | None:
    """Which values are numbers (None: all) and the numbers; None where most are none."""
    if set(map(type, values)) <= _READ_AT_ONCE:
        try:
            return None, np.array(values, dtype=np.float64)
        except (ValueError, OverflowError):
            pass
    numbers = [math.nan if value is None else _or_infinite(value) for value in values]
    kept = np.array([number is not None for number in numbers])
    if kept.sum() <= len(values) / 2:
        return None
    return None if kept.all() else kept, np.array([number for number in numbers if number is not None])


def _or_infinite(value: Any) -> float | None:
    """The number; an integer too large for a float is infinite."""
    return math.inf if isinstance(value, int) and abs(value) > _LARGEST else as_number(value)


def _unlogged(columns: dict[str, Column], rows: int) -> dict[str, Column]:
    """A full table without the nulls that only say that a row is of another kind, as pandas writes them.

    A null of a metric was not logged where its row holds a figure that never stands beside that metric: the loss in
    a row with the evaluation's. All others are figures that were not finite.
    """
    whole = {name: values for name, (_, values) in columns.items() if len(values) == rows}
    blank = {name: np.isnan(values) for name, values in whole.items()}
    torn = [name for name, where in blank.items() if where.any() and not where.all()]
    if len(torn) < 2:
        return columns
    is_there = np.column_stack([~blank[name] for name in torn]).astype(np.float32)
    never_together = (is_there.T @ is_there == 0).astype(np.float32)
    absent = is_there @ never_together > 0
    found = dict(columns)
    for place, name in enumerate(torn):
        steps, values = columns[name]
        kept = ~(absent[:, place] & blank[name])
        found[name] = steps[kept], values[kept]
    return found


def _at_finite_steps(steps: np.ndarray, values: np.ndarray) -> Column:
    kept = np.isfinite(steps)
    return (steps, values) if kept.all() else (steps[kept], values[kept])


def _tell_text(name: str, values: Sequence[Any], notes: list[str] | None) -> None:
    if notes is not None and name not in STEP_NAMES and is_ours(canonical(name).name):
        first = next(value for value in values if _or_infinite(value) is None)
        notes.append(f"{name} was left out: most of it is no numbers, such as {_shown(first)}.")


def _tell_some_text(name: str, values: Sequence[Any], kept: np.ndarray, notes: list[str] | None) -> None:
    if notes is not None:
        first = values[int(np.flatnonzero(~kept)[0])]
        told = f"{int((~kept).sum())} of {len(values)} values of {name}"
        notes.append(f"{told} are no numbers and were left out, such as {_shown(first)}.")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
