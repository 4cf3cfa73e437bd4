"""A run folder of ours: metrics.jsonl, config.yaml, samples.jsonl, and what was measured and audited."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from preftune.diagnose.readers.assemble import log_of_rows
from preftune.diagnose.readers.rows import as_number, split_runs
from preftune.diagnose.readers.text import read_json, read_json_lines, read_text
from preftune.diagnose.series import RunLog, Sample
from preftune.errors import PreftuneError

METRICS, CONFIG, SAMPLES = "metrics.jsonl", "config.yaml", "samples.jsonl"
DOCUMENTS = ("eval.json", "audit.json", "judge.json", "calibration.json", "person.json")


def is_own_run(folder: Path) -> bool:
    """True where the folder has our curves."""
    return (folder / METRICS).is_file()


def read_own_run(folder: Path) -> list[RunLog]:
    """The run; what of its files is absent or damaged is a note."""
    rows, notes = read_json_lines(folder / METRICS)
    if not rows:
        raise PreftuneError(
            "No step is logged in it.", where=str(folder / METRICS), mend="Wait for the first steps, or look elsewhere."
        )
    config = _config(folder / CONFIG, notes)
    samples = _samples(folder / SAMPLES, notes)
    documents = _documents(folder, notes)
    name = folder.resolve().name
    return [
        log_of_rows(name, "preftune", one, config=config, samples=samples, documents=documents, notes=notes)
        for one in split_runs(rows)
    ]


def sample_of(row: Mapping[str, Any]) -> Sample | None:
    """A line of samples.jsonl; None where it holds no completion."""
    text, step = row.get("completion"), as_number(row.get("step"))
    if not isinstance(text, str) or step is None:
        return None
    tokens, finished = as_number(row.get("tokens")), row.get("finished")
    return Sample(
        step=int(step),
        prompt_id=str(row.get("prompt_id", row.get("prompt", ""))),
        text=text,
        tokens=None if tokens is None else int(tokens),
        reward=as_number(row.get("reward")),
        finished=finished if isinstance(finished, bool) else None,
    )


def _samples(path: Path, notes: list[str]) -> Sequence[Sample]:
    if not path.is_file():
        return ()
    try:
        rows, own = read_json_lines(path)
    except PreftuneError as error:
        notes.append(str(error))
        return ()
    notes += own
    return [sample for row in rows if (sample := sample_of(row)) is not None]


def _config(path: Path, notes: list[str]) -> dict[str, Any]:
    if not path.is_file():
        notes.append("config.yaml is not there: detectors that look at settings cannot tell.")
        return {}
    try:
        config = yaml.safe_load(read_text(path))
    except (yaml.YAMLError, PreftuneError, RecursionError):
        config = None
    if not isinstance(config, dict):
        notes.append("config.yaml is damaged and was left out.")
        return {}
    return {str(key): value for key, value in config.items()}


def _documents(folder: Path, notes: list[str]) -> dict[str, Any]:
    documents = {}
    for name in DOCUMENTS:
        if (folder / name).is_file():
            try:
                documents[name.removesuffix(".json")] = read_json(folder / name)
            except PreftuneError:
                notes.append(f"{name} is damaged and was left out.")
    return documents
