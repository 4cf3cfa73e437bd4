"""Checkpoints that are whole or absent: written aside, synced, hashed, renamed; never a pickle.

    folder/step-N/<name>.safetensors   one file for each name of ``tensors``
    folder/step-N/values.json          counters, positions, generator states: whatever JSON can say
    folder/step-N/manifest.json        format, step, and size and SHA-256 of each file above; written last

Names beginning with a dot are work under way or left by a crash: ``.tmp-`` not yet whole, ``.trash-`` being
deleted, ``.replaced-step-N`` the former step-N for the moment in which a new one takes its place.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from preftune.durable import explained_errors, sync_file, sync_folder, write_synced
from preftune.errors import PreftuneError

FORMAT = 1
MANIFEST, VALUES = "manifest.json", "values.json"
NON_FINITE = "__float__"  # JSON has no NaN or infinity, and a resumed run must have them back


@dataclass(frozen=True)
class LoadedCheckpoint:
    """A checkpoint as it was written; ``skipped`` says of each newer one why it could not be used."""

    step: int
    tensors: dict[str, dict[str, Tensor]]  # on the CPU
    values: dict[str, Any]
    path: Path
    skipped: tuple[str, ...]


def save_checkpoint(
    folder: Path,
    step: int,
    tensors: Mapping[str, Mapping[str, Tensor]],
    values: Mapping[str, Any],
    keep: int | None,
) -> Path:
    """Writes ``folder/step-N``, then removes all but the ``keep`` newest (None: removes none).

    Tensors keep dtype and shape; those that share memory are saved as separate copies. ``values`` must be
    JSON with text keys (TypeError otherwise); NaN and infinities come back, tuples come back as lists. A
    step-N that is already there is replaced. One process at a time may write a folder (see ``open_run``).
    Raises StorageFullError or PreftuneError where it cannot be written; earlier checkpoints are then intact.
    """
    if keep is not None and keep < 1:
        raise ValueError(f"keep must be at least 1, not {keep}")
    target = folder / f"step-{step}"
    aside = folder / f".tmp-step-{step}-{os.getpid()}"
    with explained_errors(target):
        _make_folder(folder)
        _tidy(folder)
        try:
            aside.mkdir()
            _write_files(aside, step, tensors, values)
            _publish(aside, target)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
    if keep is not None:
        _prune(folder, step, keep)
    return target


def load_newest(folder: Path) -> LoadedCheckpoint | None:
    """The newest checkpoint that is as it was written; None where there is none at all.

    Raises PreftuneError where there are checkpoints and all are damaged: to start anew would lose them.
    """
    skipped: list[str] = []
    for step, path in sorted(_find(folder).items(), reverse=True):
        try:
            tensors, values = _load(path, step)
        except _Damage as damage:
            skipped.append(f"{path}: {damage} It was passed over.")
            continue
        return LoadedCheckpoint(step, tensors, values, path, tuple(skipped))
    if skipped:
        raise PreftuneError(
            "None of the checkpoints can be used. " + " ".join(skipped),
            where=str(folder),
            mend="Put back an intact copy, or start anew with another --output.",
        )
    return None


def load_tensors(folder: Path, step: int, name: str) -> dict[str, Tensor]:
    """The group ``name`` of tensors of ``folder/step-N``, on the CPU, its own file verified and no other read.

    PreftuneError where it is not there or not as it was written.
    """
    path = _find(folder).get(step)
    file = f"{name}.safetensors"
    try:
        if path is None:
            raise _Damage("It is not there.")
        files = _read_manifest(path / MANIFEST, step)
        if file not in files:
            raise _Damage(f"It has no {file}.")
        _verify(path / file, files[file])
        return load_file(path / file)
    except (_Damage, OSError, ValueError, SafetensorError) as error:
        what = f"The checkpoint cannot be used: {error}"
        raise PreftuneError(what, where=str(path or folder / f"step-{step}"), mend="Choose another.") from error


def list_checkpoints(folder: Path) -> list[int]:
    """The steps of the checkpoints in the folder, ascending, verified or not."""
    return sorted(_find(folder))


class _Damage(Exception):
    """A sentence on why a checkpoint cannot be trusted."""


def _find(folder: Path) -> dict[int, Path]:
    if not folder.is_dir():
        return {}
    found = {}
    # Sorted, ".replaced-step-N" comes before "step-N", which therefore wins.
    for path in sorted(folder.iterdir()):
        match = re.fullmatch(r"(?:\.replaced-)?step-(0|[1-9][0-9]*)", path.name)
        if match and path.is_dir():
            found[int(match[1])] = path
    return found


def _make_folder(folder: Path) -> None:
    if folder.is_dir():
        return
    folder.mkdir(parents=True, exist_ok=True)
    sync_folder(folder.parent)


def _tidy(folder: Path) -> None:
    """Clears what a crash left. Only one process writes here, so whatever is under way is a dead one's."""
    for path in sorted(folder.iterdir()):
        if path.name.startswith((".tmp-", ".trash-")):
            shutil.rmtree(path, ignore_errors=True)
        elif path.name.startswith(".replaced-"):
            former = folder / path.name.removeprefix(".replaced-")
            if former.exists():
                _discard(path)
            else:
                path.rename(former)


def _write_files(
    aside: Path, step: int, tensors: Mapping[str, Mapping[str, Tensor]], values: Mapping[str, Any]
) -> None:
    names = [VALUES]
    write_synced(aside / VALUES, json.dumps(_encode(values), allow_nan=False).encode())
    for name, group in tensors.items():
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
            raise ValueError(f"{name!r} cannot be the name of a file")
        names.append(f"{name}.safetensors")
        _write_tensors(aside / names[-1], group)
        # safetensors 0.8 lets nobody but the owner read its files, whatever the umask.
        shutil.copymode(aside / VALUES, aside / names[-1])
    files = {name: {"size": (aside / name).stat().st_size, "sha256": _hash(aside / name)} for name in names}
    manifest = {"format": FORMAT, "step": step, "files": files}
    write_synced(aside / MANIFEST, json.dumps(manifest, indent=2).encode())
    sync_folder(aside)


def _write_tensors(path: Path, group: Mapping[str, Tensor]) -> None:
    try:
        save_file(_separate(group), path)
    except SafetensorError as error:
        # safetensors gives the operating system's error as text only.
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1]))) from error
    sync_file(path)


def _separate(group: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, contiguous, no two of them in one storage, as safetensors wants them."""
    separate: dict[str, Tensor] = {}
    storages: set[tuple[Any, int]] = set()
    for name, tensor in group.items():
        storage = (tensor.device, tensor.untyped_storage().data_ptr())
        is_alone = tensor.is_contiguous() and storage not in storages
        separate[name] = tensor.detach() if is_alone else tensor.detach().clone().contiguous()
        storages.add(storage)
    return separate


def _publish(aside: Path, target: Path) -> None:
    replaced = target.with_name(f".replaced-{target.name}")
    if target.exists():  # a folder cannot be renamed onto a full one
        target.rename(replaced)
    aside.rename(target)
    sync_folder(target.parent)
    if replaced.exists():
        _discard(replaced)


def _prune(folder: Path, saved: int, keep: int) -> None:
    # Later steps than the one just saved were damaged, or the run would have gone on from them: first to go.
    by_worth = sorted(list_checkpoints(folder), key=lambda step: (step <= saved, step), reverse=True)
    for step in by_worth[keep:]:
        _discard(folder / f"step-{step}")


def _discard(path: Path) -> None:
    """Deletes a checkpoint, renamed first: a half-deleted one must not be found. The next save retries."""
    trash = path.with_name(f".trash-{path.name.removeprefix('.replaced-')}")
    with suppress(OSError):
        path.rename(trash)
        shutil.rmtree(trash)


def _load(path: Path, step: int) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    try:
        files = _read_manifest(path / MANIFEST, step)
        for name, expected in files.items():
            _verify(path / name, expected)
        values = json.loads((path / VALUES).read_text(encoding="utf-8"), object_hook=_decode)
        names = [name for name in files if name != VALUES]
        return {name.removesuffix(".safetensors"): load_file(path / name) for name in names}, values
    except (OSError, ValueError, SafetensorError) as error:
        raise _Damage(f"It cannot be read ({error}).") from error


def _read_manifest(path: Path, step: int) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of each file of the checkpoint."""
    if not path.exists():
        raise _Damage(f"{MANIFEST} is missing.")
    try:
        manifest = json.loads(path.read_bytes())
        form, claimed, files = manifest["format"], manifest["step"], manifest["files"]
        sizes = [(entry["size"], entry["sha256"]) for entry in files.values()]
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError) as error:
        raise _Damage(f"{MANIFEST} is damaged.") from error
    if form != FORMAT:
        raise _Damage(f"It has format {form}, and this version reads format {FORMAT}.")
    if claimed != step or VALUES not in files or not sizes:
        raise _Damage(f"{MANIFEST} is damaged.")
    return files


def _verify(path: Path, expected: Mapping[str, Any]) -> None:
    if not path.is_file():
        raise _Damage(f"{path.name} is missing.")
    size = path.stat().st_size
    if size != expected["size"]:
        raise _Damage(f"{path.name} has {size} bytes instead of {expected['size']}.")
    if _hash(path) != expected["sha256"]:
        raise _Damage(f"{path.name} has changed since it was written (its SHA-256 differs).")


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _encode(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return {NON_FINITE: repr(float(value))}
    if isinstance(value, Mapping):
        if strange := [key for key in value if not isinstance(key, str)]:
            raise TypeError(f"JSON would turn the key {strange[0]!r} into text")
        return {key: _encode(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_encode(item) for item in value]
    return value


def _decode(item: dict[str, Any]) -> Any:
    return float(item[NON_FINITE]) if item.keys() == {NON_FINITE} else item
