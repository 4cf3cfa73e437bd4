"""A run folder as it lies there: what can be read, and what is missing or damaged, in words."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from preftune.errors import PreftuneError

FILES = {
    "config.yaml": "the settings and versions",
    "metrics.jsonl": "the training curves",
    "audit.json": "the audit of the data",
    "eval.json": "the measurement before and after",
    "samples.jsonl": "the answers on held-out prompts",
    "rejected.jsonl": "the rows that were left out",
    "findings.json": "what was noticed during training",
}
CALIBRATION = "calibration.json"  # reward models alone have one


@dataclass(frozen=True)
class RunFiles:
    """What a run folder holds. An absent or unreadable file is an empty value and a line in ``problems``."""

    folder: Path
    config: dict[str, Any]
    metrics: list[dict[str, Any]]  # one row a step, ascending, training and evaluation merged
    audit: dict[str, Any]
    evaluation: dict[str, Any]
    calibration: dict[str, Any]
    samples: list[dict[str, Any]]
    findings: list[dict[str, Any]] | None  # None where nobody looked for any
    diagnosis: dict[str, Any]  # what else findings.json says: what was looked for, what could not be told
    rejected: list[dict[str, Any]]
    checkpoints: list[int]
    model_kind: str | None  # "adapter", "full", or None where there is no model yet
    problems: list[str]


def read_run(run: Path) -> RunFiles:
    """The files of a run; raises PreftuneError only where the folder is no run at all."""
    if not run.is_dir():
        raise PreftuneError("There is no run folder here.", where=str(run), mend="Give the --output of a run.")
    if not any((run / name).exists() for name in FILES):
        mend = f"At least one of {', '.join(FILES)} is needed."
        raise PreftuneError("This folder holds no run.", where=str(run), mend=mend)
    problems: list[str] = []
    metrics = _read_lines(run / "metrics.jsonl", problems)
    audit = _read_mapping(run / "audit.json", problems)
    rejected = run / "rejected.jsonl"
    is_rejected_due = rejected.exists() or any(mapping(audit.get("rejected")).values())
    diagnosis = _read_document(run / "findings.json", problems) if (run / "findings.json").exists() else None
    return RunFiles(
        folder=run,
        config=_read_mapping(run / "config.yaml", problems),
        metrics=_merge_steps(metrics),
        audit=audit,
        evaluation=_read_mapping(run / "eval.json", problems),
        calibration=_read_mapping(run / CALIBRATION, problems) if (run / CALIBRATION).exists() else {},
        samples=_read_lines(run / "samples.jsonl", problems),
        findings=_findings(diagnosis, problems) if (run / "findings.json").exists() else None,
        diagnosis=dict(mapping(diagnosis)),
        rejected=_read_lines(rejected, problems) if is_rejected_due else [],
        checkpoints=_list_checkpoints(run / "checkpoints"),
        model_kind=_model_kind(run / "model"),
        problems=problems,
    )


def finite(value: Any) -> float | None:
    """The value as a finite float, or None: for text, true and false, NaN and infinities."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if not -1e300 < value < 1e300:  # false for NaN too; an int may be too large for a float
        return None
    return float(value)


def _read_mapping(path: Path, problems: list[str]) -> dict[str, Any]:
    content = _read_document(path, problems)
    if content is None:
        return {}
    if isinstance(content, dict):
        return {str(key): value for key, value in content.items()}
    problems.append(f"{path.name} is damaged: it should hold named values.")
    return {}


def _findings(content: Any, problems: list[str]) -> list[dict[str, Any]]:
    if isinstance(content, dict):
        content = content.get("findings")
    if content is None:
        return []
    if isinstance(content, list):
        return [entry for entry in content if isinstance(entry, dict)]
    problems.append("findings.json is damaged: it should hold a list.")
    return []


def _read_document(path: Path, problems: list[str]) -> Any:
    text = _read_text(path, problems)
    if text is None:
        return None
    try:
        return json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError, RecursionError):
        problems.append(f"{path.name} is damaged and was left out.")
        return None


def _read_lines(path: Path, problems: list[str]) -> list[dict[str, Any]]:
    """The JSON objects of a file of lines; a half line at the end is what a stopped run leaves behind."""
    text = _read_text(path, problems)
    if text is None:
        return []
    rows, unreadable = [], []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        row = _parse_object(line)
        if row is None:
            unreadable.append(number)
        else:
            rows.append(row)
    if unreadable:
        count = "1 line" if len(unreadable) == 1 else f"{len(unreadable)} lines"
        problems.append(f"{path.name}: {count} could not be read and left out (first: line {unreadable[0]}).")
    return rows


def _read_text(path: Path, problems: list[str]) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        problems.append(f"{path.name} is not there: {FILES[path.name]} cannot be shown.")
    except OSError as error:
        problems.append(f"{path.name} could not be opened ({error.strerror}).")
    return None


def _parse_object(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def _merge_steps(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row a step, ascending; a step logged again after a resume replaces the older figures."""
    merged: dict[float, dict[str, Any]] = {}
    for row in rows:
        step = finite(row.get("step"))
        if step is not None:
            merged[step] = {**merged.get(step, {}), **row}
    return [merged[step] for step in sorted(merged)]


def _list_checkpoints(folder: Path) -> list[int]:
    if not folder.is_dir():
        return []
    names = (re.fullmatch(r"step-(\d{1,12})", entry.name, re.ASCII) for entry in folder.iterdir() if entry.is_dir())
    return sorted(int(name[1]) for name in names if name)


def _model_kind(folder: Path) -> str | None:
    if (folder / "adapter_config.json").is_file():
        return "adapter"
    return "full" if (folder / "config.json").is_file() else None


def mapping(value: Any) -> Mapping[str, Any]:
    """The value where it is a mapping, else an empty one: for parts of files that may have any shape."""
    return value if isinstance(value, Mapping) else {}
