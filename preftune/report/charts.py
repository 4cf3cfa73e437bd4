"""Training curves, and small pictures of an interval before and after."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from preftune.report.drawing import (
    COLOURS,
    Drawing,
    LegendEntry,
    new_figure,
    show_percent,
    show_tick,
    to_svg,
)
from preftune.report.measures import Measure, show_number
from preftune.report.run_files import finite

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_POINTS_A_LINE = 400
_SMOOTH_FROM = 60  # fewer logged points are readable as they are
_MOST_MARKS = 6  # on a chart; with more nothing of it is seen


@dataclass(frozen=True)
class Line:
    """One metric in a chart; ``keys`` are the names it may be logged under, the first found is drawn."""

    label: str
    colour: str
    keys: tuple[str, ...]
    is_evaluation: bool = False


@dataclass(frozen=True)
class Chart:
    """Which metrics are drawn together; ``shows_shares`` makes the axis percent, without bare figures."""

    name: str
    title: str
    note: str
    lines: tuple[Line, ...]
    shows_shares: bool = False


@dataclass(frozen=True)
class Mark:
    """A stretch of steps to be shaded in the charts of ``series``; ``label`` is short and safe to be drawn."""

    label: str
    title: str
    severity: str
    first: float
    last: float
    series: tuple[str, ...]


@dataclass(frozen=True)
class _Series:
    line: Line
    steps: list[float]
    values: list[float]
    gaps: list[float]  # steps whose value was NaN or infinite


def _train_and_eval(*names: str) -> tuple[Line, ...]:
    return (
        Line("training", "blue", names),
        Line("held out", "orange", tuple(f"eval_{name}" for name in names), is_evaluation=True),
    )


CHARTS = (
    Chart(
        "loss",
        "Loss",
        "What training lowers. Of methods that learn online it says nothing: look at the reward.",
        _train_and_eval("loss"),
    ),
    Chart(
        "accuracy",
        "Reward accuracy",
        "Share of pairs whose chosen answer has the higher reward; dashed: a coin flip. "
        "Training points are single batches, the measured accuracy with its interval is in the table above.",
        _train_and_eval("rewards/accuracies"),
        shows_shares=True,
    ),
    Chart(
        "rewards",
        "Rewards",
        "Beta times the log-prob ratio to the reference, in nats; the margin is chosen minus rejected.",
        (
            Line("chosen", "blue", ("rewards/chosen",)),
            Line("rejected", "orange", ("rewards/rejected",)),
            Line("margin", "grey", ("rewards/margins",)),
        ),
    ),
    Chart(
        "logps",
        "Log-probs of the answers",
        "Sums over the answer's tokens, in nats.",
        (Line("chosen", "blue", ("logps/chosen",)), Line("rejected", "orange", ("logps/rejected",))),
    ),
    Chart("reward", "Reward", "Mean score of the sampled answers.", _train_and_eval("reward")),
    Chart(
        "gold",
        "Gold reward",
        "Rewards that training never sees, on held-out prompts: they should rise with the others.",
        (Line("gold", "orange", ("gold/score",), is_evaluation=True),),
    ),
    Chart("kl", "KL from the reference", "In nats.", _train_and_eval("kl", "objective/kl")),
    Chart(
        "no_signal",
        "Groups without a signal",
        "Share of prompts whose completions all got the same reward: nothing is learned from them.",
        (Line("same reward", "blue", ("frac_reward_zero_std",)),),
        shows_shares=True,
    ),
    Chart(
        "cut",
        "Completions cut",
        "Share of sampled completions that reached the token limit.",
        (Line("cut", "blue", ("completions/clipped_ratio",)),),
        shows_shares=True,
    ),
    Chart(
        "clipped",
        "Clipped by the ratio",
        "Share of tokens, or of completions, whose gradient the clip has stopped.",
        (
            Line("below", "blue", ("clip_ratio/low_mean", "policy/clipfrac_avg")),
            Line("above", "orange", ("clip_ratio/high_mean",)),
        ),
        shows_shares=True,
    ),
    Chart(
        "value",
        "Value model",
        "Share of the returns' variance that it explains: 1 is all, 0 or less is nothing.",
        (Line("explained variance", "blue", ("explained_variance",)),),
    ),
    Chart("kl_coef", "Price of the KL", "A nat, in units of the reward.", (Line("kl_coef", "blue", ("kl_coef",)),)),
    Chart("entropy", "Entropy", "Mean over tokens, in nats.", _train_and_eval("entropy")),
    Chart("length", "Answer length", "Mean, in tokens.", _train_and_eval("completions/mean_length")),
    Chart(
        "repetition",
        "Sameness of the answers",
        "Shares of different three-token stretches, and of different openings, among all that was sampled.",
        (Line("stretches", "blue", ("rep/distinct3",)), Line("openings", "orange", ("rep/unique_prefix",))),
        shows_shares=True,
    ),
    Chart(
        "strongly_wrong",
        "Pairs ranked far the wrong way",
        "Share whose margin is below -2: mislabelled pairs gather there.",
        _train_and_eval("rewards/strongly_wrong"),
        shows_shares=True,
    ),
    Chart(
        "signal",
        "Signal in the gradient",
        "Power of the signal over that of the noise, from two halves of each step: 1 means half and half.",
        (Line("signal to noise", "blue", ("grad_snr",)),),
    ),
    Chart("memory", "Memory", "In MiB, of this process.", (Line("memory", "blue", ("memory/rss_mib",)),)),
    Chart("grad_norm", "Gradient norm", "Before clipping.", (Line("gradient norm", "blue", ("grad_norm",)),)),
    Chart("learning_rate", "Learning rate", "", (Line("learning rate", "blue", ("learning_rate",)),)),
)


def training_charts(rows: Sequence[dict[str, Any]], marks: Sequence[Mark] = ()) -> list[Drawing]:
    """A drawing for every chart with a finite point; ``rows`` are metrics by ascending step."""
    columns = _columns(rows, {key for chart in CHARTS for line in chart.lines for key in line.keys})
    drawings = []
    for chart in CHARTS:
        series = [found for line in chart.lines if (found := _series(columns, line))]
        if series:
            drawings.append(_draw(chart, series, [mark for mark in marks if _concerns(mark, chart)]))
    return drawings


def _concerns(mark: Mark, chart: Chart) -> bool:
    keys = {key for line in chart.lines for key in line.keys}
    return any(name in keys for name in mark.series)


def interval_chart(name: str, first: Measure | None, second: Measure | None) -> Markup:
    """Two dots with whiskers, the first hollow above, the second filled below; nothing for a bare share."""
    shown = [measure for measure in (first, second) if measure and measure.is_printable]
    ends = [end for m in shown for end in (m.value, m.low, m.high) if end is not None]
    if not ends:
        return Markup("")
    figure, axes = new_figure(2.3, 0.42)
    axes.set_position((0.0, 0.0, 1.0, 1.0))
    axes.set_axis_off()
    for height, measure, colour in ((1.0, first, "grey"), (0.0, second, "blue")):
        if measure and measure.is_printable:
            _whisker(axes, measure, height, colour)
    pad = (max(ends) - min(ends)) * 0.08 or abs(ends[0]) * 0.08 or 1.0
    axes.set_xlim(min(ends) - pad, max(ends) + pad)
    axes.set_ylim(-0.7, 1.7)
    return to_svg(figure, f"interval-{name}", "Before above, after below, with 95% intervals")


def _columns(rows: Sequence[dict[str, Any]], wanted: Collection[str]) -> dict[str, list[tuple[float, float]]]:
    """Step and value of every point of the metrics that are drawn."""
    columns: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        step = float(row["step"])
        for key in row.keys() & wanted:
            columns.setdefault(key, []).append((step, _number(row[key])))
    return columns


def _series(columns: Mapping[str, list[tuple[float, float]]], line: Line) -> _Series | None:
    for key in line.keys:
        found = columns.get(key, [])
        kept = [(step, value) for step, value in found if math.isfinite(value)]
        if kept:
            gaps = [step for step, value in found if not math.isfinite(value)]
            return _Series(line, [step for step, _ in kept], [value for _, value in kept], gaps)
    return None


def _number(value: Any) -> float:
    """What was not finite stands in the file as null; it and anything else unreadable count as NaN."""
    number = finite(value)
    return math.nan if number is None else number


def _draw(chart: Chart, series: list[_Series], marks: Sequence[Mark] = ()) -> Drawing:
    figure, axes = new_figure(4.7, 2.15)
    drawn = [_draw_series(axes, one, may_smooth=chart.name != "learning_rate") for one in series]
    _style_axes(axes, chart, series)
    gaps = sorted({step for one in series for step in one.gaps})
    axes.plot(gaps, [0.015] * len(gaps), "|", transform=axes.get_xaxis_transform(), color=COLOURS["alarm"])
    shown = marks[:_MOST_MARKS]
    _shade(axes, shown)
    notes = [chart.note]
    notes += [f"Shaded: {mark.label + ', ' if mark.label else ''}{mark.title}." for mark in shown]
    if len(marks) > len(shown):
        notes.append(f"{len(marks) - len(shown)} more findings are of this curve.")
    if gaps:
        notes.append(f"{len(gaps)} logged {'value was' if len(gaps) == 1 else 'values were'} not finite (red ticks).")
    if axes.get_yscale() == "log":
        notes.append("Logarithmic axis.")
    legend = [_legend_entry(chart, one) for one in series]
    svg = to_svg(figure, chart.name, _describe(chart, series))
    return Drawing(chart.title, " ".join(filter(None, notes)), legend, svg, any(drawn))


def _draw_series(axes: Axes, series: _Series, may_smooth: bool) -> bool:
    """Draws one line; true where a running mean lies over its points."""
    colour = COLOURS[series.line.colour]
    steps, values = series.steps, series.values
    is_sparse = len(values) <= 2
    marker = "o" if series.line.is_evaluation or is_sparse else ""
    look: dict[str, Any] = {"color": colour, "marker": marker, "markersize": 3.5, "markeredgewidth": 0}
    if series.line.is_evaluation or len(values) < _SMOOTH_FROM or not may_smooth:
        axes.plot(*_thin(steps, values), linewidth=1.5, **look)
        return False
    window = min(100, max(5, len(values) // 25))
    axes.plot(*_thin(steps, values), linewidth=0.6, alpha=0.35, **look)
    axes.plot(*_thin(steps, _running_mean(values, window)), linewidth=1.7, **look)
    return True


def _shade(axes: Axes, marks: Sequence[Mark]) -> None:
    """The steps of each finding; a single step gets a width that is seen."""
    begin, end = axes.get_xlim()
    least = 0.012 * (end - begin)
    for number, mark in enumerate(marks):
        colour = COLOURS[{"error": "alarm", "warning": "caution"}.get(mark.severity, "grey")]
        first, last = max(mark.first, begin), min(mark.last, end)
        if last < begin or first > end:
            continue
        middle, half = (first + last) / 2, max(last - first, least) / 2
        axes.axvspan(middle - half, middle + half, color=colour, alpha=0.12, linewidth=0, zorder=0.5)
        height = 0.97 - 0.1 * (number % 4)
        look: dict[str, Any] = {"color": colour, "fontsize": 7.5, "va": "top", "transform": axes.get_xaxis_transform()}
        is_right = middle > (begin + end) / 2
        place = middle + half if is_right else middle - half
        axes.text(place, height, mark.label, ha="right" if is_right else "left", zorder=4, **look)
    axes.set_xlim(begin, end)


def _running_mean(values: list[float], window: int) -> list[float]:
    """The mean of each value and up to ``window - 1`` before it."""
    import numpy as np

    # Summed anew for each window: a running total would never recover from one value like 1e20.
    first = [sum(values[:end]) / end for end in range(1, min(window, len(values) + 1))]
    whole = np.lib.stride_tricks.sliding_window_view(values, window).mean(axis=1) if len(values) >= window else ()
    return [*first, *map(float, whole)]


def _thin(steps: list[float], values: list[float]) -> tuple[list[float], list[float]]:
    """At most about ``_POINTS_A_LINE`` points: lowest and highest of each stretch, so that spikes stay."""
    stretch = math.ceil(2 * len(values) / _POINTS_A_LINE)
    if stretch <= 2:
        return steps, values
    kept: set[int] = {0, len(values) - 1}
    for start in range(0, len(values), stretch):
        indices = range(start, min(start + stretch, len(values)))
        kept |= {min(indices, key=values.__getitem__), max(indices, key=values.__getitem__)}
    order = sorted(kept)
    return [steps[index] for index in order], [values[index] for index in order]


def _style_axes(axes: Axes, chart: Chart, series: list[_Series]) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    values = [value for one in series for value in one.values]
    middle = sorted(values)[len(values) // 2] if values else 0.0
    if chart.name == "grad_norm" and values and min(values) > 0 and max(values) > 30 * middle:
        axes.set_yscale("log")
    else:
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5, min_n_ticks=3))
    show = show_percent if chart.shows_shares else show_tick
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: show(value)))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.margins(x=0.02, y=0.1)
    if chart.name == "accuracy":  # a coin flip
        axes.axhline(0.5, color=COLOURS["muted"], linewidth=0.8, linestyle=(0, (3, 3)), zorder=1)
    elif values and min(values) < 0 < max(values):
        axes.axhline(0.0, color=COLOURS["muted"], linewidth=0.7, zorder=1)


def _describe(chart: Chart, series: list[_Series]) -> str:
    """The chart in words for those who do not see it; shares keep their figures to the table."""
    told = []
    for one in series:
        figures = ""
        if one.values and not chart.shows_shares:
            figures = f" from {show_number(one.values[0])} to {show_number(one.values[-1])}"
        told.append(f"{one.line.label}{figures}")
    steps = [step for one in series for step in one.steps]
    span = f" over steps {min(steps):,.0f} to {max(steps):,.0f}" if steps else ""
    return f"{chart.title}, line chart{span}: {'; '.join(told)}"


def _legend_entry(chart: Chart, series: _Series) -> LegendEntry:
    last = show_number(series.values[-1]) if series.values and not chart.shows_shares else ""
    return LegendEntry(series.line.label, series.line.colour, series.line.is_evaluation, last)


def _whisker(axes: Axes, measure: Measure, height: float, colour: str) -> None:
    if measure.low is not None and measure.high is not None:
        axes.plot([measure.low, measure.high], [height, height], color=COLOURS[colour], linewidth=1.6)
        for end in (measure.low, measure.high):
            axes.plot([end, end], [height - 0.22, height + 0.22], color=COLOURS[colour], linewidth=1.2)
    fill = COLOURS["paper"] if colour == "grey" else COLOURS[colour]
    look: dict[str, Any] = {
        "markerfacecolor": fill,
        "markeredgecolor": COLOURS[colour],
        "markeredgewidth": 1.4,
    }
    axes.plot([measure.value], [height], "o", markersize=5.0, **look)
