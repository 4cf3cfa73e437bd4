"""Puts the tables into this folder's README, from the results at hand and nothing else.

python -m benchmarks.experiments.readme
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Final

from benchmarks.experiments import bandit, kto_imbalance, label_noise, orpo_without_sft
from benchmarks.experiments.findings import Result, file_of
from benchmarks.table import between_markers

README = Path(__file__).with_name("README.md")
TABLES: Final[dict[str, Callable[[Result], str]]] = {
    "bandit": bandit.tables,
    "label-noise": label_noise.tables,
    "kto-imbalance": kto_imbalance.tables,
    "orpo-without-sft": orpo_without_sft.tables,
}


def main() -> None:
    """The command."""
    README.write_text(with_tables(README.read_text(encoding="utf-8")), encoding="utf-8")


def with_tables(text: str) -> str:
    """``text`` with each experiment's tables between its markers."""
    for name, tables in TABLES.items():
        result = json.loads(file_of(name).read_text(encoding="utf-8"))
        text = between_markers(text, name, tables(result))
    return text


if __name__ == "__main__":
    main()
