"""Whether what a stage reads is still the same: hashes of its data, its models and its reward functions."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from preftune.pipeline.places import DATA_SETTINGS
from preftune.pipeline.plan import MODEL_SETTINGS, Stage

_WHOLE = 2**20  # weights beyond it are known by three pieces: training changes every one of them
_PIECE = 2**16
_MADE_LATER = ("README.md",)


def read_fingerprints(stage: Stage) -> dict[str, str]:
    """Of everything local that the stage reads, by what it is called: ``data pairs.jsonl``, ``the model of sft``.

    What is not there is ``missing``; hub names have none, since nothing local says what they stand for.
    """
    found: dict[str, str] = {}
    config = stage.config
    for field in DATA_SETTINGS:
        source = getattr(config, field)
        if source and Path(source).expanduser().exists():
            found[f"{field} {source}"] = _hash(_files(Path(source).expanduser()), whole=True)
    for field in MODEL_SETTINGS.keys() & type(config).model_fields.keys():
        for source in _listed(getattr(config, field)):
            if source in stage.uses:
                found[f"the model of {stage.uses[source]}"] = fingerprint_model(Path(source))
            elif place := _local(source):
                found[f"{field} {source}"] = fingerprint_model(place)
    return dict(sorted(found.items()))


def fingerprint_model(folder: Path) -> str:
    """A hash of a model folder or file that reads little of large files; ``missing`` where there is none."""
    if not folder.exists():
        return "missing"
    return _hash((path for path in _files(folder) if path.name not in _MADE_LATER), whole=False)


def _listed(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    return [one for one in value if isinstance(one, str)] if isinstance(value, tuple | list) else []


def _local(source: str) -> Path | None:
    """The file or folder behind a model's or a reward's name: of ``rewards.py:brevity`` the file."""
    for text in (source, source.rpartition(":")[0]):
        if text and Path(text).expanduser().exists():
            return Path(text).expanduser()
    return None


def _files(place: Path) -> Iterator[Path]:
    if place.is_file():
        yield place
        return
    yield from (path for path in sorted(place.rglob("*")) if path.is_file() and not path.name.startswith("."))


def _hash(files: Iterable[Path], *, whole: bool) -> str:
    digest = hashlib.sha256()
    for path in files:
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as file:
            if whole or size <= _WHOLE:
                digest.update(hashlib.file_digest(file, "sha256").digest())
                continue
            for begin in (0, size // 2, size - _PIECE):
                file.seek(begin)
                digest.update(file.read(_PIECE))
    return digest.hexdigest()
