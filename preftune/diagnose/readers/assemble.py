"""What a reader found as a ``RunLog``: names made ours, steps in order, the method told, what is unknown said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from preftune.diagnose.method import told_method
from preftune.diagnose.names import canonical, is_ours, nearest, rank, told_unknown
from preftune.diagnose.readers.rows import Column, Rows, as_number, columns_of
from preftune.diagnose.series import RunLog, Sample, Series
from preftune.errors import PreftuneError

NOTHING_FINITE = "Not one logged value is finite."
REPEATED = frozenset({"loss", "grad_norm", "learning_rate", "rewards/margins", "reward"})


def log_of_rows(name: str, tool: str, rows: Rows, **more: Any) -> RunLog:
    """``make_log`` of one run's rows, with what they say of resumes."""
    notes = [*rows.notes, *more.pop("notes", ())]
    documents = dict(more.pop("documents", {}))
    if rows.overlaps:
        first, last = rows.overlaps[0]["step"], rows.overlaps[-1]["step"]
        notes.append(f"Steps {first:g} to {last:g} were logged twice, as after a resume; the later figures are read.")
        documents["overlap"] = _compared(rows.overlaps)
    label = f"{name} ({rows.label})" if rows.label else name
    columns = columns_of(rows.rows, rows.steps, notes)
    return make_log(label, tool, columns, notes=notes, documents=documents, **more)


def _compared(overlaps: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Of steps logged twice the figures that a resumed run must repeat: each as it was, and as it then was."""
    return [
        {"name": canonical(name).name, "step": one["step"], "first": first, "again": again}
        for one in overlaps
        for name, value in one["first"].items()
        if canonical(name).name in REPEATED
        and (first := as_number(value)) is not None
        and (again := as_number(one["again"].get(name))) is not None
    ]


def make_log(
    name: str,
    tool: str,
    columns: Mapping[str, Column],
    *,
    config: Mapping[str, Any] | None = None,
    samples: Sequence[Sample] = (),
    documents: Mapping[str, Any] | None = None,
    notes: Sequence[str] = (),
) -> RunLog:
    """The run; raises ``PreftuneError`` where none of its metrics is known."""
    series = with_margins(series_of(columns))
    if not any(is_ours(key) and key not in ("epoch", "time", "step") for key in series):
        raise _nothing_known(name, columns, notes)
    told = list(notes)
    if unknown := told_unknown(series):
        told.append(f"Metrics that are not known and were left as they are: {unknown}.")
    if not any(np.isfinite(one.values).any() for one in series.values()):
        told.append(NOTHING_FINITE)
    settings = dict(config or {})
    method = told_method(series, settings)
    if method is None:
        told.append("The method cannot be told from the log: checks for all of them are made.")
    return RunLog(
        name=name,
        tool=tool,
        series=series,
        config=settings,
        method=method,
        samples=samples,
        documents=dict(documents or {}),
        notes=told,
    )


def series_of(columns: Mapping[str, Column]) -> dict[str, Series]:
    """Columns by our names; where several mean the same, the others keep the name they were logged under."""
    found: dict[str, Series] = {}
    for logged in sorted(columns, key=rank):
        known = canonical(logged)
        name = logged if known.name in found else known.name
        series = one_series(name, *columns[logged], scale=known.scale if name == known.name else 1.0, logged_as=logged)
        if len(series):
            found[name] = series
    return found


def one_series(name: str, steps: np.ndarray, values: np.ndarray, *, scale: float = 1.0, logged_as: str = "") -> Series:
    """Steps in order, the last value of each."""
    values = values * scale if scale != 1.0 else values
    if len(steps) > 1 and not (np.diff(steps) > 0).all():
        order = np.argsort(steps, kind="stable")
        steps, values = steps[order], values[order]
        last = np.append(np.diff(steps) > 0, True)
        steps, values = steps[last], values[last]
    if len(steps) and (steps == np.round(steps)).all():
        steps = steps.astype(np.int64)
    return Series(name, steps, values, logged_as or name)


def with_margins(series: dict[str, Series]) -> dict[str, Series]:
    """Chosen less rejected reward, for tools that leave the subtraction to the reader."""
    for before in ("", "eval_"):
        chosen, rejected = series.get(f"{before}rewards/chosen"), series.get(f"{before}rewards/rejected")
        name = f"{before}rewards/margins"
        if name in series or chosen is None or rejected is None or not np.array_equal(chosen.steps, rejected.steps):
            continue
        told = f"{chosen.logged_as} - {rejected.logged_as}"
        series[name] = Series(name, chosen.steps, chosen.values - rejected.values, told)
    return series


def _nothing_known(name: str, columns: Mapping[str, Column], notes: Sequence[str]) -> PreftuneError:
    shown = [f"{one} (like {near}?)" if (near := nearest(one)) else one for one in sorted(columns)[:6]]
    more = f" and {len(columns) - 6} more" if len(columns) > 6 else ""
    what = f"None of its metrics is known: {', '.join(shown)}{more}." if columns else "It holds no metric."
    lost = next((f" {note}" for note in notes if "left out: most of it" in note), "")
    mend = "docs/logs.md lists the names that are read; rename the columns."
    return PreftuneError(f"{what}{lost}", where=name, mend=mend)
