"""``preftune stress`` as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from preftune.cli.main import main
from tests.tiny_world import pair_rows, write_rows


def test_curves_verdict_and_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_rows(tmp_path / "pairs.jsonl", pair_rows(120))
    page = tmp_path / "stress.html"
    command = ["stress", str(data), "--seeds", "3", "--only", "noise", "less data", "--report", str(page), "--json"]
    assert main(command) == 0
    document = json.loads(capsys.readouterr().out)
    assert set(document["curves"]) == {"noise", "less data"}
    assert document["undisturbed"]["low"] > 0.9
    text = page.read_text()
    assert "<svg" in text and "<script" not in text and document["verdict"][:20] in text


def test_an_unknown_problem_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_rows(tmp_path / "pairs.jsonl", pair_rows(120))
    assert main(["stress", str(data), "--only", "nois"]) == 2
    assert "There is no data problem nois" in capsys.readouterr().err
