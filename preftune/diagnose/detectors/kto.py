"""D38: KTO whose reference point says nothing, or whose loss has gone flat."""

from __future__ import annotations

from typing import Final

import numpy as np

from preftune.diagnose.detector import Detector
from preftune.diagnose.detectors.reading import number
from preftune.diagnose.findings import Evidence, Finding, Nothing, Outcome
from preftune.diagnose.series import RunLog
from preftune.diagnose.statistics import is_enough, last_two, part, too_few

ZERO: Final = 1e-6
ALWAYS: Final = 0.9
FAR: Final = 5.0  # beta times nats: beyond, the sigmoid is flat


def detect(log: RunLog) -> Outcome:
    """Whether both sides are where the loss has no gradient, or z0 is 0 while rewards are far from it."""
    kl = log.get("kl")
    chosen, rejected = log.get("rewards/chosen"), log.get("rewards/rejected")
    assert kl is not None and chosen is not None and rejected is not None
    for series in (kl, chosen, rejected):
        if not is_enough(series):
            return too_few(series)
    ends = [min(abs(one.location) for one in last_two(series)) for series in (chosen, rejected)]
    late = part(kl.finite(), len(kl.finite()) // 2, None).values
    zero = float((np.abs(late) <= ZERO).mean())
    evidence = []
    if zero > ALWAYS and max(ends) > FAR:
        evidence.append(Evidence(kl.name, "share of lines where the reference point z0 is 0", zero, ALWAYS))
        evidence.append(Evidence("rewards/chosen", "larger of the rewards, beta times nats", max(ends), FAR))
    beta = number(log, "beta")
    reference = 0.0 if beta is None else beta * float(np.median(late))
    flat = [abs(one.location - reference) for series in (chosen, rejected) for one in last_two(series)]
    if min(flat) > FAR:
        evidence.append(Evidence("rewards/chosen", "least distance of a reward from beta z0", min(flat), FAR))
    if number(log, "per_device_train_batch_size") == 1 and zero > ALWAYS:
        evidence.append(Evidence("kl", "answers computed at once", 1, 2))
    if not evidence:
        return Nothing()
    return Finding(
        id="D38",
        severity="warning",
        certainty="likely",
        title="KTO has lost its hold",
        what="The rewards have run so far from the reference point that the loss is flat: nothing more is learned, or "
        "only by some rows.",
        why="The learning rate or beta is too high, batches are too small to estimate the KL, or answers of one prompt "
        "stand beside each other as each other's mismatch.",
        remedy="Lower --learning_rate or --beta, compute more answers at once (--per_device_train_batch_size 8 or "
        "more), "
        "shuffle the data (--train_sampling_strategy random).",
        first_step=int(kl.steps[len(kl) // 2]),
        last_step=log.last_step,
        evidence=tuple(evidence),
        source="Ethayarajh et al. 2024 (arXiv:2402.01306), section 4.1",
    )


KTO = Detector(
    "D38", "degenerate KTO", detect, (("kl",), ("rewards/chosen",), ("rewards/rejected",)), frozenset({"kto"})
)
