"""What beta does: the same start trained with several betas, measured on pairs it has not seen."""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from preftune.durable import write_file
from preftune.errors import PreftuneError
from preftune.evaluate.measures import Measure
from preftune.mini.dpo import dpo_train, preference_measures
from preftune.mini.model import MiniGPT
from preftune.mini.pairs import read_pairs
from preftune.mini.sampling import kl_from_reference
from preftune.mini.training import Progress, require_positive

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BETAS = (0.01, 0.03, 0.1, 0.3, 1.0)


@dataclass(frozen=True)
class SweepPoint:
    """Held-out measures of one training: margin in nats (difference of log-ratios), KL in nats an answer."""

    beta: float
    margin: Measure
    kl: Measure
    accuracy: Measure

    def as_dict(self) -> dict[str, Any]:
        """The point as JSON takes it."""
        measures = {"margin": self.margin, "kl": self.kl, "accuracy": self.accuracy}
        return {"beta": self.beta} | {name: measure.as_dict() for name, measure in measures.items()}


def beta_sweep(
    start: MiniGPT,
    pairs: Sequence[Mapping[str, Any]],
    held_out: Sequence[Mapping[str, Any]],
    betas: Sequence[float] = BETAS,
    num_epochs: int = 5,
    lr: float = 1e-4,
    *,
    batch_size: int = 8,
    max_new_tokens: int = 48,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[SweepPoint]:
    """A point for each of ``betas``: ``start``, which stays as it is, trained by ``dpo_train`` on ``pairs``.

    Measured on ``held_out`` against ``start``. KL is of answers drawn to its prompts. All trainings see the pairs in
    the same order; ``progress`` hears each step of each.
    """
    for beta in betas:
        require_positive("beta", beta)
    prompts = list(dict.fromkeys(pair.prompt for pair in read_pairs(held_out)))
    points = []
    for beta in betas:
        policy = copy.deepcopy(start)
        dpo_train(policy, start, pairs, num_epochs, lr, beta, batch_size=batch_size, seed=seed, progress=progress)
        accuracy, margin = preference_measures(policy, start, held_out)
        kl = kl_from_reference(policy, start, prompts, max_new_tokens, seed=seed)
        points.append(SweepPoint(beta, margin, kl, accuracy))
    return points


def draw_beta_sweep(points: Sequence[SweepPoint], file: str | Path) -> Path:
    """Margin, KL and accuracy over beta with 95% intervals, as the .png or .svg that ``file`` names; gives its path."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    path = Path(file)
    kind = path.suffix.lower().removeprefix(".")
    if kind not in ("png", "svg"):
        raise PreftuneError(f"No picture can be written as '{path.name}'.", where="file", mend="Name it .png or .svg.")
    if not points:
        raise PreftuneError("There is nothing to draw: no points were given.", where="points")
    figure = Figure(figsize=(10.5, 3.4), layout="constrained")
    margin, kl, accuracy = figure.subplots(1, 3)
    _panel(margin, "Preferred over rejected", "margin (nats)", points, [point.margin for point in points])
    _panel(kl, "Distance from the reference", "KL (nats an answer)", points, [point.kl for point in points])
    _panel(accuracy, "Held-out accuracy", "pairs ranked right (%)", points, [point.accuracy for point in points], 100)
    accuracy.axhline(50, color="0.5", linewidth=0.9, linestyle=(0, (4, 3)))
    accuracy.set_ylim(0, 103)
    drawn = io.BytesIO()
    with rc_context({"svg.hashsalt": "beta-sweep", "svg.fonttype": "none"}):  # the same points, the same file
        figure.savefig(drawn, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else None)
    write_file(path, drawn.getvalue())
    return path


def _panel(
    axes: Axes, title: str, unit: str, points: Sequence[SweepPoint], measures: Sequence[Measure], scale: float = 1
) -> None:
    betas = [point.beta for point in points]
    values = [scale * measure.value for measure in measures]
    whiskers = [
        [_finite(scale * (measure.value - measure.low)) for measure in measures],
        [_finite(scale * (measure.high - measure.value)) for measure in measures],
    ]
    axes.errorbar(betas, values, yerr=whiskers, marker="o", markersize=5, capsize=3, linewidth=1.4, color="#1f5fa8")
    if all(measure.low >= 0 for measure in measures):
        axes.set_ylim(bottom=0)
    axes.set_xscale("log")
    axes.set_xticks(betas, [f"{beta:g}" for beta in betas])
    axes.minorticks_off()
    axes.set_xlabel("beta (no unit, logarithmic)")
    axes.set_ylabel(unit)
    axes.set_title(f"{title}, n = {min(measure.n for measure in measures)}", fontsize=10, loc="left")
    axes.grid(axis="y", color="0.88", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _finite(length: float) -> float:
    """A whisker that can be drawn: none where the interval is unbounded."""
    return max(0.0, length) if math.isfinite(length) else 0.0
