"""Models by two goals at once: the chart of their points with intervals, and which are on the Pareto front."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from preftune.evaluate.pareto import clearly_dominated, pareto_front
from preftune.report.drawing import COLOURS, Drawing, draw_point, new_figure, show_tick, to_svg
from preftune.report.measures import Measure


@dataclass(frozen=True)
class Candidate:
    """A model and what two measures say of it; of both more is better."""

    name: str
    across: Measure
    up: Measure


@dataclass(frozen=True)
class ParetoRow:
    """A line of the table under the chart: the point's number in it, and how it stands to the others."""

    number: int
    name: str
    across: Measure
    up: Measure
    verdict: str


@dataclass(frozen=True)
class ParetoView:
    """The chart, its goals, a row a model, and a sentence on the front."""

    across: str
    up: str
    drawing: Drawing
    rows: list[ParetoRow]
    sentence: str


def view_pareto(candidates: Sequence[Candidate], name: str = "pareto") -> ParetoView | None:
    """The view of two or more models, or None of fewer; ``name`` sets it apart from other charts of the page."""
    shown = [one for one in candidates if one.across.is_printable and one.up.is_printable]
    if len(shown) < 2:
        return None
    points = np.array([[one.across.value, one.up.value] for one in shown])
    front = pareto_front(points)
    beaten = clearly_dominated(*(np.array([_ends(one, side) for one in shown]) for side in ("low", "high")))
    rows = [
        ParetoRow(number, one.name, one.across, one.up, _verdict(number - 1 in front, bool(beaten[number - 1])))
        for number, one in enumerate(shown, start=1)
    ]
    return ParetoView(
        across=shown[0].across.title,
        up=shown[0].up.title,
        drawing=_draw(shown, points, front, name),
        rows=rows,
        sentence=_sentence(rows, front),
    )


def _ends(candidate: Candidate, side: str) -> list[float]:
    """A missing interval reaches everywhere, so that nothing is claimed from it."""
    endless = -np.inf if side == "low" else np.inf
    ends = (getattr(measure, side) for measure in (candidate.across, candidate.up))
    return [endless if end is None else end for end in ends]


def _verdict(is_on_front: bool, is_beaten: bool) -> str:
    if is_on_front:
        return "On the front: none is better at both."
    if is_beaten:
        return "Beaten at both by another, outside the intervals."
    return "Below the front, within the intervals."


def _sentence(rows: Sequence[ParetoRow], front: Sequence[int]) -> str:
    names = [rows[index].name for index in front]
    if len(names) == 1:
        return f"{names[0]} is at least as good as every other at both."
    return f"On the front, from the best upward to the best across: {', '.join(names)}."


def _draw(candidates: Sequence[Candidate], points: np.ndarray, front: Sequence[int], name: str) -> Drawing:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    figure, axes = new_figure(6.4, 3.6)
    stairs = points[list(front)]
    axes.step(stairs[:, 0], stairs[:, 1], where="pre", color=COLOURS["blue"], linewidth=1.2, alpha=0.7, zorder=1)
    for index, one in enumerate(candidates):
        is_on_front = index in front
        ends = [None if m.low is None or m.high is None else (m.low, m.high) for m in (one.across, one.up)]
        colour = "blue" if is_on_front else "grey"
        x, y = float(points[index, 0]), float(points[index, 1])
        draw_point(axes, x, y, colour, x_ends=ends[0], y_ends=ends[1], is_hollow=not is_on_front)
    for (x, y), text in _labels(points).items():
        axes.annotate(text, (x, y), (5, 5), textcoords="offset points", fontsize=8.5, color=COLOURS["ink"], zorder=4)
    for axis, measure in ((axes.xaxis, candidates[0].across), (axes.yaxis, candidates[0].up)):
        axis.set_major_locator(MaxNLocator(nbins=6))
        scale, sign = (100, "%") if measure.is_share else (1, "")
        axis.set_major_formatter(FuncFormatter(lambda v, _, s=scale, u=sign: f"{show_tick(s * v)}{u}"))
    axes.margins(x=0.08, y=0.1)
    label = f"Scatter chart of {len(candidates)} models by two measures; {len(front)} on the front"
    return Drawing("", "", [], to_svg(figure, name, label), is_smoothed=False)


def _labels(points: np.ndarray) -> dict[tuple[float, float], str]:
    """The numbers of the points by their place: stages that begin with the same model share one."""
    labels: dict[tuple[float, float], str] = {}
    for number, (x, y) in enumerate(points.tolist(), start=1):
        labels[x, y] = f"{labels[x, y]}, {number}" if (x, y) in labels else str(number)
    return labels
