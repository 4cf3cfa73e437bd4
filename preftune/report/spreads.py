"""Histograms of rewards and lengths before and after: what a mean alone hides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from preftune.report.charts import COLOURS
from preftune.report.drawing import Drawing, LegendEntry, new_figure, show_tick, to_svg
from preftune.report.measures import show_number
from preftune.report.run_files import finite, mapping

FEWEST, BINS = 12, 24
_TITLES = {
    "reward": ("Rewards before and after", "of completions to held-out prompts"),
    "gold": ("Gold rewards before and after", "of the same completions, by rewards that training never saw"),
    "length": ("Lengths before and after", "in tokens, of answers to held-out prompts"),
}


def view_spreads(evaluation: Mapping[str, Any], samples: Sequence[Mapping[str, Any]]) -> list[Drawing]:
    """Of eval.json's single values, of lengths else from samples.jsonl; nothing of fewer than a dozen on a side."""
    found = {name: _sides(mapping(evaluation.get("spreads")).get(name)) for name in _TITLES}
    found["length"] = found["length"] or _lengths(samples)
    return [_draw(name, *sides) for name, sides in found.items() if sides is not None]


def _sides(spread: Any) -> tuple[list[float], list[float]] | None:
    before, after = (_numbers(mapping(spread).get(side)) for side in ("before", "after"))
    return (before, after) if min(len(before), len(after)) >= FEWEST else None


def _lengths(samples: Sequence[Mapping[str, Any]]) -> tuple[list[float], list[float]] | None:
    sides = {
        stage: [one.get("tokens") for one in samples if one.get("stage") == stage] for stage in ("before", "after")
    }
    return _sides(sides)


def _numbers(values: Any) -> list[float]:
    return [n for value in values if (n := finite(value)) is not None] if isinstance(values, list) else []


def _draw(name: str, before: list[float], after: list[float]) -> Drawing:
    import numpy as np
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    title, said = _TITLES[name]
    edges = np.histogram_bin_edges([*before, *after], bins=min(BINS, max(6, (len(before) + len(after)) // 8)))
    figure, axes = new_figure(4.7, 2.15)
    heights = [np.histogram(values, edges)[0] / len(values) for values in (before, after)]
    axes.stairs(heights[1], edges, fill=True, color=COLOURS["blue"], alpha=0.35)
    axes.stairs(heights[1], edges, color=COLOURS["blue"], linewidth=1.4)
    axes.stairs(heights[0], edges, color=COLOURS["grey"], linewidth=1.6)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=4))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}%"))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: show_tick(value)))
    axes.margins(x=0.02)
    middle = [show_number(median(values)) for values in (before, after)]
    note = f"Shares {said}; n = {len(before)} and {len(after)}, medians {middle[0]} and {middle[1]}."
    legend = [LegendEntry("before", "grey", False, ""), LegendEntry("after", "blue", False, "")]
    label = f"{title}, histogram: median {middle[0]} before, {middle[1]} after"
    return Drawing(title, note, legend, to_svg(figure, f"spread-{name}", label), False)
