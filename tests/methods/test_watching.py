"""What is found, and a KL beyond its cap, end a real run in an orderly way; it can go on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from preftune.diagnose import live
from preftune.diagnose.doctor import Diagnosis
from preftune.diagnose.findings import Finding
from preftune.diagnose.series import RunLog
from preftune.errors import PreftuneError
from preftune.training.stopping import exit_code
from tests.methods.tiny_runs import FULL, config_of, curves, listener, run, saved_weights
from tests.tiny_world import World, read_rows

LOUD: dict[str, Any] = {"learning_rate": 3e-2, "num_completions": 0, "num_samples": 0}


@pytest.fixture
def finds_at_step_4(monkeypatch: pytest.MonkeyPatch) -> None:
    """A detector that finds an error once four steps are logged, looked at every line."""

    def diagnose(log: RunLog, *, only_live: bool = False) -> Diagnosis:
        found = Finding("D29", "error", "certain", "Loss", "It is.", "So.", "Mend it.", 1, 4)
        return Diagnosis((found,) if log.last_step >= 4 else (), (), ("D29",))

    monkeypatch.setattr(live, "diagnose", diagnose)
    monkeypatch.setattr(live, "LINES", 1)
    monkeypatch.setattr(live, "SHARE", 1e9)


def test_finding_stops_the_run_which_then_goes_on_to_the_same_end(
    finds_at_step_4: None, world: World, tmp_path: Path
) -> None:
    straight = run(world, tmp_path / "straight", **FULL)
    assert straight.training.stopped is None
    notes: list[str] = []
    cut = run(world, tmp_path / "cut", listener(notes), **FULL, stop_on="error")
    assert (cut.training.steps, cut.training.stopped) == (4, "D29, Loss (--stop_on error)")
    assert sum("D29" in note for note in notes) == 1
    assert exit_code(str(cut.training.stopped)) == 1
    assert json.loads((tmp_path / "cut" / "findings.json").read_text())["findings"][0]["id"] == "D29"
    assert not (tmp_path / "cut" / "eval.json").exists()
    gone_on = run(world, tmp_path / "cut", **FULL, stop_on="error", resume=True)
    assert (gone_on.training.steps, gone_on.training.stopped) == (12, None)
    assert curves(tmp_path / "cut") == curves(tmp_path / "straight")
    first, second = (saved_weights(tmp_path / name) for name in ("straight", "cut"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_kl_beyond_its_cap_stops_the_run_and_a_larger_cap_lets_it_go_on(world: World, tmp_path: Path) -> None:
    cut = run(world, tmp_path / "run", **LOUD, method="kto", kl_cap=0.5)
    assert cut.training.stopped is not None and "above --kl_cap 0.5" in cut.training.stopped
    reached = read_rows(tmp_path / "run" / "metrics.jsonl")[-1]
    assert reached["kl"] > 0.5 and cut.training.steps < 24
    gone_on = run(world, tmp_path / "run", **LOUD, method="kto", kl_cap=1e6, resume=True)
    assert (gone_on.training.steps, gone_on.training.stopped) == (24, None)


@pytest.mark.parametrize("method", ["dpo", "sft", "reward"])
def test_method_that_measures_no_kl_has_no_cap(method: str, world: World, tmp_path: Path) -> None:
    with pytest.raises((PreftuneError, ValueError), match="kl_cap"):
        config_of(world, tmp_path / "run", method, kl_cap=1.0)


@pytest.mark.parametrize("method", ["grpo", "rloo"])
def test_cap_without_a_reference_is_refused(method: str, world: World, tmp_path: Path) -> None:
    settings = {"beta": 0.0, "kl_cap": 1.0, "reward_funcs": ("length",), "num_generations": 8}
    with pytest.raises(ValueError, match="kl_cap: without a beta"):
        config_of(world, tmp_path / "run", method, **settings)


def test_files_tell_what_detectors_read(world: World, tmp_path: Path) -> None:
    run(world, tmp_path / "run", **FULL, gradient_accumulation_steps=2, per_device_train_batch_size=4)
    rows = read_rows(tmp_path / "run" / "metrics.jsonl")
    steps, evaluations = ([row for row in rows if name in row] for name in ("loss", "eval_loss"))
    assert all(row.keys() >= {"grad_snr", "memory/rss_mib", "rewards/strongly_wrong"} for row in steps[:5])
    assert all(0 <= row["rewards/strongly_wrong"] <= 1 and row["memory/rss_mib"] > 50 for row in steps)
    probed = {(row["ref_logps/chosen"], row["ref_logps/rejected"]) for row in evaluations}
    assert len(probed) == 1
    spreads = json.loads((tmp_path / "run" / "eval.json").read_text())["spreads"]
    assert [len(spreads["length"][side]) for side in ("before", "after")] == [4, 4]
    assert "trained:" in (tmp_path / "run" / "config.yaml").read_text()
