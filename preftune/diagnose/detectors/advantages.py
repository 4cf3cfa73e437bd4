"""D17: advantages that break what they are by construction: mean 0 in a group, and a known deviation."""

from __future__ import annotations

from typing import Final

from preftune.diagnose.detector import Detector
from preftune.diagnose.detectors.reading import GROUPED, number, setting
from preftune.diagnose.findings import Evidence, Finding, Nothing, Outcome
from preftune.diagnose.series import RunLog
from preftune.diagnose.statistics import LEAST_IN_WINDOW, is_enough, last_two, tail, too_few

MEAN: Final = 1e-3
NARROW, WIDE = 0.8, 1.1  # of the deviation that G completions have by construction
FEW_TIED: Final = 0.2


def detect(log: RunLog) -> Outcome:
    """Whether means or deviations of advantages are what they cannot be."""
    mean, spread = log.get("adv/group_mean_max", "adv/mean"), log.get("adv/std")
    assert mean is not None
    if not is_enough(mean, LEAST_IN_WINDOW):
        return too_few(mean, LEAST_IN_WINDOW)
    evidence = []
    if setting(log, "advantage_estimator") != "reinforce_plus_plus":
        off = min(abs(one.location) for one in last_two(mean))
        if off > MEAN * max(1.0, tail(spread).location if spread is not None else 1.0):
            evidence.append(Evidence(mean.name, f"{mean.name}, which is 0 by construction,", off, MEAN))
    if spread is not None and is_enough(spread, LEAST_IN_WINDOW) and (expected := _expected(log)) is not None:
        ratios = [one.location / expected for one in last_two(spread)]
        if all(ratio < NARROW for ratio in ratios) or all(ratio > WIDE for ratio in ratios):
            evidence.append(Evidence(spread.name, "deviation over what it is by construction", ratios[-1], NARROW))
    if not evidence:
        return Nothing()
    return Finding(
        id="D17",
        severity="error",
        certainty="certain",
        title="Advantages are not what they are by construction",
        what="A group's advantages must have mean 0 and, when normalised, a known deviation; these have not.",
        why="Completions are compared with those of other prompts: groups were shuffled or split over processes before "
        "they were normalised, or rewards that could not be had were counted as 0.",
        remedy="Keep the completions of a prompt together until advantages are computed; mask rewards that are not a "
        "number; use the sample deviation (ddof 1).",
        first_step=int(mean.steps[0]),
        last_step=log.last_step,
        evidence=tuple(evidence),
        source="by construction",
    )


def _expected(log: RunLog) -> float | None:
    """The deviation of advantages normalised in groups of G by the sample deviation, where few groups are tied."""
    size, tied = number(log, "num_generations"), log.get("frac_reward_zero_std")
    if log.method != "grpo" or setting(log, "scale_rewards") not in ("group", True) or not size or size < 2:
        return None
    if setting(log, "multi_objective_aggregation") == "normalize_then_sum" or tied is None:
        return None
    share = tail(tied).location
    return None if share > FEW_TIED else ((size - 1) / size * (1 - share)) ** 0.5


ADVANTAGES = Detector("D17", "advantages broken", detect, (("adv/group_mean_max", "adv/mean"),), GROUPED)
