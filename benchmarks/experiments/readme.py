"""Puts the tables into this folder's README and draws the plots, from the results at hand and nothing else.

python -m benchmarks.experiments.readme
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from benchmarks.experiments import (
    arithmetic,
    bandit,
    enumerable,
    flipped_labels,
    frontier,
    group_size,
    kto_imbalance,
    label_noise,
    learned_proxies,
    length_bias,
    orpo_without_sft,
    over_optimisation,
)
from benchmarks.experiments.findings import Result, file_of
from benchmarks.experiments.plots import Panel, plot_of, write_plot
from benchmarks.table import between_markers

README = Path(__file__).with_name("README.md")
TABLES: Final[dict[str, Callable[[Result], str]]] = {
    "bandit": bandit.tables,
    "label-noise": label_noise.tables,
    "kto-imbalance": kto_imbalance.tables,
    "orpo-without-sft": orpo_without_sft.tables,
    "enumerable": enumerable.tables,
    "arithmetic": arithmetic.tables,
    "group-size": group_size.tables,
    "length-bias": length_bias.tables,
    "over-optimisation": over_optimisation.tables,
    "learned-proxies": learned_proxies.tables,
    "frontier": frontier.tables,
    "flipped-labels": flipped_labels.tables,
}
PLOTS: Final[dict[str, Callable[[Result], Sequence[Panel]]]] = {
    "enumerable": enumerable.plot,
    "arithmetic": arithmetic.plot,
    "group-size": group_size.plot,
    "length-bias": length_bias.plot,
    "over-optimisation": over_optimisation.plot,
    "learned-proxies": learned_proxies.plot,
    "frontier": frontier.plot,
}


def main() -> None:
    """The command."""
    README.write_text(with_tables(README.read_text(encoding="utf-8")), encoding="utf-8")
    for name, panels_of in PLOTS.items():
        write_plot(plot_of(name), panels_of(_result(name)))


def with_tables(text: str) -> str:
    """``text`` with each experiment's tables between its markers."""
    for name, tables in TABLES.items():
        text = between_markers(text, name, tables(_result(name)))
    return text


def _result(name: str) -> Result:
    return json.loads(file_of(name).read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
