"""What of a path is a training log: ``read_log`` finds and reads it, whichever tool wrote it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from preftune.diagnose.readers.console import read_console
from preftune.diagnose.readers.documents import kind_of, read_document
from preftune.diagnose.readers.own_run import METRICS, is_own_run, read_own_run
from preftune.diagnose.readers.tables import read_csv, read_json_rows, read_jsonl
from preftune.diagnose.readers.tensorboard_events import PATTERN, read_event_files, read_event_folder
from preftune.diagnose.readers.text import plain_name, read_json
from preftune.diagnose.readers.trainer_state import FILE, read_trainer_folder, read_trainer_state, state_files
from preftune.diagnose.readers.wandb_run import is_wandb_run, read_wandb_file, read_wandb_run
from preftune.diagnose.series import RunLog
from preftune.errors import PreftuneError

_DEEPEST, _MOST_FOLDERS, _MOST_FILES = 8, 3000, 200  # files of one folder, folders in all
_TABLES = {
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
    ".csv": read_csv,
    ".tsv": read_csv,
    ".log": read_console,
    ".out": read_console,
}
_MEANT = ("history", "metrics", "log", "judge", "audit")  # in the names of .json files that are looked into
# Of our own and other tools' files, those that are no curves.
_NO_LOGS = {"samples.jsonl", "rejected.jsonl", "requirements.txt"}
_NO_FOLDERS = {"checkpoints", "model", "completions", "__pycache__", "latest-run", "value_model"}


@dataclass(frozen=True)
class _Place:
    """A run's folder or file, and how it is read."""

    path: Path
    read: Callable[[], list[RunLog]]


@dataclass
class _Walk:
    """What a walk through folders could not look at, and how many it has looked at."""

    problems: list[PreftuneError] = field(default_factory=list)
    folders: int = 0


def read_log(path: str | Path) -> list[RunLog]:
    """The runs at ``path``, a file or a folder, each with a name of its own.

    What could not be read is told in the first run's notes; raises ``PreftuneError`` where nothing could.
    """
    root = Path(path).expanduser()
    if not root.exists():
        raise PreftuneError("There is nothing here.", where=str(path), mend="Give a run's folder or a log file.")
    if root.is_file():
        return _told_apart([(root, run) for run in _placed(_Place(root, lambda: _read_file(root)))], root)
    if not root.is_dir():
        raise PreftuneError("This is neither a file nor a folder.", where=str(path), mend="Write it into a file first.")
    walk = _Walk()
    found = _read_all(list(_in_folder(root, _DEEPEST, walk)), walk.problems)
    if not found and walk.problems:
        raise walk.problems[0]
    if not found:
        raise PreftuneError(
            "No training log is in this folder.",
            where=str(path),
            mend=f"Looked for {METRICS}, {FILE}, TensorBoard's events, W&B's runs, and .jsonl, .csv and .log files.",
        )
    runs = _told_apart(found, root)
    if walk.problems:
        more = f" And {len(walk.problems) - 3} more." if len(walk.problems) > 3 else ""
        told = f"Left out: {' '.join(str(problem) for problem in walk.problems[:3])}{more}"
        runs[0] = replace(runs[0], notes=[*runs[0].notes, told])
    return runs


def _read_file(path: Path) -> list[RunLog]:
    if path.name == METRICS:
        return read_own_run(path.parent)
    if path.name == FILE:
        return read_trainer_state(path)
    if "tfevents" in path.name:
        return read_event_files([path], path.parent.resolve().name)
    if path.suffix == ".wandb":
        return read_wandb_run(path.parent) if is_wandb_run(path.parent) else _wandb_alone(path)
    suffix = plain_name(path).suffix.lower()
    return _read_json(path) if suffix == ".json" else _TABLES.get(suffix, _read_unnamed)(path)


def _read_json(path: Path) -> list[RunLog]:
    found = read_json(path)
    if kind_of(found) is not None:
        return read_document(path)
    return read_trainer_state(path) if isinstance(found, dict) and "log_history" in found else read_json_rows(path)


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


def _in_folder(folder: Path, depth: int, walk: _Walk) -> Iterator[_Place]:
    """Each run of a folder; the folders of a run are not looked into for others."""
    walk.folders += 1
    if walk.folders > _MOST_FOLDERS:
        if walk.folders == _MOST_FOLDERS + 1:
            walk.problems.append(PreftuneError(f"Only {_MOST_FOLDERS:,} folders are looked into.", where=str(folder)))
        return
    try:
        read = _reader_of(folder)
        entries = [] if read else sorted(folder.iterdir(), key=lambda entry: entry.name)
        files = [entry for entry in entries if _is_meant(entry) and entry.is_file()]
        folders = [entry for entry in entries if entry.is_dir() and not entry.is_symlink() and _may_hold(entry)]
    except OSError as error:
        walk.problems.append(PreftuneError(f"It cannot be opened ({error.strerror or error}).", where=str(folder)))
        return
    if read:
        yield _Place(folder, read)
        return
    if any(entry.match(PATTERN) for entry in entries):
        yield _Place(folder, lambda: read_event_folder(folder))
    for file in files[:_MOST_FILES]:
        yield _Place(file, lambda file=file: _read_file(file))
    if len(files) > _MOST_FILES:
        told = f"It holds {len(files):,} logs, of which {_MOST_FILES} were read."
        walk.problems.append(PreftuneError(told, where=str(folder), mend="Name the others."))
    for inner in folders if depth else ():
        yield from _in_folder(inner, depth - 1, walk)


def _reader_of(folder: Path) -> Callable[[], list[RunLog]] | None:
    """How to read the folder that is one run; None where it is none."""
    if is_own_run(folder):
        return lambda: read_own_run(folder)
    if state_files(folder):
        return lambda: read_trainer_folder(folder)
    if is_wandb_run(folder):
        return lambda: read_wandb_run(folder)
    return None


def _is_meant(file: Path) -> bool:
    """True for the names of logs; false for what W&B logs of itself."""
    name = plain_name(file)
    if file.name in _NO_LOGS or (name.stem.startswith("debug") and name.suffix == ".log"):
        return False
    if name.suffix.lower() == ".json":
        return any(word in name.stem.lower() for word in _MEANT) and "config" not in name.stem.lower()
    return name.suffix.lower() in _TABLES


def _may_hold(folder: Path) -> bool:
    return folder.name not in _NO_FOLDERS and not folder.name.startswith(".")


def _read_all(places: list[_Place], problems: list[PreftuneError]) -> list[tuple[Path, RunLog]]:
    found: list[tuple[Path, RunLog]] = []
    for place in places:
        try:
            found += [(place.path, run) for run in _placed(place)]
        except PreftuneError as error:
            problems.append(error)
    return found


def _placed(place: _Place) -> list[RunLog]:
    """The runs of a place; what goes wrong names the whole path."""
    try:
        return place.read()
    except PreftuneError as error:
        if error.where and not Path(error.where).is_absolute() and not Path(error.where).exists():
            raise PreftuneError(error.what, where=str(place.path), mend=error.mend) from error
        raise


def _told_apart(found: list[tuple[Path, RunLog]], root: Path) -> list[RunLog]:
    """Names that are each one run's: those that several have are told by their folders."""
    names = Counter(run.name for _, run in found)
    runs = [replace(run, name=_long_name(place, run, root)) if names[run.name] > 1 else run for place, run in found]
    again = Counter(run.name for run in runs)
    seen: Counter[str] = Counter()
    for place, run in enumerate(runs):
        seen[run.name] += 1
        if again[run.name] > 1:
            runs[place] = replace(run, name=f"{run.name} #{seen[run.name]}")
    return runs


def _long_name(place: Path, run: RunLog, root: Path) -> str:
    folder = place.parent.relative_to(root) if place != root and place.is_relative_to(root) else Path()
    return run.name if folder == Path() else f"{folder.as_posix()}/{run.name}"
