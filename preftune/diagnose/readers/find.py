"""What of a path is a training log: ``read_log`` finds and reads it, whichever tool wrote it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from preftune.diagnose.readers.console import read_console
from preftune.diagnose.readers.own_run import METRICS, is_own_run, read_own_run
from preftune.diagnose.readers.tables import read_csv, read_json_rows, read_jsonl
from preftune.diagnose.readers.tensorboard_events import PATTERN, read_event_files, read_event_folder
from preftune.diagnose.readers.text import read_json
from preftune.diagnose.readers.trainer_state import FILE, read_trainer_folder, read_trainer_state, state_files
from preftune.diagnose.readers.wandb_run import is_wandb_run, read_wandb_file, read_wandb_run
from preftune.diagnose.series import RunLog
from preftune.errors import PreftuneError

Read = Callable[[], list[RunLog]]

_DEEPEST, _MOST_FOLDERS, _MOST_FILES = 4, 400, 40
_TABLES = {
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
    ".csv": read_csv,
    ".tsv": read_csv,
    ".log": read_console,
    ".out": read_console,
}
# Of our own and other tools' files, those that are no curves.
_NO_LOGS = {"samples.jsonl", "rejected.jsonl", "requirements.txt"}
_NO_FOLDERS = {"checkpoints", "model", "completions", "__pycache__", "latest-run", "value_model"}


def read_log(path: str | Path) -> list[RunLog]:
    """The runs at ``path``, a file or a folder, each with a name of its own.

    What could not be read is told in the first run's notes; raises ``PreftuneError`` where nothing could.
    """
    place = Path(path).expanduser()
    if not place.exists():
        raise PreftuneError("There is nothing here.", where=str(path), mend="Give a run's folder or a log file.")
    if place.is_file():
        return _told_apart(_read_file(place))
    runs, problems = _read_all(list(_in_folder(place, _DEEPEST)))
    if not runs and problems:
        raise problems[0]
    if not runs:
        raise PreftuneError(
            "No training log is in this folder.",
            where=str(path),
            mend=f"Looked for {METRICS}, {FILE}, TensorBoard's events, W&B's runs, and .jsonl, .csv and .log files.",
        )
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        told = f"Left out: {'; '.join(str(problem) for problem in problems[:3])}{more}."
        runs[0] = replace(runs[0], notes=[*runs[0].notes, told])
    return _told_apart(runs)


def _read_file(path: Path) -> list[RunLog]:
    if path.name == METRICS:
        return read_own_run(path.parent)
    if path.name == FILE:
        return read_trainer_state(path)
    if "tfevents" in path.name:
        return read_event_files([path], path.parent.resolve().name)
    if path.suffix == ".wandb":
        return read_wandb_run(path.parent) if is_wandb_run(path.parent) else _wandb_alone(path)
    if path.suffix == ".json":
        found = read_json(path)
        return read_trainer_state(path) if isinstance(found, dict) and "log_history" in found else read_json_rows(path)
    return _TABLES.get(path.suffix.lower(), _read_unnamed)(path)


def _wandb_alone(path: Path) -> list[RunLog]:
    from preftune.diagnose.readers.assemble import log_of_rows
    from preftune.diagnose.readers.rows import split_runs

    notes: list[str] = []
    rows, config = read_wandb_file(path, notes)
    if not rows:
        raise PreftuneError("Nothing was logged in it.", where=str(path))
    return [log_of_rows(path.stem, "wandb", one, config=config, notes=notes) for one in split_runs(rows)]


def _read_unnamed(path: Path) -> list[RunLog]:
    """A file whose name says nothing: JSON lines, a console log or a table, whichever it is."""
    for read in (read_jsonl, read_console, read_csv):
        try:
            return read(path)
        except PreftuneError as error:
            if "no text file" in error.what or "cannot be read" in error.what:
                raise
    raise PreftuneError(
        "It is no training log that is known.",
        where=str(path),
        mend="Known are JSONL, CSV, trainer_state.json, TensorBoard's and W&B's files, and verl's and OpenRLHF's logs.",
    )


def _in_folder(folder: Path, depth: int) -> Iterator[Read]:
    """How to read each run of a folder; the folders of a run are not looked into for others."""
    if is_own_run(folder):
        yield lambda: read_own_run(folder)
        return
    if state_files(folder):
        yield lambda: read_trainer_folder(folder)
        return
    if is_wandb_run(folder):
        yield lambda: read_wandb_run(folder)
        return
    try:
        entries = sorted(folder.iterdir(), key=lambda entry: entry.name)
    except OSError:
        return
    if any(entry.is_file() and entry.match(PATTERN) for entry in entries):
        yield lambda: read_event_folder(folder)
    files = [entry for entry in entries if entry.suffix.lower() in _TABLES and not _is_no_log(entry)]
    for file in [entry for entry in files if entry.is_file()][:_MOST_FILES]:
        yield lambda file=file: _read_file(file)
    if depth:
        folders = [entry for entry in entries if entry.is_dir() and not entry.is_symlink() and _may_hold(entry)]
        for inner in folders[:_MOST_FOLDERS]:
            yield from _in_folder(inner, depth - 1)


def _is_no_log(file: Path) -> bool:
    """True also for what W&B logs of itself."""
    return file.name in _NO_LOGS or (file.name.startswith("debug") and file.suffix == ".log")


def _may_hold(folder: Path) -> bool:
    return folder.name not in _NO_FOLDERS and not folder.name.startswith(".")


def _read_all(readers: list[Read]) -> tuple[list[RunLog], list[PreftuneError]]:
    runs: list[RunLog] = []
    problems: list[PreftuneError] = []
    for read in readers:
        try:
            runs += read()
        except PreftuneError as error:
            problems.append(error)
    return runs, problems


def _told_apart(runs: list[RunLog]) -> list[RunLog]:
    """Names that are each one run's."""
    names = [run.name for run in runs]
    seen: dict[str, int] = {}
    found = []
    for run in runs:
        seen[run.name] = seen.get(run.name, 0) + 1
        again = names.count(run.name) > 1
        found.append(replace(run, name=f"{run.name} #{seen[run.name]}") if again else run)
    return found
