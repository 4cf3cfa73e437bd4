"""How far a reward model's scores can be believed: sure and right, length alone, and the spread of its margins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

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
from preftune.report.measures import Measure, read_measure, show_interval, show_number, show_value
from preftune.report.run_files import finite, mapping

_MOST_BINS = 60
_AS_SCORED, _AT_TEMPERATURE = "as scored", "divided by the temperature"


@dataclass(frozen=True)
class CalibrationView:
    """What the page says of a reward model's calibration; every list may be empty."""

    sentences: list[str]
    errors: list[tuple[str, Measure]]
    lengths: list[tuple[str, Measure]]
    charts: list[Drawing]


class _Bin(NamedTuple):
    n: int
    confidence: float
    accuracy: float
    low: float
    high: float


class _Bar(NamedTuple):
    low: float
    high: float
    n: int


def view_calibration(tables: Mapping[str, Any], evaluation: Mapping[str, Any]) -> CalibrationView | None:
    """The section from ``calibration.json`` and the measures of ``eval.json``, or None where there is no table."""
    if not tables:
        return None
    after = mapping(evaluation.get("after"))
    raw, scaled = (_bins(tables.get(name)) for name in ("reliability", "reliability_at_temperature"))
    lengths = _buckets(tables.get("by_length_difference"))
    bars = _bars(tables.get("margins"))
    charts = [_reliability(raw, scaled)] if raw else []
    charts += [_by_length(lengths)] if lengths else []
    charts += [_histogram(bars)] if bars else []
    return CalibrationView(
        sentences=_sentences(after),
        errors=_errors(tables, after),
        lengths=[(_tokens(low, high), measure) for low, high, measure in lengths],
        charts=charts,
    )


# --- what the file holds --------------------------------------------------------------------------------


def _bins(raw: Any) -> list[_Bin]:
    found = []
    for entry in _entries(raw):
        n, *rest = (finite(entry.get(key)) for key in ("n", "confidence", "accuracy", "low", "high"))
        figures = [figure for figure in rest if figure is not None]
        if n is not None and len(figures) == 4:
            found.append(_Bin(int(n), *figures))
    return found


def _buckets(raw: Any) -> list[tuple[float, float, Measure]]:
    """Pairs whose chosen answer is so many tokens longer: from, to, accuracy."""
    found = []
    for entry in _entries(raw):
        low, high, measure = finite(entry.get("from")), finite(entry.get("to")), read_measure("accuracy", entry)
        if low is not None and high is not None and measure is not None and measure.is_printable:
            found.append((low, high, measure))
    return found


def _bars(raw: Any) -> list[_Bar]:
    found = []
    for entry in _entries(raw):
        low, high, n = (finite(entry.get(key)) for key in ("from", "to", "n"))
        if low is not None and high is not None and n is not None and low < high:
            found.append(_Bar(low, high, int(n)))
    return found


def _entries(raw: Any) -> list[Mapping[str, Any]]:
    return [entry for entry in raw[:_MOST_BINS] if isinstance(entry, Mapping)] if isinstance(raw, list) else []


def _errors(tables: Mapping[str, Any], after: Mapping[str, Any]) -> list[tuple[str, Measure]]:
    """The calibration error of the scores as they are, and of the scores divided by the temperature."""
    measures = (
        (_AS_SCORED, after.get("calibration_error")),
        (_AT_TEMPERATURE, tables.get("error_at_temperature")),
    )
    found = ((label, read_measure("calibration_error", raw)) for label, raw in measures)
    return [(label, measure) for label, measure in found if measure is not None]


def _sentences(after: Mapping[str, Any]) -> list[str]:
    told = []
    temperature = read_measure("temperature", after.get("temperature"))
    if temperature is not None:
        side = "too sure of itself" if temperature.value > 1 else "less sure than it could be"
        told.append(
            f"Divided by {show_number(temperature.value)} ({show_interval(temperature)}) the margins are as sure as "
            f"they are right: as scored, the model is {side}. model/reward.json holds the factor, and scoring divides "
            "by it. It was fitted on these same pairs, so the error after it is a little too good."
        )
    accuracy, longer = (read_measure(name, after.get(name)) for name in ("accuracy", "longer_wins"))
    if accuracy is not None and longer is not None and accuracy.is_printable and longer.is_printable:
        told.append(
            f"Taking the longer answer is right in {show_value(longer)} ({show_interval(longer)}); "
            f"the model is right in {show_value(accuracy)} ({show_interval(accuracy)})."
        )
    return told


# --- charts ---------------------------------------------------------------------------------------------


def _reliability(raw: Sequence[_Bin], scaled: Sequence[_Bin]) -> Drawing:
    from matplotlib.ticker import FuncFormatter

    figure, axes = new_figure(4.7, 2.6)
    axes.plot([0.5, 1.0], [0.5, 1.0], color=COLOURS["muted"], linewidth=0.8, linestyle=(0, (3, 3)), zorder=1)
    legend = [LegendEntry(_AS_SCORED, "grey", True, "")]
    for one in raw:
        draw_point(axes, one.confidence, one.accuracy, "grey", y_ends=(one.low, one.high), is_hollow=True)
    if scaled:
        legend.append(LegendEntry(_AT_TEMPERATURE, "blue", True, ""))
    for one in scaled:
        draw_point(axes, one.confidence, one.accuracy, "blue", y_ends=(one.low, one.high))
    percent = FuncFormatter(lambda value, _: show_percent(value))
    axes.xaxis.set_major_formatter(percent)
    axes.yaxis.set_major_formatter(percent)
    axes.set_xlim(0.49, 1.01)
    axes.set_ylim(min([0.45, *(one.low for one in (*raw, *scaled))]) - 0.02, 1.03)
    pairs = sum(one.n for one in raw)
    return Drawing(
        "Sure and right",
        f"Across: how sure the model is, sigmoid of the margin; up: how often it is right, with 95% intervals. "
        f"{len(raw)} groups of equal size, n = {pairs:,} pairs; on the dashed line it is as sure as it is right.",
        legend,
        to_svg(figure, "reliability", f"Reliability diagram of {pairs:,} pairs in {len(raw)} groups"),
        is_smoothed=False,
    )


def _by_length(buckets: Sequence[tuple[float, float, Measure]]) -> Drawing:
    from matplotlib.ticker import FuncFormatter

    figure, axes = new_figure(4.7, 2.6)
    axes.axhline(0.5, color=COLOURS["muted"], linewidth=0.8, linestyle=(0, (3, 3)), zorder=1)
    for place, (_, _, measure) in enumerate(buckets):
        ends = None if measure.low is None or measure.high is None else (measure.low, measure.high)
        draw_point(axes, place, measure.value, "blue", y_ends=ends)
    axes.set_xticks(range(len(buckets)), [_span(low, high) for low, high, _ in buckets])
    axes.set_xlim(-0.5, len(buckets) - 0.5)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: show_percent(value)))
    return Drawing(
        "Right by difference in length",
        "Across: tokens the preferred answer is longer than the other; up: how often the model scores it higher, "
        "with 95% intervals. A model that takes longer for better falls below the dashed line on the left.",
        [],
        to_svg(figure, "by-length", f"Accuracy in {len(buckets)} groups of pairs by difference in length"),
        is_smoothed=False,
    )


def _histogram(bars: Sequence[_Bar]) -> Drawing:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    figure, axes = new_figure(4.7, 2.6)
    for bar in bars:
        colour = COLOURS["blue" if bar.low + bar.high > 0 else "orange"]
        width = bar.high - bar.low
        axes.bar(bar.low + 0.06 * width, bar.n, 0.88 * width, align="edge", color=colour, linewidth=0)
    axes.axvline(0.0, color=COLOURS["muted"], linewidth=0.8)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: show_tick(value)))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    total = sum(bar.n for bar in bars)
    return Drawing(
        "Margins",
        f"Score of the preferred answer minus the other's, as scored; n = {total:,} pairs.",
        [LegendEntry("ranked right", "blue", False, ""), LegendEntry("ranked wrong", "orange", False, "")],
        to_svg(figure, "margins", f"Histogram of {total:,} margins"),
        is_smoothed=False,
    )


def _span(low: float, high: float) -> str:
    ends = [f"{end:+.0f}".replace("-", "−") if end else "0" for end in (low, high)]
    return ends[0] if ends[0] == ends[1] else f"{ends[0]} to {ends[1]}"


def _tokens(low: float, high: float) -> str:
    return f"{_span(low, high)} tokens"
