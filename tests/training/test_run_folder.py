"""One run, one folder, one writer."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from preftune.errors import PreftuneError
from preftune.training import run_folder
from preftune.training.run_folder import SIGNS_OF_A_RUN, open_run

pytestmark = pytest.mark.skipif(run_folder.fcntl is None, reason="no locks on this system")


def _fork(work: Callable[[], None]) -> int:
    """Runs ``work`` in a child, which exits with 0, or 1 where it raised."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        work()
        code = 0
    finally:
        os._exit(code)


def test_the_folder_is_made_with_its_parents(tmp_path: Path) -> None:
    with open_run(tmp_path / "a" / "b", resume=False) as folder:
        assert folder == tmp_path / "a" / "b"
        assert folder.is_dir()


@pytest.mark.parametrize("name", SIGNS_OF_A_RUN)
def test_a_second_run_in_one_folder_is_refused_unless_resumed(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    with (
        pytest.raises(PreftuneError, match=f"{name}.*--resume to go on, or another --output"),
        open_run(tmp_path, resume=False),
    ):
        pass
    with open_run(tmp_path, resume=True) as folder:
        assert (folder / name).exists()


@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_with_other_things_and_an_ended_empty_run_may_be_used(tmp_path: Path, resume: bool) -> None:
    (tmp_path / "notes.txt").touch()
    for _ in range(2):
        with open_run(tmp_path, resume=resume):
            pass


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(PreftuneError, match="a file, not a folder"),
        open_run(tmp_path / "file", resume=False),
    ):
        pass
    with (
        pytest.raises(PreftuneError, match="file/below"),
        open_run(tmp_path / "file" / "below", resume=False),
    ):
        pass


def test_a_folder_one_may_not_write_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "theirs"
    folder.mkdir(mode=0o555)

    def try_it() -> None:
        if os.geteuid() == 0:
            os.setuid(65534)  # root may write everywhere
        with (
            pytest.raises(PreftuneError, match=r"cannot be written.*--output"),
            open_run(folder, resume=False),
        ):
            pass

    assert os.waitpid(_fork(try_it), 0)[1] == 0


def test_a_second_writer_is_told_who_the_first_is(tmp_path: Path) -> None:
    ready, tell = os.pipe()

    def hold() -> None:
        with open_run(tmp_path, resume=True):
            os.write(tell, b"x")
            signal.pause()

    child = _fork(hold)
    try:
        os.read(ready, 1)
        with pytest.raises(PreftuneError, match=rf"pid {child}\b"), open_run(tmp_path, resume=True):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    with open_run(tmp_path, resume=True):  # the killed process holds nothing any more
        assert (tmp_path / run_folder.LOCK).read_text() == f"{os.getpid()} {socket.gethostname()}\n"


def test_a_worker_that_outlives_its_killed_parent_does_not_keep_the_lock(tmp_path: Path) -> None:
    ready, tell = os.pipe()

    def hold_with_a_worker() -> None:
        with open_run(tmp_path, resume=True):
            worker = _fork(signal.pause)  # type: ignore[arg-type]
            os.write(tell, worker.to_bytes(4, "little"))
            signal.pause()

    child = _fork(hold_with_a_worker)
    worker = int.from_bytes(os.read(ready, 4), "little")
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    try:
        os.kill(worker, 0)  # still there
        with open_run(tmp_path, resume=True):
            pass
    finally:
        os.kill(worker, signal.SIGKILL)


def test_a_forked_child_leaving_the_block_does_not_free_the_parents_lock(tmp_path: Path) -> None:

    def open_again() -> None:
        with pytest.raises(PreftuneError, match="is writing this run"), open_run(tmp_path, resume=True):
            pass

    with open_run(tmp_path, resume=True):
        (descriptor,) = run_folder._held
        pid = os.fork()
        if pid == 0:
            run_folder._release(descriptor)
            os._exit(0)
        os.waitpid(pid, 0)
        assert os.waitpid(_fork(open_again), 0)[1] == 0


def test_the_lock_is_freed_when_the_block_raises(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), open_run(tmp_path, resume=False):
        raise RuntimeError
    with open_run(tmp_path, resume=False):
        pass
    assert not run_folder._held


def test_a_file_system_without_locks_is_used_with_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(run_folder.fcntl, "flock", unsupported)
    with pytest.warns(UserWarning, match="no locks"), open_run(tmp_path, resume=False):
        pass
