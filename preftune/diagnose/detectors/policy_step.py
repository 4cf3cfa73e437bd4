"""D10 and D35: updates that take the policy too far from what drew the completions."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Final

from preftune.diagnose.detector import Detector
from preftune.diagnose.detectors.reading import ONLINE, number
from preftune.diagnose.findings import CannotTell, Evidence, Finding, Nothing, Outcome
from preftune.diagnose.series import RunLog, Series
from preftune.diagnose.statistics import is_enough, part, tail, too_few, window

MOVED: Final = 0.05  # nats a token from what drew the window
CLIPPED: Final = 0.3
RATIO_LOW, RATIO_HIGH = 0.8, 1.25
STALE_CLIPPED: Final = 0.3
SIXTHS: Final = 6
KL: Final = "policy/approxkl_avg"


def detect(log: RunLog) -> Outcome:
    """Whether the steps on a window move the policy too far."""
    looked, evidence = [], []
    for series, low, high in (
        (log.get(KL), None, MOVED),
        (clipped_share(log), None, CLIPPED),
        (log.get("val/ratio"), RATIO_LOW, RATIO_HIGH),
    ):
        if series is None or not is_enough(series):
            continue
        looked.append(series)
        if (highest := min(worst_two(series))) > high:
            evidence.append(Evidence(series.name, f"{series.name} over a third of the run", highest, high))
        elif low is not None and (lowest := max(worst_two(series, max))) < low:
            evidence.append(Evidence(series.name, f"{series.name} over a third of the run", lowest, low))
    if not looked:
        there = log.get(KL, "policy/clipfrac_avg", "val/ratio")
        return CannotTell(f"It needs {KL}, clip shares or val/ratio.") if there is None else too_few(there)
    if not evidence:
        return Nothing()
    return Finding(
        id="D10",
        severity="warning",
        certainty="certain" if len(evidence) > 1 else "likely",
        title="The policy's steps are too big",
        what="Within a window of completions the policy moves so far that its ratio to what drew them says little.",
        why="The learning rate is too high, or too many passes are made over the same completions.",
        remedy="Lower --learning_rate, make fewer passes (--num_ppo_epochs, --num_iterations), leave a window early "
        "(--early_stop_kl 0.02).",
        first_step=int(looked[0].steps[0]),
        last_step=log.last_step,
        evidence=tuple(evidence),
        source="Huang et al. 2022 (37 details of PPO); Schulman et al. 2017 (arXiv:1707.06347)",
    )


def clipped_share(log: RunLog) -> Series | None:
    """The share of tokens whose ratio was clipped. RLOO's is of whole completions, which says something else."""
    if log.method == "rloo":
        return None
    if (found := log.get("policy/clipfrac_avg", "clip_ratio/region_mean")) is not None:
        return found
    low, high = log.get("clip_ratio/low_mean"), log.get("clip_ratio/high_mean")
    if low is None or high is None or len(low) != len(high):
        return low or high
    return Series("clip_ratio/low_mean + high_mean", low.steps, low.values + high.values)


def worst_two(series: Series, worse: Callable[[float, float], float] = min) -> tuple[float, float]:
    """The two neighbouring sixths of the run whose better one is worst: with the learning rate such figures fall."""
    finite = series.finite()
    edges = [len(finite) * i // SIXTHS for i in range(SIXTHS + 1)]
    middles = [window(part(finite, begin, end)).location for begin, end in pairwise(edges)]
    choose = max if worse is min else min
    return choose(pairwise(middles), key=lambda two: worse(*two))


def detect_stale(log: RunLog) -> Outcome:
    """Whether completions are used after the policy has left them."""
    lag = log.get("rollout/lag", "rollout/policy_lag")
    clipped, moved = clipped_share(log), log.get(KL)
    updates = updates_per_window(log)
    if lag is None and updates is None:
        return CannotTell("Neither the lag of the rollouts is logged nor are the passes over them said.")
    behind = tail(lag).location if lag is not None else (updates or 1.0) - 1
    if behind <= 1:
        return Nothing()
    signs = [one for one in (clipped, moved) if one is not None]
    if not signs:
        return CannotTell("Rollouts are used for several updates, but no clip shares are logged.")
    if not any(is_enough(one) for one in signs):
        return too_few(signs[0])
    evidence = [Evidence("rollout/lag", "updates since the oldest rollouts were drawn", behind, 1)]
    for series, bound in ((clipped, STALE_CLIPPED), (moved, MOVED)):
        if series is not None and is_enough(series) and min(worst_two(series)) > bound:
            evidence.append(
                Evidence(series.name, f"{series.name} over a third of the run", min(worst_two(series)), bound)
            )
    if len(evidence) == 1:
        return Nothing()
    return Finding(
        id="D35",
        severity="warning",
        certainty="likely",
        title="Completions are stale",
        what=f"Completions are learned from up to {behind:.0f} updates after they were drawn, and many tokens are "
        "clipped by then.",
        why="Clipped tokens teach nothing, and those that are not are of a policy that is no more.",
        remedy="Make fewer passes over what is drawn (--num_ppo_epochs, --num_iterations, --num_mini_batches, "
        "--steps_per_generation), or lower --learning_rate.",
        first_step=int(signs[0].steps[0]),
        last_step=log.last_step,
        evidence=tuple(evidence),
    )


def updates_per_window(log: RunLog) -> float | None:
    """Optimiser steps on completions that were drawn at once; None where the settings do not say."""
    passes = number(log, "num_ppo_epochs", "num_iterations", "ppo_epochs")
    parts = number(log, "num_mini_batches")
    drawn, accumulated = number(log, "steps_per_generation"), number(log, "gradient_accumulation_steps")
    if passes is None and parts is None and drawn is None:
        return None
    shares = parts or (drawn / accumulated if drawn and accumulated else 1.0)
    return (passes or 1.0) * max(shares, 1.0)


POLICY_STEP = Detector("D10", "policy step too big", detect, methods=ONLINE)
STALENESS = Detector("D35", "stale rollouts", detect_stale, methods=ONLINE)
