"""D30: gradients that are cut down at every step, and by a lot.

Adam does not mind a constant factor, and a norm of a few times the limit is usual; what is told of is a limit so low
that all steps have one length whatever they were.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from preftune.diagnose.detector import Detector
from preftune.diagnose.detectors.reading import number
from preftune.diagnose.findings import CannotTell, Evidence, Finding, Nothing, Outcome
from preftune.diagnose.series import RunLog
from preftune.diagnose.statistics import is_enough, too_few, window

OFTEN: Final = 0.9
FAR_ABOVE: Final = 50.0


def detect(log: RunLog) -> Outcome:
    """Whether nearly all gradients are far above the limit."""
    norm, limit = log.get("grad_norm"), number(log, "max_grad_norm")
    assert norm is not None
    if limit is None:
        return CannotTell("The log does not say max_grad_norm.")
    if not is_enough(norm):
        return too_few(norm)
    values = norm.finite().values
    share, middle = float((values >= limit).mean()), window(norm).location
    if limit <= 0 or share <= OFTEN or middle <= FAR_ABOVE * limit:
        return Nothing()
    return Finding(
        id="D30",
        severity="hint",
        certainty="certain",
        title="Every gradient is clipped",
        what=f"{share:.0%} of the gradients are above --max_grad_norm {limit:g}, in the middle {middle / limit:.0f} "
        "times.",
        why="The limit is far below what gradients of this loss are, so a step's length says nothing of its gradient.",
        remedy=f"Raise --max_grad_norm to about {_rounded(2 * middle):g}, or lower --learning_rate if gradients are "
        "large "
        "because the loss leaps.",
        first_step=int(norm.steps[0]),
        last_step=log.last_step,
        evidence=(
            Evidence(norm.name, "share of lines at or above the limit", share, OFTEN),
            Evidence(norm.name, "median of the gradient over the limit", middle / limit, FAR_ABOVE),
        ),
    )


def _rounded(value: float) -> float:
    return float(f"{np.clip(value, 1e-12, 1e12):.1g}")


CLIPPING = Detector("D30", "always clipped", detect, (("grad_norm",),))
