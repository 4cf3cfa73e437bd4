"""The exit code of a run that was ended, and what is said of going on."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from preftune.cli import train as train_module
from preftune.methods import run as run_module
from preftune.methods.registry import METHODS
from preftune.methods.run import RunSummary
from preftune.report import page
from preftune.training.loop import TrainingResult

FINDINGS = {"findings": [{"severity": "error", "title": "Loss is not finite"}]}


@pytest.mark.parametrize(
    ("stopped", "code", "told"),
    [
        ("SIGTERM", 143, "stopped by SIGTERM after step 7; its checkpoint is written. The same command with --resume"),
        ("D29, Loss (--stop_on error)", 1, "stopped by D29, Loss (--stop_on error) after step 7"),
        ("kl is 12 nats at step 7, above --kl_cap 10", 1, "with --resume and a larger --kl_cap goes on."),
    ],
)
def test_reason_decides_the_exit_code(
    stopped: str, code: int, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    summary = RunSummary(tmp_path, TrainingResult(7, 0, 1.0, stopped), {}, {}, FINDINGS)
    monkeypatch.setattr(run_module, "run", lambda *arguments: summary)
    monkeypatch.setattr(page, "write_report", lambda folder: folder / "report.html")
    outcome = train_module.train_and_report(SimpleNamespace(), METHODS["dpo"], "preftune dpo")
    assert outcome.exit_code == code
    assert outcome.document["findings"] == ["error: Loss is not finite"]
    assert told in " ".join(capsys.readouterr().err.split())
