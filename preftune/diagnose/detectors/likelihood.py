"""D12: the chosen answers become less likely while the margin grows (Razin et al. 2024, arXiv:2410.08847)."""

from __future__ import annotations

from typing import Final

import numpy as np

from preftune.diagnose.detector import Detector
from preftune.diagnose.detectors.reading import ON_PAIRS, WITH_REFERENCE, beta_of
from preftune.diagnose.findings import CannotTell, Evidence, Finding, Nothing, Outcome, Severity
from preftune.diagnose.series import RunLog, Series
from preftune.diagnose.statistics import head, is_enough, last_two, noise, rises, too_few

NATS, SHARE = 4.0, 0.15  # lost by the chosen side; the larger of the two counts
FAR: Final = 20.0  # nats below the reference
OF_MARGIN: Final = 1.75  # of what the margin won: up to that is lost in many runs on pairs of another policy


def detect(log: RunLog) -> Outcome:
    """Whether the chosen side has lost more than a healthy run costs it."""
    margins, log_probs = log.get("rewards/margins"), log.get("logps/chosen")
    assert margins is not None and log_probs is not None
    if not is_enough(margins):
        return too_few(margins)
    if not is_enough(log_probs):
        return too_few(log_probs)
    if not rises(margins):
        return Nothing()
    level = abs(head(log_probs).location)
    allowed = max(NATS, SHARE * level)
    lost, gained = _lost(log, log_probs), _gained(log, margins)
    if lost is None:
        return CannotTell("Neither beta with rewards/chosen is there nor are batches alike enough in logps/chosen.")
    if lost <= allowed or (gained is not None and lost < OF_MARGIN * gained):
        return Nothing()
    severity: Severity = "error" if lost > FAR and log.method in WITH_REFERENCE else "warning"
    evidence = [Evidence("rewards/chosen", "nats the chosen side has lost", lost, allowed)]
    if gained is not None:
        evidence.append(Evidence(margins.name, "nats the margin has won", gained))
    return Finding(
        id="D12",
        severity=severity,
        certainty="likely",
        title="Chosen answers become unlikely (likelihood displacement)",
        what=f"The margin grows, but the chosen answers have lost {lost:.1f} nats of log-probability: their share "
        "goes to "
        "answers of neither side.",
        why="The two sides are alike to the model, so that pushing one down takes the other with it.",
        remedy="Add the chosen side's likelihood (--rpo_alpha 1, or --loss_type dpop), hold it up (--loss_type "
        "apo_zero), "
        "lower --learning_rate or raise --beta, leave out pairs that hardly differ, or take chosen answers of the "
        "policy itself.",
        first_step=int(margins.steps[0]),
        last_step=log.last_step,
        evidence=tuple(evidence),
        source="Razin et al. 2024 (arXiv:2410.08847); Pal et al. 2024 (arXiv:2402.13228)",
    )


def _lost(log: RunLog, log_probs: Series) -> float | None:
    """Nats by which the chosen side stands below where it was; free of what batches differ in where beta is known."""
    rewards, beta = log.get("rewards/chosen"), beta_of(log)
    if rewards is not None and beta is not None and is_enough(rewards) and log.method in (*WITH_REFERENCE, None):
        return -max(one.location for one in last_two(rewards)) / beta
    before, ends = head(log_probs), last_two(log_probs)
    lost = before.location - max(one.location for one in ends)
    uncertain = noise(log_probs) * (2 / before.n) ** 0.5
    return lost - 2 * uncertain if np.isfinite(uncertain) else None


def _gained(log: RunLog, margins: Series) -> float | None:
    """Nats that the chosen side won on the rejected one."""
    beta = beta_of(log)
    if beta is not None and log.method in (*WITH_REFERENCE, None):
        return min(one.location for one in last_two(margins)) / beta
    chosen, rejected = log.get("logps/chosen"), log.get("logps/rejected")
    if chosen is None or rejected is None or len(chosen) != len(rejected):
        return None
    apart = Series("logps/chosen - logps/rejected", chosen.steps, chosen.values - rejected.values)
    return last_two(apart)[1].location - head(apart).location if is_enough(apart) else None


LIKELIHOOD = Detector(
    "D12", "likelihood displacement", detect, (("rewards/margins",), ("logps/chosen",)), ON_PAIRS | {"online-dpo"}
)
