"""``trainer_state.json`` of transformers and TRL, in a run's folder or in its newest readable checkpoint."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from preftune.diagnose.readers.assemble import log_of_rows
from preftune.diagnose.readers.completions import read_completions
from preftune.diagnose.readers.rows import flattened, split_runs
from preftune.diagnose.readers.tensorboard_events import find_event_files, settings_in_events
from preftune.diagnose.readers.text import read_json
from preftune.diagnose.series import RunLog
from preftune.errors import PreftuneError

FILE = "trainer_state.json"
_SETTINGS = ("max_steps", "num_train_epochs", "logging_steps", "eval_steps", "save_steps", "train_batch_size")


def state_files(folder: Path) -> list[Path]:
    """The states of the folder and of its checkpoints, the newest first."""
    found = [(_checkpoint_number(one.parent), one) for one in folder.glob(f"checkpoint-*/{FILE}")]
    ordered = [path for number, path in sorted(found, reverse=True) if number >= 0]
    own = folder / FILE
    return [own, *ordered] if own.is_file() else ordered


def read_trainer_folder(folder: Path) -> list[RunLog]:
    """The newest state that can be read; damaged newer ones are a note."""
    notes: list[str] = []
    first: PreftuneError | None = None
    for path in state_files(folder):
        try:
            return read_trainer_state(path, folder, notes)
        except PreftuneError as error:
            first = first or error
            notes.append(f"{path.relative_to(folder)} could not be read ({error.what.rstrip('.')}); an older one was.")
    raise first or PreftuneError(f"There is no {FILE} here.", where=str(folder))


def read_trainer_state(path: Path, folder: Path | None = None, notes: Sequence[str] = ()) -> list[RunLog]:
    """The run of one file; ``folder`` is the run's, where its completions and TensorBoard files lie."""
    state = read_json(path)
    history = state.get("log_history") if isinstance(state, dict) else None
    if not isinstance(history, list):
        raise PreftuneError(
            "It has no log_history.", where=str(path), mend="Give the trainer_state.json that a Trainer has written."
        )
    rows = [flattened(row) for row in history if isinstance(row, dict)]
    if not rows:
        raise PreftuneError("Its log_history is empty: nothing was logged yet.", where=str(path))
    home = folder or path.parent
    name = (home.parent if re.fullmatch(r"checkpoint-\d+", home.name) else home).resolve().name
    told = list(notes)
    said = {key: state[key] for key in _SETTINGS if state.get(key) is not None}
    config = said | _from_events(home, told)
    samples = read_completions(home / "completions", told)
    return [log_of_rows(name, "trl", one, config=config, samples=samples, notes=[*told]) for one in split_runs(rows)]


def _from_events(folder: Path, notes: list[str]) -> dict[str, Any]:
    """The Trainer's arguments, which its TensorBoard files hold as text and its state does not."""
    config = settings_in_events(find_event_files(folder))
    if not config:
        notes.append(
            "trainer_state.json holds no settings (beta, learning rate ...), and no TensorBoard file beside it does: "
            "detectors that need them cannot tell. training_args.bin is a pickle and is never opened."
        )
    return config


def _checkpoint_number(folder: Path) -> int:
    found = re.fullmatch(r"checkpoint-(\d{1,12})", folder.name)
    return int(found[1]) if found else -1
