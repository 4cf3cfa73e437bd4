"""``preftune.diagnose(run)``: a run as Python has it at hand, diagnosed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from preftune.diagnose.readers.assemble import log_of_rows
from preftune.diagnose.readers.find import read_log
from preftune.diagnose.readers.rows import flattened, split_runs
from preftune.diagnose.series import RunLog
from preftune.errors import PreftuneError

if TYPE_CHECKING:
    from preftune.diagnose.doctor import Diagnosis


def diagnose_run(run: Any) -> Diagnosis:
    """What is wrong with a run.

    ``run`` is a path (a run's folder or any log that docs/logs.md names), a ``RunLog``, logged rows (dictionaries, as
    in transformers' ``log_history``), a pandas table of them, a ``transformers.Trainer``, or what ``trainer.train()``
    of ours gives. Raises ``PreftuneError`` where nothing can be read, or where a path holds several runs:
    ``diagnose_runs`` takes those.
    """
    from preftune.diagnose.doctor import diagnose

    logs = logs_of(run)
    if len(logs) > 1:
        names = ", ".join(log.name for log in logs[:6]) + (" ..." if len(logs) > 6 else "")
        raise PreftuneError(
            f"It holds {len(logs)} runs: {names}.",
            where=str(run) if isinstance(run, str | Path) else None,
            mend="Give one of them, or call preftune.diagnose.given.diagnose_runs.",
        )
    return diagnose(logs[0])


def diagnose_runs(run: Any) -> dict[str, Diagnosis]:
    """The diagnosis of every run at a path, by the run's name."""
    from preftune.diagnose.doctor import diagnose

    return {log.name: diagnose(log) for log in logs_of(run)}


def logs_of(run: Any) -> list[RunLog]:
    """Whatever stands for a run as logs."""
    if isinstance(run, RunLog):
        return [run]
    if isinstance(run, str | Path):
        return read_log(run)
    folder = getattr(run, "folder", None)
    if isinstance(folder, Path):  # a run of ours that is over
        return read_log(folder)
    history = getattr(getattr(run, "state", None), "log_history", None)
    if history is not None:
        return _of_rows(history, _arguments(run))
    if callable(to_dict := getattr(run, "to_dict", None)) and hasattr(run, "columns"):  # a pandas table
        return _of_rows(to_dict("records"), {})
    if isinstance(run, Iterable) and not isinstance(run, Mapping):
        return _of_rows(run, {})
    mend = "Give a path, a RunLog, rows of metrics, or a transformers Trainer."
    raise PreftuneError(f"A {type(run).__name__} is no run.", mend=mend)


def _of_rows(rows: Any, config: Mapping[str, Any]) -> list[RunLog]:
    kept = [flattened(row) for row in rows if isinstance(row, Mapping)]
    if not kept:
        raise PreftuneError("No row is logged.", mend="Give dictionaries of metrics, one a logged step.")
    return [log_of_rows("run", "python", one, config=config) for one in split_runs(kept)]


def _arguments(trainer: Any) -> dict[str, Any]:
    to_dict = getattr(getattr(trainer, "args", None), "to_dict", None)
    found = to_dict() if callable(to_dict) else {}
    return dict(found) if isinstance(found, Mapping) else {}
