"""One run, one folder, one writer."""

from __future__ import annotations

import errno
import os
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from preftune.durable import BINARY, explained_errors, write_all
from preftune.errors import PreftuneError

try:
    import fcntl
except ImportError:  # Windows: runs work, two writers are not told apart
    fcntl = None

SIGNS_OF_A_RUN = ("config.yaml", "metrics.jsonl", "checkpoints", "model")
LOCK = ".lock"

_held: set[int] = set()  # descriptors of the locks this process holds


@contextmanager
def open_run(path: Path, *, resume: bool) -> Iterator[Path]:
    """The run's folder, made if absent, and nobody else's until the block ends or the process dies.

    Raises PreftuneError where the place cannot be written, where another process is writing this run, and,
    unless ``resume``, where a run already lies there. To be opened by one process of a distributed run.
    """
    _make(path)
    descriptor = _lock(path)
    try:
        if not resume:
            _refuse_a_second_run(path)
        yield path
    finally:
        _release(descriptor)


def _make(path: Path) -> None:
    with explained_errors(path):
        if path.exists() and not path.is_dir():
            raise PreftuneError("This is a file, not a folder.", where=str(path), mend="Choose another --output.")
        path.mkdir(parents=True, exist_ok=True)


def _lock(folder: Path) -> int:
    with explained_errors(folder):
        # The file stays when the run ends: removing it would let two processes lock two files of one name.
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | BINARY, 0o666)
    try:
        _claim(descriptor, folder)
        with explained_errors(folder):
            os.ftruncate(descriptor, 0)
            write_all(descriptor, f"{os.getpid()} {socket.gethostname()}\n".encode())
    except BaseException:
        os.close(descriptor)
        raise
    _held.add(descriptor)
    return descriptor


def _claim(descriptor: int, folder: Path) -> None:
    if fcntl is None:
        return
    try:
        # flock, because the system frees it when the process dies in whatever way.
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            raise PreftuneError(
                f"Another process ({_holder(descriptor)}) is writing this run.",
                where=str(folder),
                mend="Wait for it or stop it, or choose another --output.",
            ) from error
        # Lustre mounted without -o flock, some NFS: better an unguarded run than none.
        warnings.warn(
            f"{folder}: no locks on this file system ({error.strerror}); let only one process write here.",
            stacklevel=2,
        )


def _holder(descriptor: int) -> str:
    pid, _, host = os.read(descriptor, 300).decode("utf-8", "replace").strip().partition(" ")
    if not pid:  # it took the lock this very moment and has not signed yet
        return "pid unknown"
    return f"pid {pid}" if host == socket.gethostname() else f"pid {pid} on {host}"


def _release(descriptor: int) -> None:
    if descriptor in _held:  # not so in a forked child, which holds nothing
        _held.discard(descriptor)
        os.close(descriptor)


def _let_go_in_child() -> None:
    """A forked data worker that outlives its killed parent must not keep the run locked."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go_in_child)


def _refuse_a_second_run(folder: Path) -> None:
    found = [name for name in SIGNS_OF_A_RUN if (folder / name).exists()]
    if found:
        raise PreftuneError(
            f"This folder already holds a run ({', '.join(found)}).",
            where=str(folder),
            mend="Use --resume to go on, or another --output.",
        )
