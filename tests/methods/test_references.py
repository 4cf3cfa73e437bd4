"""Which reference a run takes, that it stays what it was, and that the way it is computed changes no loss."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from preftune.errors import PreftuneError
from preftune.methods import pair_run
from preftune.methods import references as references_module
from preftune.methods import run as run_module
from preftune.models.cache import cache_folder
from tests.methods.tiny_runs import FULL, LORA, WAYS, curves, listener, losses, run
from tests.tiny_world import World, make_model, make_tokenizer


@pytest.mark.parametrize("way", WAYS)
def test_precomputed_and_live_reference_give_the_same_losses(way: str, world: World, tmp_path: Path) -> None:
    kinds = {}
    for name, once in (("once", True), ("live", False)):
        settings = WAYS[way] | {"precompute_ref_log_probs": once, "per_device_eval_batch_size": 3}
        kinds[name] = run(world, tmp_path / name, **settings).evaluation["reference"]["kind"]
    assert losses(tmp_path / "once") == pytest.approx(losses(tmp_path / "live"), abs=1e-5)
    assert kinds["once"].startswith("log-probs computed once")
    assert kinds["live"] == {"full": "separate model", "lora": "adapter switched off"}[way]


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        (FULL, "log-probs computed once, starting weights"),
        (LORA | {"num_train_epochs": 1}, "adapter switched off"),
        (LORA | {"num_train_epochs": 2}, "log-probs computed once, adapter switched off"),
    ],
)
def test_reference_is_the_cheapest_unless_told(
    settings: dict[str, Any], kind: str, world: World, tmp_path: Path
) -> None:
    assert run(world, tmp_path / "run", **settings).evaluation["reference"]["kind"] == kind


@pytest.mark.parametrize("once", [True, False])
def test_given_reference_is_the_one_that_is_asked(once: bool, world: World, tmp_path: Path) -> None:
    """The first loss is then not ln 2: policy and reference differ from the start."""
    other = tmp_path / "other"
    make_model(len(make_tokenizer()), seed=5).save_pretrained(other)
    settings = FULL | {"ref_model": str(other), "precompute_ref_log_probs": once, "tokenizer": str(world.model)}
    run(world, tmp_path / "run", **settings, beta=1.0)
    run(world, tmp_path / "swapped", **settings | {"model": str(other), "ref_model": str(world.model)}, beta=1.0)
    ours, theirs = (curves(tmp_path / name)[0] for name in ("run", "swapped"))
    assert ours["loss"] != pytest.approx(0.6931, abs=0.05)
    assert ours["rewards/chosen"] == pytest.approx(-theirs["rewards/chosen"], abs=1e-4)
    assert ours["rewards/rejected"] == pytest.approx(-theirs["rewards/rejected"], abs=1e-4)


def test_base_weights_under_an_adapter_keep_their_bits(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engines = _policies(monkeypatch)
    run(world, tmp_path / "run", **LORA, lora_target_modules=("q_proj", "down_proj"))
    base = load_file(world.model / "model.safetensors")
    kept = {
        name.removeprefix("base_model.model.").replace(".base_layer", ""): value
        for name, value in engines[0].model.state_dict().items()
        if "lora" not in name
    }
    assert kept.keys() == base.keys()
    assert all(torch.equal(kept[name], base[name]) for name in base)


def _move_table(found: dict[str, Any]) -> None:
    table = found["reference"].log_probs.__closure__
    (values,) = (cell.cell_contents for cell in table if isinstance(cell.cell_contents, Tensor))
    values[0, 0] += 1e-3


def _move_separate_model(found: dict[str, Any]) -> None:
    with torch.no_grad():
        found["separate"].model.model.norm.weight[0] += 1e-3


def _move_base(found: dict[str, Any]) -> None:
    with torch.no_grad():
        found["policy"][0].model.get_base_model().model.norm.weight[0] += 1e-3


@pytest.mark.parametrize(
    ("settings", "move", "kind"),
    [
        (FULL, _move_table, "log-probs computed once"),
        (FULL | {"precompute_ref_log_probs": False}, _move_separate_model, "separate model"),
        (LORA | {"precompute_ref_log_probs": False}, _move_base, "adapter switched off"),
    ],
    ids=["table", "separate", "adapter"],
)
def test_reference_that_moves_stops_the_run_at_the_next_evaluation(
    settings: dict[str, Any],
    move: Callable[[dict[str, Any]], None],
    kind: str,
    world: World,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found: dict[str, Any] = {"policy": _policies(monkeypatch)}
    guard, separate = pair_run.ReferenceGuard, references_module.separate_model
    monkeypatch.setattr(pair_run, "ReferenceGuard", lambda r: found.update(reference=r) or guard(r))
    monkeypatch.setattr(references_module, "separate_model", lambda e: found.update(separate=e) or separate(e))
    moving = listener([], lambda step: move(found) if step == 4 else None)
    with pytest.raises(PreftuneError, match=rf"{kind}.*has moved: at step 6"):
        run(world, tmp_path / "run", moving, **settings, eval_steps=3)
    assert [row["step"] for row in curves(tmp_path / "run")][-1] == 6
    assert not (tmp_path / "run" / "model").exists()


def test_second_run_takes_its_reference_from_the_cache(world: World, tmp_path: Path) -> None:
    run(world, tmp_path / "one", **FULL)
    kept = {path: path.stat().st_mtime_ns for path in cache_folder("reference").iterdir()}
    assert len(kept) == 2  # training and held-out pairs
    run(world, tmp_path / "two", **FULL, beta=0.3)
    assert {path: path.stat().st_mtime_ns for path in cache_folder("reference").iterdir()} == kept


def test_false_table_in_the_cache_is_not_believed(world: World, tmp_path: Path) -> None:
    """Policy and reference are one at the start, so their log-probs must agree."""
    from safetensors.torch import save_file

    run(world, tmp_path / "one", **FULL)
    for path in cache_folder("reference").iterdir():
        save_file({"log_probs": load_file(path)["log_probs"] + 1.0}, path)
    with pytest.raises(PreftuneError, match=r"should agree at the start and differ by 1"):
        run(world, tmp_path / "two", **FULL)


def _policies(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The policies of the runs to come."""
    found: list[Any] = []
    train = run_module.train
    monkeypatch.setattr(run_module, "train", lambda work, *rest: found.append(work.module) or train(work, *rest))
    return found
