"""D19 and D22: a reward model that learns its pairs by heart, or whose scores drift."""

from __future__ import annotations

from typing import Final

import numpy as np

from preftune.diagnose.detector import Detector
from preftune.diagnose.detectors.reading import LEAST_EVALUATIONS
from preftune.diagnose.findings import CannotTell, Evidence, Finding, Nothing, Outcome
from preftune.diagnose.series import RunLog
from preftune.diagnose.statistics import head, is_enough, last_two, noise, tail, too_few

RISEN: Final = 1.05  # of its least, the held-out loss
APART: Final = 0.15  # training above held-out accuracy
DRIFTED: Final = 5.0  # scores' mean over the margin


def detect_overfit(log: RunLog) -> Outcome:
    """Whether held-out loss rises while training loss falls."""
    held_out, loss = log.get("eval_loss"), log.get("loss")
    assert held_out is not None and loss is not None
    evaluations = held_out.finite()
    if len(evaluations) < LEAST_EVALUATIONS:
        return CannotTell(f"It needs {LEAST_EVALUATIONS} evaluations; there are {len(evaluations)}.")
    if not is_enough(loss):
        return too_few(loss)
    best = int(np.argmin(evaluations.values))
    least, ends = float(evaluations.values[best]), evaluations.values[-2:]
    latest = tail(loss)
    falls = latest.location < head(loss).location - noise(loss)
    is_better_known = latest.location + 2 * latest.error < ends.min()  # what was trained on than what was held out
    gap = _gap(log)
    evidence = []
    if len(evaluations) - best > 2 and ends.min() > RISEN * least and falls and is_better_known:
        what = "held-out loss over its least"
        evidence.append(Evidence(held_out.name, what, float(ends.mean()) / least, RISEN))
    if gap is not None and gap > APART and (evidence or ends.min() > least):
        evidence.append(Evidence("accuracy", "training above held-out accuracy", gap, APART))
    if not evidence:
        return Nothing()
    step = int(evaluations.steps[best])
    return Finding(
        id="D19",
        severity="warning",
        certainty="certain" if len(evidence) > 1 else "likely",
        title="The reward model learns its pairs by heart",
        what=f"Held-out loss was least at step {step} ({least:.3g}) and is {float(ends[-1]):.3g} now; training loss "
        "falls.",
        why="Too many passes over too few pairs.",
        remedy=f"Stop at step {step}, or train one epoch (--num_train_epochs 1) at a lower --learning_rate, keep all "
        "pairs "
        "of a prompt together (--group_by_prompt true), get more pairs.",
        first_step=step,
        last_step=log.last_step,
        evidence=tuple(evidence),
        source="Ouyang et al. 2022 (arXiv:2203.02155): one epoch",
    )


def _gap(log: RunLog) -> float | None:
    trained, held_out = log.get("accuracy", "rewards/accuracies"), log.get("eval_accuracy", "eval_rewards/accuracies")
    if trained is None or held_out is None or not is_enough(trained):
        return None
    return min(one.location for one in last_two(trained)) - float(held_out.finite().values[-2:].max())


def detect_drift(log: RunLog) -> Outcome:
    """Whether all scores wander off together, which no loss on pairs holds back."""
    mean, margin = log.get("mean_reward"), log.get("margin")
    assert mean is not None and margin is not None
    if not is_enough(mean):
        return too_few(mean)
    ends = last_two(mean)
    scale = max(abs(tail(margin).location), noise(mean), 1e-6)
    off = min(abs(one.location) for one in ends) / scale
    if off <= DRIFTED:
        return Nothing()
    return Finding(
        id="D22",
        severity="hint",
        certainty="certain",
        title="The reward model's scores drift",
        what=f"The mean score has come to {ends[1].location:.3g}, {off:.1f} times what chosen and rejected answers "
        "differ by.",
        why="Only differences are learned; nothing holds the level.",
        remedy="Hold it by --center_rewards_coefficient 0.01; take the mean off before the scores are used with "
        "others.",
        first_step=ends[0].first_step,
        last_step=log.last_step,
        evidence=(Evidence(mean.name, "mean score over the mean margin", off, DRIFTED),),
        source="Eisenstein et al. 2023 (arXiv:2312.09244)",
    )


OVERFIT = Detector(
    "D19", "reward model over-fitted", detect_overfit, (("loss",), ("eval_loss",)), frozenset({"reward"})
)
DRIFT = Detector("D22", "reward scale drift", detect_drift, (("mean_reward",), ("margin",)), frozenset({"reward"}))
