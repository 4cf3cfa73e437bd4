"""``pipeline.json``: what was run with which settings on which inputs, so that a second call knows what is left."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import Any, Final

from preftune.durable import explained_errors, write_json
from preftune.errors import PreftuneError
from preftune.pipeline.fingerprints import read_fingerprints
from preftune.pipeline.plan import Plan, Stage
from preftune.training.run_folder import SIGNS_OF_A_RUN

FILE, ASIDE, FORMAT = "pipeline.json", "aside", 1
# What may change without the outcome being another.
_INDIFFERENT: Final = frozenset({"output_dir", "resume", "report_to", "run_name", "save_total_limit"})
_ABSENT: Final = object()

Entry = dict[str, Any]
Record = dict[str, Entry]  # by the name of the stage


class Standing(Enum):
    """How far a stage has come."""

    WAITING = "waiting"
    INTERRUPTED = "interrupted"
    FINISHED = "finished"


def read_record(output: Path) -> Record:
    """What is known of earlier calls; empty where there were none.

    Raises PreftuneError where the file is damaged, and where the folder holds a single run.
    """
    file = output / FILE
    if not file.is_file():
        if found := [name for name in ("config.yaml", "metrics.jsonl") if (output / name).exists()]:
            what = f"This folder holds a single run ({', '.join(found)})."
            raise PreftuneError(what, where=str(output), mend="Choose another --output for the pipeline.")
        return {}
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        record = {str(entry["name"]): entry for entry in document["stages"] if entry["folder"]}
        version = document["format"]
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        mend = "Put back an intact copy, or choose another --output."
        raise PreftuneError(f"The pipeline's record cannot be read ({error}).", where=str(file), mend=mend) from error
    if version != FORMAT:
        what = f"The record has format {version}, and this version reads format {FORMAT}."
        raise PreftuneError(what, where=str(file), mend="Choose another --output.")
    return record


def write_record(plan: Plan, record: Record) -> None:
    """Writes the record in the plan's order, whole or not at all."""
    waiting = {"status": Standing.WAITING.value}
    stages = [_place(stage) | {"folder": stage.folder.name} | record.get(stage.name, waiting) for stage in plan.stages]
    document = {"format": FORMAT, "pipeline": str(plan.file), "stages": stages}
    write_json(plan.output / FILE, document)


def begun(stage: Stage) -> Entry:
    """What is put on record before a stage runs: all that decides how it ends."""
    return {
        **_place(stage),
        "folder": stage.folder.name,
        "status": "running",
        "started": _now(),
        "settings": told_settings(stage),
        "inputs": read_fingerprints(stage),
    }


def ended(entry: Entry, status: str, **more: Any) -> Entry:
    """The entry of a stage that came to an end."""
    return entry | {"status": status, "ended": _now()} | more


def told_settings(stage: Stage) -> dict[str, Any]:
    """Every setting of the stage as JSON takes it, models of earlier stages by name: the folder may be moved."""
    settings = stage.config.model_dump(mode="json")
    return {name: _by_name(value, stage) for name, value in settings.items()}


def standing(stage: Stage, record: Record) -> Standing:
    """How far the stage has come, by its files; a changed one that has begun is an error that says what changed."""
    folder, entry = stage.folder, record.get(stage.name)
    was = folder if entry is None else folder.parent / str(entry["folder"])  # where another order had put it
    if not any((place / name).exists() for place in (folder, was) for name in SIGNS_OF_A_RUN):
        return Standing.WAITING
    if changes := _changes(stage, entry):
        raise PreftuneError(
            f"Since it was run, {'; '.join(changes)}.",
            where=f"stage {stage.name} in {was}",
            mend=f"--from {stage.name} runs it and the stages after it again and keeps what is there aside; "
            "or put back what it was.",
        )
    is_finished = (folder / "eval.json").is_file() and stage.model.is_dir()
    return Standing.FINISHED if is_finished else Standing.INTERRUPTED


def move_aside(plan: Plan, record: Record, first: Stage) -> tuple[Record, list[Path]]:
    """The record without ``first`` and the stages after it, whose folders are moved, and where they lie now."""
    later = [stage for stage in plan.stages if stage.number >= first.number]
    names = {stage.folder.name for stage in later}
    names |= {str(record[stage.name]["folder"]) for stage in later if stage.name in record}
    present = [plan.output / name for name in sorted(names) if (plan.output / name).is_dir()]
    if present:
        aside = _new_folder(plan.output / ASIDE)
        with explained_errors(aside):
            for folder in present:
                folder.rename(aside / folder.name)
    else:
        aside = plan.output / ASIDE
    kept = {name: entry for name, entry in record.items() if name not in {stage.name for stage in later}}
    return kept, [aside / folder.name for folder in present]


def _changes(stage: Stage, entry: Entry | None) -> list[str]:
    """What is not as it was, in words."""
    if entry is None or "settings" not in entry:
        return [f"{FILE} has no record of how it was run"]
    if entry["number"] != stage.number or entry["method"] != stage.method:
        was, now = (f"stage {one['number']}, {one['method']}" for one in (entry, _place(stage)))
        return [f"its place changed (was {was}; is {now})"]
    before, now = entry["settings"], told_settings(stage)
    defaults = {name: field.get_default(call_default_factory=True) for name, field in _fields(stage).items()}
    told = []
    for name in now.keys() - _INDIFFERENT:
        was = before.get(name, defaults.get(name, _ABSENT))  # a setting that is newer than the run
        if was != now[name] and _plain(was) != now[name]:
            told.append(f"{name} changed (was {was!r}, is {now[name]!r})")
    inputs = read_fingerprints(stage)
    for name, fingerprint in entry["inputs"].items():
        if name in inputs and inputs[name] != fingerprint:
            what = "is not there any more" if inputs[name] == "missing" else "is another"
            told.append(f"{name} {what}")
    return sorted(told)


def _fields(stage: Stage) -> Mapping[str, Any]:
    return type(stage.config).model_fields


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _place(stage: Stage) -> Entry:
    return {"number": stage.number, "name": stage.name, "method": stage.method}


def _by_name(value: Any, stage: Stage) -> Any:
    if isinstance(value, list):
        return [_by_name(one, stage) for one in value]
    if isinstance(value, str) and value in stage.uses:
        return f"model of {stage.uses[value]}"
    return value


def _new_folder(parent: Path) -> Path:
    """A folder of this moment, new even where two fall into one second."""
    name = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    with explained_errors(parent):
        parent.mkdir(parents=True, exist_ok=True)
        for number in range(1, 10_000):
            folder = parent / (name if number == 1 else f"{name}-{number}")
            try:
                folder.mkdir()
                return folder
            except FileExistsError:
                continue
    raise PreftuneError("No new folder can be made.", where=str(parent))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
