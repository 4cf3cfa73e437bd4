"""D14: the reference is not the model the run started from, seen in the first figures.

At the start policy and reference are one, so implicit rewards are 0 and the loss has a known value: ln 2 for DPO,
1 / (4 tau^2) for IPO, 1/2 for KTO. Where the first line of the log is a mean over several steps, learning is in it
too; it is then extrapolated back to the start.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from preftune.diagnose.detector import Detector
from preftune.diagnose.detectors.reading import WITH_REFERENCE, beta_of, loss_types, setting
from preftune.diagnose.findings import CannotTell, Certainty, Evidence, Finding, Nothing, Outcome, Severity
from preftune.diagnose.series import RunLog, Series

AT_FIRST: Final = 0.05  # of a reward at step 1, beta times nats
LATER: Final = 0.3  # the same where the first line is a mean over several steps
LATEST: Final = 20  # the first logged step that still tells of the start
DPO_LOSS, IPO_LOSS, KTO_LOSS = 0.02, 0.05, 0.02  # IPO's relative
REMEDY: Final = (
    "Load the same model as policy and reference (leave --ref_model out), with the same precision, chat template and "
    "dropout off (--disable_dropout true); delete cached reference log-probs made with other data or another model."
)


def detect(log: RunLog) -> Outcome:
    """Whether the first figures are those of a policy that is its own reference."""
    rewards = [log.get(f"rewards/{side}") for side in ("chosen", "rejected")]
    chosen, rejected = rewards
    if chosen is None or rejected is None or len(chosen.finite()) < 3 or len(rejected.finite()) < 3:
        return CannotTell("It needs the first three lines with rewards/chosen and rewards/rejected.")
    first, interval = int(chosen.steps[0]), int(chosen.steps[1] - chosen.steps[0])
    if first > max(interval, 1) or first > LATEST:
        return CannotTell(f"The log begins at step {first}, too late to tell what the start was like.")
    bound = AT_FIRST if first == 1 else LATER
    starts = [_at_start(one.finite(), first) for one in (chosen, rejected)]
    evidence = [
        Evidence(f"rewards/{side}", f"rewards/{side} at the start", value, bound)
        for side, value in zip(("chosen", "rejected"), starts, strict=True)
        if abs(value) > bound
    ]
    if first == 1:
        evidence += _of_loss(log)
    if not evidence:
        return Nothing()
    return _finding(log, first, tuple(evidence))


def _at_start(series: Series, first: int) -> float:
    """The reward before the first step: as logged, or where the first two lines point back to, whichever is nearer."""
    value = float(series.values[0])
    if first == 1:
        return value
    back = value - float(series.values[1] - series.values[0]) / 2
    return 0.0 if np.sign(back) != np.sign(value) else min(value, back, key=abs)


def _of_loss(log: RunLog) -> list[Evidence]:
    loss, names, beta = log.get("loss"), loss_types(log), beta_of(log)
    if loss is None or int(loss.steps[0]) != 1 or setting(log, "rpo_alpha"):
        return []
    value = float(loss.finite().values[0])
    if log.method == "dpo" and names in (("sigmoid",), ("robust",)):
        return _away(value, math.log(2), DPO_LOSS)
    if (log.method == "ipo" or names == ("ipo",)) and beta:
        expected = 1 / (4 * beta**2)
        return _away(value, expected, IPO_LOSS * expected)
    plain = all((setting(log, name) or 1.0) == 1.0 for name in ("desirable_weight", "undesirable_weight"))
    return _away(value, 0.5, KTO_LOSS) if log.method == "kto" and plain else []


def _away(value: float, expected: float, allowed: float) -> list[Evidence]:
    far = abs(value - expected) > allowed
    return [Evidence("loss", f"loss at step 1, which is {expected:.4g} for equal models,", value)] if far else []


def _finding(log: RunLog, first: int, evidence: tuple[Evidence, ...]) -> Finding:
    named = setting(log, "ref_model")
    severity: Severity = "warning" if named else "error"
    certainty: Certainty = "certain" if first == 1 and not named else "likely"
    on_purpose = f" The reference was named ({named}): if it is another on purpose, this is as it should be."
    return Finding(
        id="D14",
        severity=severity,
        certainty=certainty,
        title="The reference is not the model the run started from",
        what="Before the first step policy and reference should agree, and they do not."
        + (on_purpose if named else ""),
        why="Another model or checkpoint is the reference, or the two see different tokens, precision or dropout, or "
        "its log-probs were computed with another tokenizer, template or max_length.",
        remedy=REMEDY,
        first_step=first,
        last_step=first,
        evidence=evidence,
        source="closed forms of the losses at the start",
    )


REFERENCE_START = Detector(
    "D14",
    "reference is not the start",
    detect,
    needs=(("rewards/chosen",), ("rewards/rejected",)),
    methods=WITH_REFERENCE,
)
