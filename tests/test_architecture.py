"""The house as docs/architecture.md draws it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_imports_run_downward() -> None:
    pytest.importorskip("importlinter")
    from importlinter.cli import lint_imports

    before = Path.cwd()
    os.chdir(ROOT)
    try:
        assert lint_imports(no_cache=True) == 0
    finally:
        os.chdir(before)


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from preftune.cli.main import main; main(['--help']); "
        "print(sorted({'torch', 'transformers', 'pydantic', 'numpy'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stderr.strip() == "[]"


def test_nothing_is_loaded_by_pickle() -> None:
    forbidden = re.compile(r"import pickle|torch\.load\(|torch\.save\(|yaml\.load\(|joblib|weights_only=False")
    offenders = [path for path in ROOT.joinpath("preftune").rglob("*.py") if forbidden.search(path.read_text())]
    assert offenders == []


def test_every_setting_is_read_somewhere() -> None:
    from preftune.methods.registry import METHODS

    sources = "".join(path.read_text() for path in ROOT.joinpath("preftune").rglob("*.py"))
    names = {name for method in METHODS.values() for name in method.config_class().model_fields}
    unread = {name for name in names if not re.search(rf"(config|settings|self|\bc)\.{name}\b", sources)}
    assert unread == {"optim"}  # accepted for TRL's sake, every value asks for the same


def test_no_file_outgrows_its_room() -> None:
    long = {
        path.name: lines
        for path in ROOT.joinpath("preftune").rglob("*.py")
        if (lines := len(path.read_text().splitlines())) > 420
    }
    assert long == {}
