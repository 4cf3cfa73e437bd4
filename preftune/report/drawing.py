"""What every chart is drawn with: axes without frames, whiskers, and inline SVG coloured by the page's own CSS.

Matplotlib draws with stand-in colours that are replaced by CSS variables, so that one drawing serves light
and dark. No foreign text ever enters a drawing.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {
    "ink": "#0a0a01",
    "muted": "#0a0a02",
    "rule": "#0a0a03",
    "paper": "#0a0a04",
    "blue": "#0a0a05",
    "orange": "#0a0a06",
    "grey": "#0a0a07",
    "alarm": "#0a0a08",
    "caution": "#0a0a09",
}


@dataclass(frozen=True)
class LegendEntry:
    """A line's name and colour, and its last value where a bare value may be printed."""

    label: str
    colour: str
    is_evaluation: bool
    last: str


@dataclass(frozen=True)
class Drawing:
    """A chart ready for the page."""

    title: str
    note: str
    legend: list[LegendEntry]
    svg: Markup
    is_smoothed: bool


def new_figure(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of the given size in inches, without pyplot, so that nothing outlives the call."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    figure.patch.set_visible(False)
    axes = figure.add_axes((0.115, 0.135, 0.875, 0.84))
    axes.patch.set_visible(False)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(COLOURS["muted"])
    axes.spines["bottom"].set_linewidth(0.7)
    axes.tick_params(length=0, labelsize=8.5, labelcolor=COLOURS["muted"], pad=5)
    axes.grid(axis="y", color=COLOURS["rule"], linewidth=0.7)
    axes.set_axisbelow(True)
    return figure, axes


def to_svg(figure: Figure, name: str, label: str) -> Markup:
    """The figure as an ``<svg>`` element for an HTML page: ids unique by ``name``, no style that leaks."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    FigureCanvasSVG(figure)
    buffer = io.StringIO()
    no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata=no_metadata, transparent=True)
    svg = buffer.getvalue()
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.DOTALL)
    body = svg[svg.index(">", svg.index("<svg")) + 1 :]
    used = set(re.findall(r"#(\w+)", body))
    body = re.sub(r' id="([^"]*)"', lambda match: match[0] if match[1] in used else "", body)
    body = re.sub(r"; font-family: [^;\"]*", "", body)
    body = re.sub(r' d="[^"]*"', lambda path: re.sub(r"(\.\d\d)\d+", r"\1", path[0]), body)  # half the size
    for variable, stand_in in COLOURS.items():
        body = body.replace(stand_in, f"var(--{variable})")
    width, height = (72 * float(inches) for inches in figure.get_size_inches())
    head = f'<svg role="img" aria-label="{label}" viewBox="0 0 {width:g} {height:g}">'
    return Markup(head + re.sub(r"\s*\n\s*", " ", body))


def show_percent(value: float) -> str:
    return f"{100 * value:g}%"


def show_tick(value: float) -> str:
    """Like "0.5", "−60" or "4.5e−6"."""
    return re.sub(r"e([+-])0*", r"e\1", f"{value:.4g}").replace("-", "−").replace("e+", "e")


def draw_point(
    axes: Axes,
    x: float,
    y: float,
    colour: str,
    *,
    x_ends: tuple[float, float] | None = None,
    y_ends: tuple[float, float] | None = None,
    is_hollow: bool = False,
) -> None:
    """A dot with thin lines over its intervals."""
    for ends, xs, ys in ((x_ends, x_ends, (y, y)), (y_ends, (x, x), y_ends)):
        if ends is not None and xs is not None and ys is not None:
            axes.plot(xs, ys, color=COLOURS[colour], linewidth=0.9 if is_hollow else 1.3, zorder=2)
    look: dict[str, Any] = {
        "markerfacecolor": COLOURS["paper" if is_hollow else colour],
        "markeredgecolor": COLOURS[colour],
        "markeredgewidth": 1.3,
    }
    axes.plot([x], [y], "o", markersize=5.0, zorder=3, **look)
