"""The pictures of an evaluation: win rates, reward against KL, the best of n, and how long answers are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from preftune.report.drawing import (
    COLOURS,
    Drawing,
    LegendEntry,
    draw_point,
    new_figure,
    show_percent,
    show_tick,
    to_svg,
)
from preftune.report.measures import Measure

_RUN_COLOURS = ("blue", "orange", "grey", "muted")
_BINS = 24


@dataclass(frozen=True)
class Spot:
    """A checkpoint in the picture: its run's number, its own in the table, and whether it is the best."""

    run: int
    number: int
    reward: Measure
    kl: Measure
    is_best: bool


def win_rate_chart(rates: Sequence[tuple[int, Measure]]) -> Drawing | None:
    """A dot with its interval for each comparison, from the top and numbered as in the table; the line is even odds."""
    shown = [(number, rate) for number, rate in rates if rate.is_printable]
    if not shown:
        return None
    from matplotlib.ticker import FuncFormatter

    figure, axes = new_figure(5.2, 0.75 + 0.36 * len(shown))
    axes.set_position((0.06, 0.5 / (0.75 + 0.36 * len(shown)), 0.92, 1 - 0.62 / (0.75 + 0.36 * len(shown))))
    for place, (_, rate) in enumerate(shown):
        assert rate.low is not None and rate.high is not None
        is_clear = rate.low > 0.5 or rate.high < 0.5
        draw_point(axes, rate.value, -place, "blue" if is_clear else "grey", x_ends=(rate.low, rate.high))
    axes.axvline(0.5, color=COLOURS["muted"], linewidth=0.8, linestyle=(0, (3, 3)), zorder=1)
    axes.set_yticks([-place for place in range(len(shown))], [str(number) for number, _ in shown])
    axes.set_xlim(0, 1)
    axes.set_ylim(-len(shown) + 0.4, 0.6)
    axes.grid(visible=False, axis="y")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: show_percent(round(value, 2))))
    svg = to_svg(figure, "win-rates", "Win rates with their 95% intervals, against a line at even odds")
    return Drawing("Win rates", "Blue where the whole interval is on one side of 50%.", [], svg, is_smoothed=False)


def frontier_chart(spots: Sequence[Spot], runs: Sequence[str]) -> Drawing | None:
    """Reward up, KL across, a run a line in the order of its steps, the best one with a ring."""
    if not spots:
        return None
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    figure, axes = new_figure(5.6, 3.3)
    for run in sorted({spot.run for spot in spots}):
        own = [spot for spot in spots if spot.run == run]
        colour = _RUN_COLOURS[min(run, len(_RUN_COLOURS) - 1)]
        axes.plot([s.kl.value for s in own], [s.reward.value for s in own], color=COLOURS[colour], linewidth=1.2)
        for spot in own:
            draw_point(
                axes,
                spot.kl.value,
                spot.reward.value,
                colour,
                x_ends=_ends(spot.kl),
                y_ends=_ends(spot.reward),
                is_hollow=not spot.is_best,
            )
            axes.annotate(
                str(spot.number),
                (spot.kl.value, spot.reward.value),
                xytext=(5, 5),
                textcoords="offset points",
                fontsize=8,
                color=COLOURS["muted"],
            )
    for best in (spot for spot in spots if spot.is_best):
        ring: dict[str, Any] = {"markerfacecolor": "none", "markeredgecolor": COLOURS["alarm"], "markeredgewidth": 1.4}
        axes.plot([best.kl.value], [best.reward.value], "o", markersize=12, zorder=4, **ring)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, min_n_ticks=3))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: show_tick(value)))
    axes.margins(0.06, 0.1)
    legend = [
        LegendEntry(name, _RUN_COLOURS[min(number, 3)], is_evaluation=False, last="")
        for number, name in enumerate(runs[:3])
    ]
    note = "Reward (up) against KL from the start in nats (across), bars are 95% intervals; numbers as in the table, "
    svg = to_svg(figure, "frontier", "Reward against KL from the start for each checkpoint")
    return Drawing("Reward and KL of the checkpoints", f"{note}the ring is the best.", legend, svg, is_smoothed=False)


def best_of_chart(points: Sequence[tuple[int, Measure]], trained: Measure | None) -> Drawing | None:
    """The reward of the best of n against n, and as a band that of the trained model."""
    if not points:
        return None
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    figure, axes = new_figure(5.2, 2.7)
    sizes = [n for n, _ in points]
    axes.plot(sizes, [one.value for _, one in points], color=COLOURS["grey"], linewidth=1.3)
    for n, one in points:
        draw_point(axes, n, one.value, "grey", y_ends=_ends(one))
    legend = [LegendEntry("the start's best of n", "grey", is_evaluation=False, last="")]
    if trained is not None:
        if trained.low is not None and trained.high is not None:
            axes.axhspan(trained.low, trained.high, color=COLOURS["blue"], alpha=0.15, linewidth=0)
        axes.axhline(trained.value, color=COLOURS["blue"], linewidth=1.4)
        legend.append(LegendEntry("the trained model", "blue", is_evaluation=False, last=""))
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [str(n) for n in sizes])
    axes.minorticks_off()
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, min_n_ticks=3))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: show_tick(value)))
    svg = to_svg(figure, "best-of-n", "Mean reward of the best of n answers of the start, and of the trained model")
    note = "Mean reward (up) of the best of n answers (across). Bars and band are 95% intervals."
    return Drawing("Best of n", note, legend, svg, is_smoothed=False)


def lengths_chart(before: Sequence[float], after: Sequence[float]) -> Drawing | None:
    """The share of answers of each length, before and after, in the same bins."""
    if len(before) < 2 or len(after) < 2:
        return None
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    figure, axes = new_figure(5.2, 2.3)
    top = max(max(before), max(after), 1.0)
    edges = np.linspace(0, top, min(_BINS, int(top)) + 1)
    for lengths, colour in ((before, "grey"), (after, "blue")):
        counts, _ = np.histogram(lengths, edges)
        axes.stairs(counts / len(lengths), edges, color=COLOURS[colour], linewidth=1.6)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=4))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: show_percent(round(value, 3))))
    legend = [
        LegendEntry("the start", "grey", is_evaluation=False, last=""),
        LegendEntry("the model", "blue", is_evaluation=False, last=""),
    ]
    svg = to_svg(figure, "lengths", "Histogram of answer lengths in tokens, of the start and of the model")
    return Drawing("Answer lengths", "Share of answers by tokens.", legend, svg, is_smoothed=False)


def _ends(measure: Measure) -> tuple[float, float] | None:
    return None if measure.low is None or measure.high is None else (measure.low, measure.high)
