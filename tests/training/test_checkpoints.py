"""What is saved comes back to the last bit, or is passed over with a reason."""

from __future__ import annotations

import errno
import json
import math
import os
import random
import resource
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from preftune.errors import PreftuneError, StorageFullError
from preftune.training import checkpoints
from preftune.training.checkpoints import list_checkpoints, load_newest, save_checkpoint


def _state(step: int) -> tuple[dict[str, dict[str, Tensor]], dict[str, object]]:
    tensors = {
        "model": {"weight": torch.full((2, 3), float(step))},
        "optimizer": {"m": torch.arange(step + 1)},
    }
    return tensors, {"step": step}


def _save(folder: Path, step: int, keep: int | None = None) -> Path:
    return save_checkpoint(folder, step, *_state(step), keep=keep)


def _loaded_step(folder: Path) -> int:
    """The step of the newest checkpoint, after a look at its content."""
    loaded = load_newest(folder)
    assert loaded is not None
    tensors, values = _state(loaded.step)
    assert loaded.values == values
    assert torch.equal(loaded.tensors["model"]["weight"], tensors["model"]["weight"])
    assert torch.equal(loaded.tensors["optimizer"]["m"], tensors["optimizer"]["m"])
    return loaded.step


DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.bool]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0, 4), (3, 5)])
def test_tensors_come_back_to_the_last_bit(tmp_path: Path, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    tensor = (torch.randn(shape) * 3).to(dtype)
    save_checkpoint(tmp_path, 1, {"model": {"a.b": tensor}}, {}, keep=None)
    loaded = load_newest(tmp_path)
    assert loaded is not None
    back = loaded.tensors["model"]["a.b"]
    assert back.dtype == dtype
    assert back.shape == tensor.shape
    assert torch.equal(back, tensor)


def test_nan_and_infinities_in_tensors_come_back(tmp_path: Path) -> None:
    tensor = torch.tensor([math.nan, math.inf, -math.inf, -0.0])
    save_checkpoint(tmp_path, 1, {"model": {"a": tensor}}, {}, keep=None)
    loaded = load_newest(tmp_path)
    assert loaded is not None
    assert torch.equal(loaded.tensors["model"]["a"].view(torch.int32), tensor.view(torch.int32))


def test_shared_and_strided_tensors_are_saved_as_their_values(tmp_path: Path) -> None:
    whole = torch.arange(12.0).reshape(3, 4)
    group = {
        "tied": whole,
        "tied too": whole,
        "transposed": whole.T,
        "row": whole[1],
        "column": whole[:, 2],
        "parameter": nn.Parameter(torch.ones(2)),
        "expanded": torch.ones(1).expand(3),
    }
    save_checkpoint(tmp_path, 1, {"model": group}, {}, keep=None)
    loaded = load_newest(tmp_path)
    assert loaded is not None
    assert loaded.tensors["model"].keys() == group.keys()
    assert all(torch.equal(loaded.tensors["model"][name], tensor) for name, tensor in group.items())


def test_values_come_back_as_json_can_say_them(tmp_path: Path) -> None:
    values = {
        "beta": 0.1 + 0.2,
        "best": -math.inf,
        "averages": {"loss": [math.nan, 3.0]},
        "order": [2**60, -1],
        "none": None,
        "flag": True,
        "text": "κ \ud800",
        "tiny": 5e-324,
        "minus_zero": -0.0,
    }
    save_checkpoint(tmp_path, 1, {}, values, keep=None)
    loaded = load_newest(tmp_path)
    assert loaded is not None
    assert repr(loaded.values) == repr(values)


@pytest.mark.parametrize("values", [{"a": {1: 2}}, {"a": {1, 2}}, {"a": torch.ones(1)}])
def test_what_json_would_change_is_refused_and_leaves_no_litter(tmp_path: Path, values: dict[str, object]) -> None:
    with pytest.raises(TypeError):
        save_checkpoint(tmp_path, 1, {}, values, keep=None)
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_leaves_the_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="name of a file"):
        save_checkpoint(tmp_path, 1, {"../model": {}}, {}, keep=None)


def test_loaded_tensors_may_be_changed_without_changing_the_checkpoint(tmp_path: Path) -> None:
    _save(tmp_path, 3)
    loaded = load_newest(tmp_path)
    assert loaded is not None
    loaded.tensors["model"]["weight"].add_(1)
    assert _loaded_step(tmp_path) == 3


def test_a_checkpoint_holds_safetensors_and_json_only(tmp_path: Path) -> None:
    path = _save(tmp_path / "checkpoints", 7)
    assert path == tmp_path / "checkpoints" / "step-7"
    assert {file.name for file in path.iterdir()} == {
        "model.safetensors",
        "optimizer.safetensors",
        "values.json",
        "manifest.json",
    }
    manifest = json.loads((path / "manifest.json").read_text())
    assert manifest["format"] == checkpoints.FORMAT
    assert manifest["step"] == 7
    assert manifest["files"].keys() == {"model.safetensors", "optimizer.safetensors", "values.json"}
    modes = {file.stat().st_mode for file in path.iterdir()}
    assert len(modes) == 1  # whoever may read one of the files may read all


def test_no_folder_or_an_empty_one_holds_no_checkpoint(tmp_path: Path) -> None:
    assert load_newest(tmp_path / "absent") is None
    assert load_newest(tmp_path) is None
    assert list_checkpoints(tmp_path / "absent") == []


def test_steps_are_ordered_as_numbers_and_other_names_ignored(tmp_path: Path) -> None:
    for step in (9, 10, 0):
        _save(tmp_path, step)
    for name in ("20", "step-", "step-011", "step-x", ".tmp-step-30-1", ".trash-step-31", "step-12.old"):
        (tmp_path / name).mkdir()
    (tmp_path / "step-40").touch()
    assert list_checkpoints(tmp_path) == [0, 9, 10]
    assert _loaded_step(tmp_path) == 10


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    for step in (2, 4, 6, 8, 10):
        _save(tmp_path, step, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-10", "step-8"]
    with pytest.raises(ValueError, match="at least 1"):
        _save(tmp_path, 12, keep=0)


def test_damaged_later_ones_do_not_push_out_the_one_just_saved(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        _save(tmp_path, step)
    for step in (3, 4):
        (tmp_path / f"step-{step}" / "manifest.json").unlink()
    assert _loaded_step(tmp_path) == 2
    shutil.rmtree(tmp_path / "step-2")
    _save(tmp_path, 2, keep=2)
    assert list_checkpoints(tmp_path) == [1, 2]


def test_a_checkpoint_that_cannot_be_deleted_does_not_stop_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "no")

    _save(tmp_path, 1, keep=1)
    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", refuse)
        _save(tmp_path, 2, keep=1)
    assert _loaded_step(tmp_path) == 2
    _save(tmp_path, 3, keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-3"]


def test_one_of_the_same_step_is_replaced(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 5, {"model": {}}, {"is_new": False}, keep=1)
    save_checkpoint(tmp_path, 5, {}, {"is_new": True}, keep=1)
    loaded = load_newest(tmp_path)
    assert loaded is not None
    assert loaded.values == {"is_new": True}
    assert loaded.tensors == {}
    assert [path.name for path in tmp_path.iterdir()] == ["step-5"]


def test_any_flipped_bit_is_found(tmp_path: Path) -> None:
    _save(tmp_path, 1)
    path = _save(tmp_path, 2)
    choose = random.Random(0)
    for file in sorted(path.iterdir()):
        if file.name == "manifest.json":
            continue
        good = file.read_bytes()
        for _ in range(40):
            bad = bytearray(good)
            bad[choose.randrange(len(bad))] ^= 1 << choose.randrange(8)
            file.write_bytes(bad)
            loaded = load_newest(tmp_path)
            assert loaded is not None
            assert loaded.step == 1
            assert "step-2" in loaded.skipped[0]
            assert f"{file.name} has changed" in loaded.skipped[0]
        file.write_bytes(good)
    assert _loaded_step(tmp_path) == 2


def test_a_damaged_manifest_never_lets_wrong_content_through(tmp_path: Path) -> None:
    _save(tmp_path, 1)
    file = _save(tmp_path, 2) / "manifest.json"
    good = file.read_bytes()
    for place in range(len(good)):
        bad = bytearray(good)
        bad[place] ^= 1 << (place % 8)
        file.write_bytes(bad)
        assert _loaded_step(tmp_path) in (1, 2)  # 2: a flip between blanks changes nothing


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "values.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["missing", "empty", "half", "longer", "folder"])
def test_damaged_files_are_passed_over_with_a_reason(tmp_path: Path, name: str, damage: str) -> None:
    _save(tmp_path, 1)
    file = _save(tmp_path, 2) / name
    content = file.read_bytes()
    file.unlink()
    if damage == "folder":
        file.mkdir()
    elif damage != "missing":
        file.write_bytes({"empty": b"", "half": content[: len(content) // 2], "longer": content + b"!"}[damage])
    assert _loaded_step(tmp_path) == 1
    loaded = load_newest(tmp_path)
    assert loaded is not None
    assert len(loaded.skipped) == 1
    assert "step-2" in loaded.skipped[0]
    assert name in loaded.skipped[0]


def test_each_newer_one_that_was_passed_over_is_told(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        _save(tmp_path, step)
    (tmp_path / "step-3" / "manifest.json").unlink()
    shutil.rmtree(tmp_path / "step-2")
    (tmp_path / "step-2").mkdir()
    loaded = load_newest(tmp_path)
    assert loaded is not None
    assert ["step-3" in loaded.skipped[0], "step-2" in loaded.skipped[1]] == [True, True]
    assert loaded.path == tmp_path / "step-1"


@pytest.mark.parametrize(("key", "value"), [("format", 99), ("step", 3), ("files", {}), ("files", [1])])
def test_a_foreign_manifest_is_passed_over(tmp_path: Path, key: str, value: object) -> None:
    _save(tmp_path, 1)
    file = _save(tmp_path, 2) / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}))
    assert _loaded_step(tmp_path) == 1


def test_when_all_are_damaged_the_run_does_not_start_anew_in_silence(tmp_path: Path) -> None:
    (_save(tmp_path, 1) / "manifest.json").unlink()
    with pytest.raises(PreftuneError, match=r"None of the checkpoints.*step-1.*manifest.json is missing"):
        load_newest(tmp_path)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_at_any_call_leaves_the_earlier_one_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    _save(tmp_path, 1)
    for name in ("write", "fsync", "mkdir", "rename"):
        original, failed_at = getattr(os, name), 0
        for failing in range(20):
            calls = 0

            def full(*arguments: object, fail_at: int = failing, call=original, **options: object) -> object:
                nonlocal calls
                calls += 1
                if calls > fail_at:
                    raise OSError(code, os.strerror(code))
                return call(*arguments, **options)

            with monkeypatch.context() as patch:
                patch.setattr(os, name, full)
                try:
                    _save(tmp_path, 2)
                    break
                except StorageFullError as error:
                    assert error.where == str(tmp_path / "step-2")
                    failed_at = failing + 1
            assert _loaded_step(tmp_path) in (1, 2)
            assert {path.name for path in tmp_path.iterdir()} <= {"step-1", "step-2"}
            shutil.rmtree(tmp_path / "step-2", ignore_errors=True)
        assert failed_at > 0
        shutil.rmtree(tmp_path / "step-2")


def test_a_real_limit_on_file_sizes_is_a_full_disk(tmp_path: Path) -> None:
    _save(tmp_path, 1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(StorageFullError, match="step-2"):
            save_checkpoint(tmp_path, 2, {"model": {"a": torch.zeros(100_000)}}, {}, keep=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in tmp_path.iterdir()] == ["step-1"]
    assert _loaded_step(tmp_path) == 1
