"""``preftune audit`` as people and machines see it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from preftune.cli.audit_screen import shown_rows, shown_share
from preftune.cli.main import main
from preftune.cli.reward_fit import fit_reward_model
from preftune.data.read import read_comparisons, read_pairs
from tests.tiny_world import World, pair_rows, write_rows

CHEAP = ["--only", "texts"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rows = pair_rows(120)
    swapped = rows[0] | {"chosen": rows[0]["rejected"], "rejected": rows[0]["chosen"], "id": "swapped"}
    return write_rows(tmp_path / "pairs.jsonl", [*rows, swapped, {"prompt": "q"}])


def test_the_screen_shows_counts_findings_rows_and_mends(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", str(data), *CHEAP]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "read 122 rows, usable 121, left out 1 (1 missing-field)" in shown
    assert (
        "error Comparisons labelled both ways: 1 comparison in 2 rows. 1.7% (95% interval 0.5% to 5.8%, n = 121)"
        in shown
    )
    assert "rows " in shown and ", swapped" in shown and "mend Keep the label that most annotators gave" in shown


def test_strict_tells_errors_by_the_exit_code_and_json_holds_all(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["audit", str(data), *CHEAP, "--strict", "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert (document["read"], document["used"], document["rejected"]) == (122, 121, {"missing-field": 1})
    assert document["findings"][0]["id"] == "contradictions" and document["findings"][0]["rows"][1] == "swapped"
    assert document["not_run"] == {}
    assert main(["audit", str(write_rows(data.parent / "good.jsonl", pair_rows(120))), *CHEAP, "--strict"]) == 0


def test_rows_left_out_are_written_as_they_are_met(data: Path, tmp_path: Path) -> None:
    rejected = tmp_path / "rejected.jsonl"
    assert main(["audit", str(data), *CHEAP, "--rejected", str(rejected)]) == 0
    (row,) = (json.loads(line) for line in rejected.read_text().splitlines())
    assert (row["where"], row["field"], row["reason"]) == ("pairs.jsonl:122", "chosen", "missing-field")
    assert main(["audit", str(data), *CHEAP, "--rejected", str(tmp_path / "no" / "where.jsonl")]) == 2


def test_what_is_not_run_is_said_with_its_reason(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", str(data), "--only", "texts", "--only", "agreement", "--only", "leakage"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "not run: leakage (No evaluation data is given); agreement (The data has no annotators' votes)" in shown
    assert main(["audit", str(data), "--only", "texst"]) == 2
    assert "Did you mean texts?" in capsys.readouterr().err


def test_a_tokenizer_adds_what_max_length_cuts(world: World, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["audit", str(data), "--only", "truncation", "--tokenizer", str(world.model), "--max-length", "24", "--json"]
    assert main(argv) == 0
    truncation = json.loads(capsys.readouterr().out)["truncation"]
    assert truncation["max_length"] == 24 and truncation["n"] == 121


def test_a_sample_is_drawn_and_the_next_steps_are_told(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["audit", str(data), *CHEAP, "--sample", "10", "--seed", "3"]) == 0
    drawn = read_comparisons(tmp_path / "pairs-sample-10.jsonl").records
    assert len(drawn) == 10
    shown = " ".join(capsys.readouterr().out.split())
    assert "preftune annotate pairs-sample-10.jsonl -o pairs-sample-10-answers.jsonl --annotators 1 --open" in shown
    assert "--answers pairs-sample-10-answers.jsonl --seed 3" in shown
    answers = "".join(json.dumps({"id": one.id, "choice": "first"}) + "\n" for one in drawn)
    (tmp_path / "pairs-sample-10-answers.jsonl").write_text(answers)
    argv = ["audit", str(data), "--only", "person", "--answers", "pairs-sample-10-answers.jsonl", "--seed", "3"]
    assert main([*argv, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["person"]["judged"] == 10


def test_many_rows_are_shown_by_the_first_few() -> None:
    assert shown_rows([str(number) for number in range(1200)]) == "0, 1, 2, 3, 4 and 1,195 more"
    assert shown_rows(["a", "b"]) == "a, b"


def test_figures_are_shown_with_interval_and_n() -> None:
    share = {"value": 0.5, "low": 0.25, "high": None, "n": 1200, "unit": "share"}
    assert shown_share(share | {"high": 0.75}) == "50.0% (95% interval 25.0% to 75.0%, n = 1,200)"
    assert shown_share(share | {"low": None, "unit": ""}) == "0.5 (no interval, n = 1,200)"


def test_a_reward_model_can_stand_in_for_the_fast_model(world: World) -> None:
    settings = {"learning_rate": 5e-3, "per_device_train_batch_size": 8, "dtype": "float32", "num_train_epochs": 2}
    pairs = read_pairs(world.conversational).records
    margins = fit_reward_model(str(world.model), 0, **settings)(pairs[:40])(pairs[40:60])
    assert margins.shape == (20,) and np.isfinite(margins).all() and (margins != 0).all()
