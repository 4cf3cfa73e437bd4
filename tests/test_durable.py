"""Whole or not at all."""

from __future__ import annotations

import errno
import json
import math
import os
import resource
from pathlib import Path

import pytest

from preftune import durable
from preftune.durable import write_all, write_file, write_json
from preftune.errors import PreftuneError, StorageFullError


def test_bytes_and_text_come_back_as_given(tmp_path: Path) -> None:
    write_file(tmp_path / "a", b"\x00\r\n\xff")
    write_file(tmp_path / "b", "κ\n")
    assert (tmp_path / "a").read_bytes() == b"\x00\r\n\xff"
    assert (tmp_path / "b").read_bytes() == "κ\n".encode()


def test_non_finite_numbers_become_null_at_any_depth(tmp_path: Path) -> None:
    write_json(tmp_path / "v.json", {"a": [math.nan, {"b": (math.inf, -math.inf, 0.1)}], "c": True})

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    document = json.loads((tmp_path / "v.json").read_text(), parse_constant=refuse)
    assert document == {"a": [None, {"b": [None, None, 0.1]}], "c": True}


def test_a_lone_surrogate_stays_valid_json(tmp_path: Path) -> None:
    write_json(tmp_path / "v.json", {"text": "a\ud800b"})
    assert json.loads((tmp_path / "v.json").read_bytes()) == {"text": "a\ud800b"}


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("call", ["write", "fsync"])
def test_a_full_disk_leaves_the_old_file_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    path = tmp_path / "config.yaml"
    write_file(path, "old")

    def full(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        with pytest.raises(StorageFullError) as caught:
            write_file(path, "new")
    assert caught.value.where == str(path)
    assert caught.value.mend
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_real_limit_on_the_file_size_is_a_full_disk(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_file(path, "old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(StorageFullError):
            write_file(path, b"x" * 10_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(PreftuneError, match="no-such-folder") as caught:
        write_file(tmp_path / "no-such-folder" / "file", "x")
    assert not isinstance(caught.value, StorageFullError)


def test_content_is_synced_before_the_name_and_the_name_before_the_return(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace

    def traced_fsync(descriptor: int) -> None:
        is_folder = os.path.samestat(os.fstat(descriptor), tmp_path.stat())
        calls.append("sync folder" if is_folder else "sync file")
        fsync(descriptor)

    def traced_replace(source: Path, target: Path) -> None:
        calls.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", traced_fsync)
    monkeypatch.setattr(os, "replace", traced_replace)
    write_file(tmp_path / "file", "x")
    assert calls == ["sync file", "rename", "sync folder"]


def test_a_write_taken_in_parts_is_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(durable.os, "write", lambda descriptor, data: write(descriptor, bytes(data[:3])))
    descriptor = os.open(tmp_path / "file", os.O_WRONLY | os.O_CREAT)
    write_all(descriptor, b"0123456789")
    os.close(descriptor)
    assert (tmp_path / "file").read_bytes() == b"0123456789"
