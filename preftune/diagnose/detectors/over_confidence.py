"""D39: pairs learned by heart: sure of all it has seen, no wiser on what it has not (Azar et al. 2023)."""

from __future__ import annotations

from typing import Final

import numpy as np

from preftune.diagnose.detector import Detector
from preftune.diagnose.detectors.reading import ON_PAIRS
from preftune.diagnose.findings import CannotTell, Evidence, Finding, Nothing, Outcome
from preftune.diagnose.series import RunLog
from preftune.diagnose.statistics import is_enough, last_two, rises, too_few

SURE: Final = 0.98
RISEN: Final = 1.05  # of its least, the held-out loss
FLAT: Final = 0.2  # of what training's margin gained, that held-out pairs' did
LEAST_EVALUATIONS: Final = 4


def detect(log: RunLog) -> Outcome:
    """Whether training pairs are all right and their margins grow, while held-out pairs gain nothing."""
    accuracy, margins = log.get("rewards/accuracies"), log.get("rewards/margins")
    assert accuracy is not None and margins is not None
    if not is_enough(accuracy):
        return too_few(accuracy)
    if min(one.location for one in last_two(accuracy)) <= SURE or not rises(margins):
        return Nothing()
    held_out, others = log.get("eval_loss"), log.get("eval_rewards/margins")
    there = [one for one in (held_out, others) if one is not None and len(one.finite()) >= LEAST_EVALUATIONS]
    if not there:
        return CannotTell(f"It needs {LEAST_EVALUATIONS} evaluations of loss or margins.")
    evidence = []
    if held_out is not None and len(held_out.finite()) >= LEAST_EVALUATIONS:
        values = held_out.finite().values
        least = float(values.min())
        if values[-2:].min() > RISEN * least and len(values) - int(np.argmin(values)) > 2:
            evidence.append(Evidence(held_out.name, "held-out loss over its least", float(values[-1]) / least, RISEN))
    if others is not None and len(others.finite()) >= LEAST_EVALUATIONS:
        values, half = others.finite().values, len(others.finite()) // 2
        own = last_two(margins)[1].location - float(np.interp(others.steps[half], margins.steps, margins.values))
        gained = float(values[-1] - values[half])
        if own > 0 and gained < FLAT * own and own > 0.5 * abs(float(values[-1])):
            evidence.append(Evidence(others.name, "held-out margin's gain over training's", gained / own, FLAT))
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


OVER_CONFIDENCE = Detector("D39", "over-confidence", detect, (("rewards/accuracies",), ("rewards/margins",)), ON_PAIRS)
