"""Plain JSONL, JSON and CSV: one row a logged step, or W&B's and TensorBoard's own exports."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from preftune.diagnose.readers.assemble import log_of_rows
from preftune.diagnose.readers.rows import flattened, split_runs
from preftune.diagnose.readers.text import plain_name, read_json, read_json_lines, read_text
from preftune.diagnose.series import RunLog
from preftune.errors import PreftuneError

_EXPORTED = re.compile(r"(.+) - (\S+)")  # a column of a chart exported from W&B: run and metric
_DECIMAL_COMMA = re.compile(r"[-+]?\d+,\d+(?:[eE][-+]?\d+)?")
_DATA = ({"chosen", "rejected"}, {"prompt", "completion"}, {"prompt", "response_1"}, {"messages"})


def read_jsonl(path: Path) -> list[RunLog]:
    """One JSON object a line."""
    rows, notes = read_json_lines(path)
    if not rows:
        raise PreftuneError("No line of it is a JSON object.", where=str(path), mend="Give one object a logged step.")
    return _logs(path, "jsonl", [flattened(row) for row in rows], notes)


def read_json_rows(path: Path) -> list[RunLog]:
    """A list of rows, or of rows under ``log_history``, ``history`` or ``data``, or columns by their names.

    Any other object is one point.
    """
    found = read_json(path)
    for key in ("log_history", "history", "data"):
        if isinstance(found, dict) and isinstance(found.get(key), list | dict):
            found = found[key]
    rows = (_turned(found) or [found]) if isinstance(found, dict) else found
    rows = [flattened(row) for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    if not rows:
        raise PreftuneError("It holds no rows of metrics.", where=str(path), mend="Give a list of objects, one a step.")
    return _logs(path, "json", rows, [])


def read_csv(path: Path) -> list[RunLog]:
    """A table with a header; W&B's and TensorBoard's exports are understood."""
    text = read_text(path)
    header = text.partition("\n")[0]
    delimiter = max(",\t;|", key=header.count)
    try:
        rows = [dict(row) for row in csv.DictReader(io.StringIO(text), delimiter=delimiter)]
    except csv.Error as error:
        raise PreftuneError(f"It is no table ({error}).", where=str(path)) from error
    read = _cell if delimiter == "," else _cell_with_comma
    kept = [{key: read(value) for key, value in row.items() if key and value not in ("", None)} for row in rows]
    kept = [row for row in kept if row]
    if not kept:
        raise PreftuneError("The table has no rows.", where=str(path), mend="Give one with a header and a row a step.")
    names = {name for row in kept for name in row}
    if names >= {"Wall time", "Step", "Value"}:
        kept = [{"step": row.get("Step"), _tag(path): row.get("Value")} for row in kept]
    elif any(_EXPORTED.fullmatch(name) for name in names):
        kept = _by_run(kept)
    return _logs(path, "csv", kept, [])


def _cell(value: Any) -> Any:
    return value


def _cell_with_comma(value: Any) -> Any:
    """A cell of a table whose cells no comma parts: spreadsheets of half the world write 0,69 into those."""
    return value.replace(",", ".") if isinstance(value, str) and _DECIMAL_COMMA.fullmatch(value.strip()) else value


def _turned(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of columns, each a list or (as pandas writes it) a mapping from row to value; none where it is neither."""
    lists = {name: values for name, values in document.items() if isinstance(values, list)}
    if not lists:
        by_row = {name: values for name, values in document.items() if isinstance(values, dict)}
        lists = {name: list(values.values()) for name, values in by_row.items() if all(map(str.isdigit, values))}
    if len({len(values) for values in lists.values()}) != 1 or len(lists) < len(document):
        return []
    if any(isinstance(value, list | dict) for values in lists.values() for value in values):
        return []
    return [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]


def _logs(path: Path, tool: str, rows: Sequence[dict[str, Any]], notes: list[str]) -> list[RunLog]:
    if any(names <= rows[0].keys() for names in _DATA):
        mend = "Give the run's folder or its log; `preftune audit` looks at data."
        raise PreftuneError("This is data to train on and no log.", where=str(path), mend=mend)
    runs = split_runs(rows)
    if len(runs) > 1:
        notes = [*notes, f"The file holds {len(runs)} runs, told apart by name or by where their steps begin."]
    return [log_of_rows(plain_name(path).stem, tool, one, notes=notes) for one in runs]


def _tag(path: Path) -> str:
    """TensorBoard names a downloaded table ``run-NAME-tag-train_loss.csv``, slashes as underlines."""
    tag = path.stem.rpartition("-tag-")[2]
    name = re.sub(r"^(train|eval)_", r"\1/", tag)
    return re.sub(r"(?<=[/^])(rewards|logps|objective|completions|clip_ratio)_", r"\1/", name)


def _by_run(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """``Step, my run - train/loss, my run - train/loss__MIN``: a row a run and step."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        step = str(row.get("Step") or row.get("train/global_step") or row.get("_step") or "")
        for name, value in row.items():
            match = _EXPORTED.fullmatch(name)
            if match and not name.endswith(("__MIN", "__MAX")) and not match[2].endswith("_step"):
                found.setdefault((match[1], step), {"run": match[1], "step": step})[match[2]] = value
    return list(found.values())
