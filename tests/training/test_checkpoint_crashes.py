"""Whatever moment the process or the machine stops at, a whole checkpoint is there.

Children are forked from this process, which has torch loaded, and stopped with os._exit or SIGKILL.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from preftune.training import checkpoints
from preftune.training.checkpoints import LoadedCheckpoint, load_newest, save_checkpoint

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

CRASHED = 77
PATCHED = ("write", "fsync", "rename", "replace", "unlink", "rmdir", "mkdir")


def _save(folder: Path, step: int, version: int = 0, keep: int | None = 1) -> None:
    weight = torch.full((4, 4), float(step * 1000 + version))
    tensors = {"model": {"weight": weight}, "optimizer": {"m": weight.T.bfloat16(), "step": weight[0, 0]}}
    save_checkpoint(folder, step, tensors, {"step": step, "version": version}, keep=keep)


def _identity(loaded: LoadedCheckpoint | None) -> tuple[int, int] | None:
    """(step, version), after a look at all of the content."""
    if loaded is None:
        return None
    step, version = loaded.values["step"], loaded.values["version"]
    weight = torch.full((4, 4), float(step * 1000 + version))
    assert loaded.step == step
    assert torch.equal(loaded.tensors["model"]["weight"], weight)
    assert torch.equal(loaded.tensors["optimizer"]["m"], weight.bfloat16())
    assert torch.equal(loaded.tensors["optimizer"]["step"], weight[0, 0])
    return step, version


class Machine:
    """Counts the calls that change the disk, stops at one of them, and may lose what was not synced.

    ``torn``: the fatal call, where it writes, writes half. ``loses_power``: renames that no sync of their
    folder followed are undone, and files that were not synced become empty, the worst a disk may do.
    """

    def __init__(self, folder: Path, crash_at: int, *, torn: bool, loses_power: bool) -> None:
        self.folder, self.crash_at, self.torn, self.loses_power = folder, crash_at, torn, loses_power
        self.calls = 0
        self.real = {name: getattr(os, name) for name in PATCHED}
        self.safe = {path.stat().st_ino for path in folder.rglob("*") if path.is_file()}
        self.renamed: list[tuple[Path, Path]] = []

    def install(self) -> None:
        for name in PATCHED:
            setattr(os, name, self._wrap(name, self.real[name]))
        checkpoints.save_file = self._wrap("save_file", checkpoints.save_file)

    def stop(self, code: int) -> None:
        if self.loses_power:
            self._lose_what_is_not_synced()
        os._exit(code)

    def _wrap(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if self.calls == self.crash_at:
                self._tear(name, real, arguments)
                self.stop(CRASHED)
            self.calls += 1
            result = real(*arguments, **options)
            self._note(name, arguments)
            return result

        return call

    def _tear(self, name: str, real: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        if not self.torn:
            return
        if name == "write":
            real(arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2])
        elif name == "save_file":
            real(*arguments)
            os.truncate(arguments[1], Path(arguments[1]).stat().st_size // 2)

    def _note(self, name: str, arguments: tuple[Any, ...]) -> None:
        if name in ("rename", "replace"):
            self.renamed.append((Path(arguments[0]), Path(arguments[1])))
        elif name == "fsync":
            number = os.fstat(arguments[0]).st_ino
            self.safe.add(number)
            self.renamed = [pair for pair in self.renamed if pair[1].parent.stat().st_ino != number]

    def _lose_what_is_not_synced(self) -> None:
        for path in self.folder.rglob("*"):
            if path.is_file() and path.stat().st_ino not in self.safe:
                os.truncate(path, 0)
        for source, target in reversed(self.renamed):
            if target.exists():
                self.real["rename"](target, source)


@dataclass(frozen=True)
class Scenario:
    """A save, what lies there before it, and what a crash during it may leave as the newest."""

    prepare: Callable[[Path], None]
    save: Callable[[Path], None]
    before: tuple[int, int] | None
    after: tuple[int, int]


def _nothing(folder: Path) -> None:
    folder.mkdir()


def _one(folder: Path) -> None:
    _save(folder, 1)


def _litter(folder: Path) -> None:
    """Step 1 was being replaced when a writer died, another died while it wrote, a third while it deleted."""
    _save(folder, 1)
    (folder / "step-1").rename(folder / ".replaced-step-1")
    for name in (".tmp-step-2-1", ".trash-step-0"):
        (folder / name).mkdir()
        (folder / name / "model.safetensors").write_bytes(b"half")


def _both(folder: Path) -> None:
    """A step 1 that has replaced another, which is still there."""
    _save(folder, 1, version=7)
    (folder / "step-1").rename(folder / ".replaced-step-1")
    elsewhere = folder.with_name("elsewhere")
    _save(elsewhere, 1)
    (elsewhere / "step-1").rename(folder / "step-1")
    elsewhere.rmdir()


SCENARIOS = {
    "first": Scenario(_nothing, lambda folder: _save(folder, 1), None, (1, 0)),
    "next": Scenario(_one, lambda folder: _save(folder, 2), (1, 0), (2, 0)),
    "same step": Scenario(_one, lambda folder: _save(folder, 1, version=1), (1, 0), (1, 1)),
    "after dead writers": Scenario(_litter, lambda folder: _save(folder, 2), (1, 0), (2, 0)),
    "same step after a dead writer": Scenario(_both, lambda folder: _save(folder, 1, version=1), (1, 0), (1, 1)),
}


@pytest.mark.parametrize("loses_power", [False, True], ids=["killed", "power cut"])
@pytest.mark.parametrize("torn", [False, True], ids=["before the call", "amid the call"])
@pytest.mark.parametrize("name", SCENARIOS)
def test_a_crash_at_any_call_leaves_the_old_or_the_new(
    tmp_path: Path, name: str, torn: bool, loses_power: bool
) -> None:
    scenario, outcomes = SCENARIOS[name], []
    for crash_at in range(200):
        folder = tmp_path / "checkpoints"
        scenario.prepare(folder)
        machine = Machine(folder, crash_at, torn=torn, loses_power=loses_power)
        ended = _run_in_child(machine, lambda folder=folder: scenario.save(folder))
        outcomes.append(_identity(load_newest(folder)))
        assert outcomes[-1] in (scenario.before, scenario.after), f"call {crash_at}"
        _assert_the_next_save_tidies(folder)
        shutil.rmtree(folder)
        if ended:
            break
    else:
        pytest.fail("the save never came to its end")
    assert crash_at >= 12  # the calls were really met
    assert outcomes[-1] == scenario.after  # a save that returned lasts, power cut or not
    assert outcomes == sorted(outcomes, key=lambda found: found == scenario.after)  # once new, always new


def _run_in_child(machine: Machine, work: Callable[[], None]) -> bool:
    """True when the work came to its end, False when the machine stopped it."""
    child = os.fork()
    if child == 0:
        try:
            machine.install()
            work()
            machine.stop(0)
        finally:
            os._exit(1)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, CRASHED)
    return code == 0


def _assert_the_next_save_tidies(folder: Path) -> None:
    _save(folder, 9)
    assert _identity(load_newest(folder)) == (9, 0)
    assert [path.name for path in folder.iterdir()] == ["step-9"]


def test_nothing_is_renamed_before_its_content_is_synced_nor_removed_before_the_new_name_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _save(tmp_path, 1)
    calls: list[tuple[str, str]] = []
    fsync, rename, unlink = os.fsync, os.rename, os.unlink

    def traced_fsync(descriptor: int) -> None:
        calls.append(("sync", Path(f"/proc/self/fd/{descriptor}").readlink().name))
        fsync(descriptor)

    def traced_rename(source: Path, target: Path) -> None:
        calls.append(("rename", Path(target).name))
        rename(source, target)

    def traced_unlink(name: str, **options: Any) -> None:
        calls.append(("unlink", Path(name).name))
        unlink(name, **options)

    if not Path("/proc/self/fd").exists():
        pytest.skip("descriptors have no names here")
    monkeypatch.setattr(os, "fsync", traced_fsync)
    monkeypatch.setattr(os, "rename", traced_rename)
    monkeypatch.setattr(os, "unlink", traced_unlink)
    _save(tmp_path, 2)
    published = calls.index(("rename", "step-2"))
    synced = [name for call, name in calls[:published] if call == "sync"]
    assert set(synced[:-1]) == {
        "values.json",
        "model.safetensors",
        "optimizer.safetensors",
        "manifest.json",
    }
    assert synced[-2] == "manifest.json"
    assert synced[-1].startswith(".tmp-step-2")
    assert calls[published + 1] == ("sync", tmp_path.name)
    assert calls[published + 2] == ("rename", ".trash-step-1")
    assert {call for call, _ in calls[published + 3 :]} == {"unlink"}


def test_kills_at_random_moments_lose_no_saved_checkpoint(tmp_path: Path) -> None:
    choose, step, saved_in_all = random.Random(0), 0, 0
    for _ in range(15):
        seen, tell = os.pipe()
        child = os.fork()
        if child == 0:
            _save_for_ever(tmp_path, step, tell)
        os.close(tell)
        os.read(seen, 1)  # the child is at work
        time.sleep(choose.uniform(0, 0.06))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        saved = 0
        while part := os.read(seen, 65536):
            saved += len(part)
        os.close(seen)
        loaded = load_newest(tmp_path)
        assert loaded is None or not loaded.skipped
        found = _identity(loaded) or (0, 0)
        assert step + saved <= found[0] <= step + saved + 1
        assert found[1] == found[0] % 10
        step, saved_in_all = found[0], saved_in_all + saved
    assert saved_in_all > 0


def _save_for_ever(folder: Path, step: int, tell: int) -> None:
    """Saves step after step, every other one twice, and tells of each that is complete."""
    try:
        os.write(tell, b"!")
        while True:
            step += 1
            if step % 2:
                _save(folder, step, version=step % 10, keep=2)
            _save(folder, step, version=step % 10, keep=2)
            os.write(tell, b".")
    finally:
        os._exit(1)
