"""Files that are either wholly written or not written at all, whatever moment the machine stops at."""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from preftune.errors import PreftuneError, StorageFullError

# EFBIG is what a limit on the size of files (ulimit -f, some quotas) gives.
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
BINARY = getattr(os, "O_BINARY", 0)  # without it Windows rewrites line ends


def write_file(path: Path, data: bytes | str) -> None:
    """Puts ``data`` at ``path`` in one stroke: a reader, or a crash, meets the old content or the new.

    Text is written as UTF-8. On return the content would survive a power cut. Raises StorageFullError where
    there is no room and PreftuneError where the place cannot be written; the old file is then untouched.
    """
    # A lone surrogate, which a model may well produce, becomes its escape, valid within JSON strings too.
    content = data.encode("utf-8", "backslashreplace") if isinstance(data, str) else data
    aside = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    with explained_errors(path):
        try:
            write_synced(aside, content)
            aside.replace(path)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def write_json(path: Path, value: Any) -> None:
    """``write_file`` of a JSON document; NaN and infinities, which JSON has no words for, become null."""
    document = json.dumps(_without_non_finite(value), indent=2, ensure_ascii=False, allow_nan=False)
    write_file(path, document + "\n")


@contextmanager
def explained_errors(where: Path) -> Iterator[None]:
    """Turns the operating system's errors about ``where`` into a StorageFullError or PreftuneError."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in FULL:
            raise StorageFullError(
                f"There is no room left to write it ({reason}).",
                where=str(where),
                mend="Free some space; what was written before is intact.",
            ) from error
        raise PreftuneError(
            f"It cannot be written ({reason}).",
            where=str(where),
            mend="Check the folder's permissions and the disk, or choose another --output.",
        ) from error


def write_synced(path: Path, content: bytes) -> None:
    """Writes a file that no reader looks at yet; returns once its content is on the disk."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | BINARY, 0o666)
    try:
        write_all(descriptor, content)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_all(descriptor: int, data: bytes) -> None:
    """Writes every byte: os.write may take only a part of them."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def sync_file(path: Path) -> None:
    """Returns once the file's content is on the disk."""
    descriptor = os.open(path, os.O_RDWR | BINARY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Returns once the folder's names (new, renamed, removed) are on the disk; on Windows at once."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _without_non_finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _without_non_finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_non_finite(item) for item in value]
    return value
