"""D15 and D16: groups without a signal, and groups too small to have one.

Whether a group is too small is not told by its size: two completions of 64 prompts are nearly as good as eight of 16
(arXiv:2510.00977). It is measured: the power of the signal in a step's gradient against that of its noise
(``grad_snr``), over many steps, and whether the reward moves. Logs without it have only the sign that groups are
small and many of them tied, or that the spread of rewards jumps from step to step.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from preftune.diagnose.detector import Detector
from preftune.diagnose.detectors.reading import GROUPED, LEARNED, is_solved, number
from preftune.diagnose.findings import CannotTell, Certainty, Evidence, Finding, Nothing, Outcome, Severity
from preftune.diagnose.series import RunLog, Series
from preftune.diagnose.statistics import (
    LEAST_POINTS,
    is_enough,
    last_two,
    noise,
    rises,
    tail,
    too_few,
    trend,
    window,
)

MANY, NEARLY_ALL = 0.5, 0.9  # of the groups without a signal
POLARISED: Final = 0.2  # above what chance would tie
SMALL: Final = 8  # completions
SIGNAL: Final = 0.1  # power of signal over that of noise: ten times the batch would be half signal
LATEST: Final = 50  # lines looked at
TIED, JUMPING = 0.3, 0.5
LEAST_GAIN: Final = 0.5  # of the rewards' own spread, over the run: below it nothing was gained


def detect_tied(log: RunLog) -> Outcome:
    """Whether most groups have equal rewards, so no gradient."""
    tied = log.get("frac_reward_zero_std")
    assert tied is not None
    if not is_enough(tied):
        return too_few(tied)
    before, after = last_two(tied)
    share = min(before.location, after.location)
    if share <= MANY:
        return Nothing()
    solved = is_solved(log)
    by_chance = _tied_by_chance(log)
    evidence = [Evidence(tied.name, "share of groups without a signal", tail(tied).location, MANY)]
    if by_chance is not None:
        evidence.append(Evidence(tied.name, "share that chance alone would tie", by_chance))
    polarised = by_chance is not None and share - by_chance > POLARISED
    severity: Severity = "hint" if solved else "error" if share > NEARLY_ALL else "warning"
    if solved:
        why = "The prompts are solved: the reward is near its end."
    elif polarised:
        why = "Prompts are polarised: some are always answered rightly and some never, whatever the group's size."
    else:
        why = "The reward is too coarse, or the prompts too hard or too easy, for a group to differ."
    return Finding(
        id="D15",
        severity=severity,
        certainty="certain",
        title="Most groups teach nothing",
        what=f"In {tail(tied).location:.0%} of the groups all completions have the same reward: their gradient is 0.",
        why=why,
        remedy="Draw such groups again (--dynamic_sampling true), leave out prompts that are always or never solved, "
        "give partial credit in the reward, or raise --num_generations.",
        first_step=before.first_step,
        last_step=after.last_step,
        evidence=tuple(evidence),
        source="DAPO (arXiv:2503.14476)",
    )


def _tied_by_chance(log: RunLog) -> float | None:
    """p^G + (1 - p)^G for a reward of 0 and 1; None for others."""
    size, reward = number(log, "num_generations"), log.get(*LEARNED)
    spread = log.get("reward_std")
    if size is None or size < 2 or reward is None or spread is None:
        return None
    p, deviation = tail(reward).location, tail(spread).location
    if not (0 <= p <= 1 and abs(deviation - (p * (1 - p)) ** 0.5) < 0.1):
        return None
    return float(p**size + (1 - p) ** size)


def detect_small(log: RunLog) -> Outcome:
    """Whether so few completions are compared that the gradient is noise."""
    size = number(log, "num_generations")
    measured = log.get("grad_snr")
    if is_solved(log):
        return Nothing()
    if measured is not None and is_enough(measured):
        return _by_gradient(log, measured.finite(), size)
    if measured is not None:
        return too_few(measured)
    spread, tied = log.get("reward_std"), log.get("frac_reward_zero_std")
    if size is None or (spread is None and tied is None):
        return CannotTell("It needs grad_snr, or num_generations with reward_std or frac_reward_zero_std.")
    return _by_rewards(log, size, spread, tied)


def _by_gradient(log: RunLog, measured: Series, size: float | None) -> Outcome:
    """Little signal, small groups, and a reward that does not move: all three, for noise alone still learns."""
    latest = measured.values[-LATEST:]
    middle = window(Series(measured.name, measured.steps[-LATEST:], latest))
    low = float((latest < SIGNAL).mean())
    is_small = size is None or size < SMALL
    gain = _gain(log)
    if not (middle.location < SIGNAL and low > 0.5 and is_small) or gain is None or gain > LEAST_GAIN:
        return Nothing()
    evidence = (
        Evidence(measured.name, "power of the gradient's signal over its noise (median)", middle.location, SIGNAL),
        Evidence(measured.name, "share of steps below it", low, 0.5),
        Evidence("reward", "gain of the reward, in deviations of a completion's", gain, LEAST_GAIN),
        *([] if size is None else [Evidence("num_generations", "completions a prompt", size, SMALL)]),
    )
    return _finding(log, "likely", middle.first_step, evidence)


def _by_rewards(log: RunLog, size: float, spread: Series | None, tied: Series | None) -> Outcome:
    enough = [one for one in (spread, tied) if one is not None and is_enough(one)]
    if not enough:
        return CannotTell(f"{LEAST_POINTS} steps of reward_std or frac_reward_zero_std are needed.")
    if size >= SMALL:
        return Nothing()
    evidence = []
    if tied is not None and is_enough(tied) and min(one.location for one in last_two(tied)) > TIED:
        evidence.append(Evidence(tied.name, "share of groups without a signal", tail(tied).location, TIED))
    if spread is not None and is_enough(spread):
        level = tail(spread).location
        jumps = noise(spread) / level if level > 0 else 0.0
        if jumps > JUMPING:
            evidence.append(Evidence(spread.name, "jumps of reward_std from step to step, of itself", jumps, JUMPING))
    gain = _gain(log)
    if not evidence or (gain is not None and gain > LEAST_GAIN):
        return Nothing()
    evidence.append(Evidence("num_generations", "completions a prompt", size, SMALL))
    return _finding(log, "hint", int(enough[0].steps[0]), tuple(evidence))


def _gain(log: RunLog) -> float | None:
    """How far the reward rose, in deviations of a completion's reward; 0 where that is no trend."""
    reward, spread = log.get(*LEARNED), log.get("reward_std")
    if reward is None or not is_enough(reward):
        return None
    found = trend(reward)
    if found is None or not rises(reward):
        return 0.0
    deviation = float(np.median(spread.finite().values)) if spread is not None else noise(reward)
    return found.change / deviation if deviation > 0 else float("inf")


def _finding(log: RunLog, certainty: Certainty, first: int, evidence: tuple[Evidence, ...]) -> Finding:
    return Finding(
        id="D16",
        severity="hint",
        certainty=certainty,
        title="The group is too small: the gradient is mostly noise",
        what="A step's completions tell so little of what is better that the reward hardly moves.",
        why="Few completions a prompt: a group's mean and spread are then guesses, and most groups are tied.",
        remedy="Raise --num_generations to 8 or 16; or, at the same number of completions, ask more prompts a step "
        "(--gradient_accumulation_steps). Where rewards are rare, --dynamic_sampling true.",
        first_step=first,
        last_step=log.last_step,
        evidence=evidence,
        source="benchmarks/experiments/group_size; McCandlish et al. 2018 (arXiv:1812.06162)",
    )


TIED_GROUPS = Detector("D15", "groups without a gradient", detect_tied, (("frac_reward_zero_std",),), GROUPED)
SMALL_GROUPS = Detector("D16", "group too small", detect_small, methods=GROUPED)
