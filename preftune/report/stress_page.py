"""The page of ``preftune stress``: what each data problem costs on a task, as curves with intervals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from preftune.report.drawing import COLOURS, Drawing, LegendEntry, new_figure, show_percent, to_svg
from preftune.report.rendering import write_page
from preftune.report.run_files import mapping

_COLOURS = ("blue", "orange", "grey", "ink")


@dataclass(frozen=True)
class StressView:
    """Everything the template prints; ``rows`` are problem, share, accuracy, its interval, cost, its interval."""

    source: str
    made: str
    headline: str
    verdict: str
    about: str
    chart: Drawing
    rows: list[tuple[str, str, str, str, str, str]]
    dearest: str
    against: list[tuple[str, str]]


def write_stress_page(document: Mapping[str, Any], path: Path) -> Path:
    """Writes the page of what ``preftune stress`` found to ``path``."""
    return write_page("stress.html", path, page=view_stress(document))


def view_stress(document: Mapping[str, Any]) -> StressView:
    """The page's content."""
    curves = mapping(document.get("curves"))
    whole = mapping(document.get("undisturbed"))
    rows = [("undisturbed", "0%", *_shown(whole), "", "")]
    for name, doses in curves.items():
        what = str(mapping(document.get("what")).get(name) or "")
        for dose in doses:
            rows.append(
                (
                    f"{name}: {what}",
                    show_percent(round(float(dose["share"]), 3)),
                    *_shown(dose["accuracy"]),
                    *_points(dose["cost"]),
                )
            )
    return StressView(
        source=str(document.get("source") or "data"),
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        headline=str(document.get("headline") or ""),
        verdict=str(document.get("verdict") or ""),
        about=(
            f"{document.get('pairs'):,} pairs, about {document.get('held_out'):,} held out a seed, "
            f"{document.get('seeds')} seeds; model: {document.get('model')}. What is held out is never disturbed."
        ),
        chart=_chart(curves, whole),
        rows=rows,
        dearest=str(document.get("dearest") or ""),
        against=[(name, " ".join(_points(one))) for name, one in mapping(document.get("against")).items()],
    )


def _shown(estimate: Any) -> tuple[str, str]:
    found = mapping(estimate)
    return f"{float(found['value']):.1%}", f"95% interval {float(found['low']):.1%} to {float(found['high']):.1%}"


def _points(estimate: Any) -> tuple[str, str]:
    found = {key: 100 * float(value) for key, value in mapping(estimate).items()}
    return f"{found['value']:+.1f} points", f"95% interval {found['low']:+.1f} to {found['high']:+.1f}"


def _chart(curves: Mapping[str, Any], whole: Mapping[str, Any]) -> Drawing:
    figure, axes = new_figure(7.2, 3.4)
    legend = []
    for number, (name, doses) in enumerate(curves.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        shares = [0.0, *(float(dose["share"]) for dose in doses)]
        found = [whole, *(mapping(dose["accuracy"]) for dose in doses)]
        shifted = [0.0, *(share + 0.006 * (number - (len(curves) - 1) / 2) for share in shares[1:])]
        axes.plot(shifted, [float(one["value"]) for one in found], color=COLOURS[colour], linewidth=1.5)
        _whiskers(axes, shifted[1:], found[1:], COLOURS[colour])
        legend.append(LegendEntry(name, colour, False, ""))
    _whiskers(axes, [0.0], [whole], COLOURS["muted"])
    axes.axhline(0.5, color=COLOURS["muted"], linewidth=0.8, linestyle=(0, (4, 3)))
    axes.xaxis.set_major_formatter(lambda value, _: show_percent(round(value, 3)))
    axes.yaxis.set_major_formatter(lambda value, _: show_percent(round(value, 3)))
    note = (
        "Across: the share of training rows that is disturbed. Up: accuracy on rows that are not. Dashed: a coin flip."
    )
    svg = to_svg(figure, "stress", "Held-out accuracy by the share of disturbed rows")
    return Drawing("Held-out accuracy", note, legend, svg, False)


def _whiskers(axes: Any, places: list[float], found: list[Mapping[str, Any]], colour: str) -> None:
    """Points with their intervals."""
    values = [float(one["value"]) for one in found]
    below = [value - float(one["low"]) for value, one in zip(values, found, strict=True)]
    above = [float(one["high"]) - value for value, one in zip(values, found, strict=True)]
    axes.errorbar(
        places, values, yerr=[below, above], color=colour, linestyle="none", elinewidth=0.9, marker="o", markersize=4
    )
