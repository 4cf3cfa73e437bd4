"""Plots of results as SVG files beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.experiments.findings import RESULTS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#1f5fa8", "#d1701c", "#3f7d44", "#7d4f9e", "#a8323e", "#5c6670", "#17a2a2", "#b8a116")
PANEL_WIDTH, HEIGHT = 4.6, 3.6  # inches


@dataclass(frozen=True)
class Curve:
    """A line through points; ``low`` and ``high`` bound a band around it, ``dots`` leaves the line out."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    colour: int = 0
    dashed: bool = False
    dots: bool = False


@dataclass(frozen=True)
class Panel:
    """One set of axes; ``level`` is a height that a dotted line marks."""

    title: str
    x_label: str
    y_label: str
    curves: Sequence[Curve]
    log_x: bool = False
    log_y: bool = False
    level: float | None = None
    bottom: float | None = None


def plot_of(name: str) -> Path:
    """Where the plot of an experiment is kept."""
    return RESULTS / f"experiment-{name}.svg"


def write_plot(path: Path, panels: Sequence[Panel]) -> None:
    """The panels side by side; the same panels give the same file."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.hashsalt": path.stem, "svg.fonttype": "path", "font.size": 9}):
        figure = Figure(figsize=(PANEL_WIDTH * len(panels), HEIGHT), layout="constrained", facecolor="white")
        FigureCanvasSVG(figure)
        for number, panel in enumerate(panels, 1):
            _draw(figure.add_subplot(1, len(panels), number), panel)
        metadata: Any = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(path, format="svg", metadata=metadata)


def _draw(axes: Axes, panel: Panel) -> None:
    if panel.level is not None:
        axes.axhline(panel.level, color="#888888", linewidth=0.9, linestyle=":")
    for curve in panel.curves:
        colour = COLOURS[curve.colour % len(COLOURS)]
        style = "none" if curve.dots else "--" if curve.dashed else "-"
        marker = "o" if curve.dots else None
        axes.plot(curve.x, curve.y, color=colour, linestyle=style, marker=marker, markersize=3.5, label=curve.label)
        if curve.low is not None and curve.high is not None:
            axes.fill_between(curve.x, curve.low, curve.high, color=colour, alpha=0.18, linewidth=0)
    axes.set(title=panel.title, xlabel=panel.x_label, ylabel=panel.y_label)
    axes.spines[["top", "right"]].set_visible(False)
    if panel.log_x:
        axes.set_xscale("log")
    if panel.log_y:
        axes.set_yscale("log")
    if panel.bottom is not None:
        axes.set_ylim(bottom=panel.bottom)
    if any(curve.label for curve in panel.curves):
        axes.legend(frameon=False, fontsize=8)
