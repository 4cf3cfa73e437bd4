"""D39: pairs learned by heart: sure of all it has seen, no wiser on what it has not (Azar et al. 2023)."""

from __future__ import annotations

from typing import Final

import numpy as np

from preftune.diagnose.detector import Detector
from preftune.diagnose.detectors.reading import LEAST_EVALUATIONS, ON_PAIRS, evaluated
from preftune.diagnose.findings import CannotTell, Evidence, Finding, Nothing, Outcome
from preftune.diagnose.series import RunLog, Series
from preftune.diagnose.statistics import is_enough, last_two, rises, too_few

SURE: Final = 0.98
RISEN: Final = 1.05  # of its least, the held-out loss
FLAT: Final = 0.2  # of what training's margin gained, that held-out pairs' did
APART: Final = 0.15  # training above held-out accuracy
BETTER: Final = 0.02  # held-out accuracy that a later half must win


def detect(log: RunLog) -> Outcome:
    """Whether training pairs are all right and their margins grow, while held-out pairs gain nothing."""
    accuracy, margins = log.get("rewards/accuracies"), log.get("rewards/margins")
    assert accuracy is not None and margins is not None
    if not is_enough(accuracy):
        return too_few(accuracy)
    if min(one.location for one in last_two(accuracy)) <= SURE or not rises(margins):
        return Nothing()
    loss, gain, known = (evaluated(log, f"eval_{name}") for name in ("loss", "rewards/margins", "rewards/accuracies"))
    if loss is None and gain is None and known is None:
        return CannotTell(f"It needs {LEAST_EVALUATIONS} evaluations of loss, margins or accuracies.")
    signs = (
        None if loss is None else _loss_rises(loss),
        None if gain is None else _margins_stay(gain, margins),
        None if known is None else _is_right_on_seen_pairs_only(known, accuracy),
    )
    evidence = [one for one in signs if one is not None]
    if not evidence:
        return Nothing()
    return Finding(
        id="D39",
        severity="hint",
        certainty="likely" if len(evidence) > 1 else "hint",
        title="Pairs are learned by heart",
        what="Training pairs are all ranked right and their margins still grow, while held-out pairs gain nothing.",
        why="More passes than the pairs bear; DPO's loss never has enough of a pair that is always right.",
        remedy="One epoch (--num_train_epochs 1), more pairs, IPO (`preftune ipo`) or --label_smoothing 0.1, whose "
        "margins have an end; a higher --beta.",
        first_step=int(margins.steps[0]),
        last_step=log.last_step,
        evidence=tuple(evidence),
        source="Azar et al. 2023 (arXiv:2310.12036)",
    )


def _loss_rises(loss: Series) -> Evidence | None:
    values, least = loss.values, float(loss.values.min())
    if values[-2:].min() <= RISEN * least or len(values) - int(np.argmin(values)) <= 2:
        return None
    return Evidence(loss.name, "held-out loss over its least", float(values[-1]) / least, RISEN)


def _margins_stay(gain: Series, margins: Series) -> Evidence | None:
    values, half = gain.values, len(gain) // 2
    own = last_two(margins)[1].location - float(np.interp(gain.steps[half], margins.steps, margins.values))
    gained = float(values[-1] - values[half])
    if own <= 0 or gained >= FLAT * own or own <= 0.5 * abs(float(values[-1])):
        return None
    return Evidence(gain.name, "held-out margin's gain over training's", gained / own, FLAT)


def _is_right_on_seen_pairs_only(known: Series, accuracy: Series) -> Evidence | None:
    """Far more of the pairs it has seen, and no more of the others than half-way."""
    half, ends = known.values[: len(known) // 2], float(known.values[-2:].mean())
    apart = last_two(accuracy)[1].location - ends
    if apart <= APART or ends > float(half.max()) + BETTER:
        return None
    return Evidence(known.name, "training above held-out accuracy", apart, APART)


OVER_CONFIDENCE = Detector("D39", "over-confidence", detect, (("rewards/accuracies",), ("rewards/margins",)), ON_PAIRS)
