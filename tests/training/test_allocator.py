"""Whoever set the allocator by environment keeps his settings."""

from __future__ import annotations

import ctypes
import platform

import pytest

from preftune.training.allocator import tune_allocator


@pytest.mark.parametrize("name", ["MALLOC_ARENA_MAX", "GLIBC_TUNABLES"])
def test_settings_of_the_environment_are_kept(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "1")
    monkeypatch.setattr(ctypes, "CDLL", lambda *_: pytest.fail("the allocator was touched"))
    assert tune_allocator() is False


def test_other_c_libraries_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("musl", "1.2"))
    monkeypatch.setattr(ctypes, "CDLL", lambda *_: pytest.fail("the allocator was touched"))
    assert tune_allocator() is False


def test_large_blocks_stay_with_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    told: dict[int, int] = {}

    class Library:
        @staticmethod
        def mallopt(option: int, value: int) -> int:
            told[option] = value
            return 1

    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.36"))
    monkeypatch.setattr(ctypes, "CDLL", lambda *_: Library)
    for name in ("MALLOC_ARENA_MAX", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"):
        monkeypatch.delenv(name, raising=False)
    assert tune_allocator() is True
    assert told[-4] == 0  # no memory by mmap, which goes back at once
    assert told[-1] == 2**31 - 1
