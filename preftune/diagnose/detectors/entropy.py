"""D06 and D07: a policy that has nothing left to try, and one that comes apart.

Entropy falls in every run that learns (Cui et al. 2025, arXiv:2505.22617: reward is bought with it), so a fall is told
only where the reward no longer rises, and not where the task is solved.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from preftune.diagnose.detector import Detector
from preftune.diagnose.detectors.reading import LEARNED, ONLINE, is_solved, number
from preftune.diagnose.findings import Evidence, Finding, Nothing, Outcome
from preftune.diagnose.series import RunLog, Series
from preftune.diagnose.statistics import (
    LEAST_IN_WINDOW,
    falls,
    head,
    is_enough,
    last_two,
    part,
    rises,
    tail,
    too_few,
    window,
)

LOW, OF_FIRST = 0.1, 0.2  # nats a token; of the first
TIED: Final = 0.5  # of the groups, by which a fall to a fifth is told even above LOW
NEARLY_ALL: Final = 0.8  # of the groups: by then next to nothing is taught any more
GAINS: Final = 0.05  # of the reward's span, above the best of what came before
EARLY, LOST = 0.1, 0.7  # of the steps, of the entropy
HIGH, OF_ALL = 1.5, 0.5  # of the first; of that of tokens drawn blindly
HIGH_UNKNOWN: Final = 3.0  # nats a token, where the vocabulary is not known


def detect_collapse(log: RunLog) -> Outcome:
    """Whether entropy is all but gone, and the reward gains no more."""
    entropy, reward = log.get("entropy"), log.get(*LEARNED)
    assert entropy is not None and reward is not None
    if not is_enough(entropy):
        return too_few(entropy)
    first, ends = head(entropy), last_two(entropy)
    if is_solved(log):
        return Nothing()
    at_first = float(entropy.finite().values[0]) if first.n else 0.0
    start = max(first.location, at_first)
    low = OF_FIRST * start if _is_tied(log, TIED) else min(LOW, OF_FIRST * start)
    if all(one.location < low for one in ends) and (_is_tied(log, NEARLY_ALL) or not _still_rises(reward)):
        return _collapsed(log, entropy, start, ends[1].location)
    early = part(entropy.finite(), 0, max(round(EARLY * len(entropy.finite())), 5))
    lost = 1 - float(early.values[-1]) / at_first if at_first > 0 else 0.0
    if lost > LOST and len(early) >= 5 and all(one.location < (1 - LOST) * at_first for one in ends):
        return _collapsed(log, entropy, at_first, ends[1].location, early=lost)
    return Nothing()


def _is_tied(log: RunLog, share: float) -> bool:
    """True where more than this share of the groups has nothing to compare any more."""
    tied = log.get("frac_reward_zero_std")
    return tied is not None and is_enough(tied) and min(one.location for one in last_two(tied)) > share


def _still_rises(reward: Series) -> bool:
    """True where the last third of the curve rises, to where the rest has not been."""
    finite = reward.finite()
    late = 2 * len(finite) // 3
    if not rises(part(finite, late, None), 0.05):
        return False
    windows = [window(part(finite, begin, begin + LEAST_IN_WINDOW)).location for begin in range(0, late, 5)]
    return tail(finite).location > max(windows) + GAINS * float(np.ptp(finite.values))


def _collapsed(log: RunLog, entropy: Series, first: float, last: float, early: float | None = None) -> Finding:
    evidence = [
        Evidence(entropy.name, "entropy at first, nats a token", first),
        Evidence(entropy.name, "entropy at the end, nats a token", last, min(LOW, OF_FIRST * first)),
    ]
    if early is not None:
        evidence.append(Evidence(entropy.name, "share lost in the first tenth of the run", early, LOST))
    when = "" if early is None else f", {early:.0%} of it in the first tenth of the run"
    return Finding(
        id="D06",
        severity="warning" if early is None else "hint",
        certainty="likely",
        title="The policy has collapsed: nothing is tried any more",
        what=f"Entropy fell from {first:.2g} to {last:.2g} nats a token{when}"
        + (", and the reward no longer rises." if early is None else "."),
        why="All completions of a prompt come out alike, so none is better than another.",
        remedy="Lower --learning_rate, let unlikely tokens rise (--epsilon_high 0.28), hold the policy by --beta or "
        "--kl_coef, stop sooner.",
        first_step=int(entropy.steps[0]),
        last_step=log.last_step,
        evidence=tuple(evidence),
        source="Cui et al. 2025 (arXiv:2505.22617)",
    )


def detect_explosion(log: RunLog) -> Outcome:
    """Whether the policy draws ever more blindly while the reward falls."""
    entropy, reward = log.get("entropy"), log.get(*LEARNED)
    assert entropy is not None and reward is not None
    if not is_enough(entropy):
        return too_few(entropy)
    first, ends = head(entropy).location, last_two(entropy)
    size = number(log, "vocab_size")
    bound = OF_ALL * math.log(size) if size and size > 1 else min(HIGH_UNKNOWN, 4 * first)
    high = min(one.location for one in ends)
    if not (high > HIGH * first and high > bound and rises(entropy)) or not falls(reward):
        return Nothing()
    return Finding(
        id="D07",
        severity="warning",
        certainty="likely",
        title="The policy comes apart: it draws ever more blindly",
        what=f"Entropy rose from {first:.2g} to {tail(entropy).location:.2g} nats a token while the reward fell.",
        why="The learning rate is too high, or the loss has the wrong sign.",
        remedy="Lower --learning_rate to a tenth; take entropy bonuses out; check the sign of the reward and of the "
        "loss.",
        first_step=int(entropy.steps[0]),
        last_step=log.last_step,
        evidence=(
            Evidence(entropy.name, "entropy over that at first", high / max(first, 1e-9), HIGH),
            Evidence(reward.name, f"{reward.name} at first", head(reward).location),
            Evidence(reward.name, f"{reward.name} at the end", tail(reward).location),
        ),
    )


COLLAPSE = Detector("D06", "entropy collapse", detect_collapse, (("entropy",), LEARNED), ONLINE)
EXPLOSION = Detector("D07", "entropy explosion", detect_explosion, (("entropy",), LEARNED), ONLINE)
