"""Completions that TRL's online trainers write beside a run: ``completions/completions_00010.parquet``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from preftune.diagnose.readers.rows import as_number
from preftune.diagnose.series import Sample

_MOST_FILES, _MOST_ROWS = 40, 64
_NO_REWARD = {"step", "prompt", "completion", "advantage", "image", "images"}


def read_completions(folder: Path, notes: list[str]) -> Sequence[Sample]:
    """Samples of files spread over the run; none where there are none."""
    files = sorted(folder.glob("completions_*.parquet"))
    if len(files) > _MOST_FILES:
        files = [files[round(i * (len(files) - 1) / (_MOST_FILES - 1))] for i in range(_MOST_FILES)]
    samples: list[Sample] = []
    for path in files:
        try:
            samples += _read(path)
        except Exception:  # pyarrow has errors of its own for each kind of damage
            notes.append(f"{path.name} is damaged and was left out.")
    return samples


def _read(path: Path) -> list[Sample]:
    import pyarrow.parquet as parquet

    rows: list[dict[str, Any]] = parquet.read_table(path).slice(0, _MOST_ROWS).to_pylist()
    return [
        Sample(int(row["step"]), _text(row.get("prompt")), _text(row["completion"]), reward=_reward(row))
        for row in rows
        if row.get("completion") is not None and as_number(row.get("step")) is not None
    ]


def _reward(row: dict[str, Any]) -> float | None:
    """The sum of the rewards, their weights not being in the file."""
    known = [number for key, value in row.items() if key not in _NO_REWARD and (number := as_number(value)) is not None]
    return sum(known) if known else None


def _text(content: Any) -> str:
    if isinstance(content, list):
        return "\n".join(str(part.get("content", "")) for part in content if isinstance(part, dict))
    return str(content or "")
