"""D18: a reward that says the same of everything, or one of several that does, or that drowns the others."""

from __future__ import annotations

import re
from typing import Final

import numpy as np

from preftune.diagnose.detector import Detector
from preftune.diagnose.detectors.reading import LEARNED, ONLINE, is_solved, setting
from preftune.diagnose.findings import Evidence, Finding, Nothing, Outcome, Severity
from preftune.diagnose.series import RunLog, Series
from preftune.diagnose.statistics import LEAST_IN_WINDOW, too_few

CONSTANT: Final = 1e-6
DOMINANT: Final = 0.95  # of the variance
_COMPONENT = re.compile(r"rewards/(.+)/std")


def detect(log: RunLog) -> Outcome:
    """Whether a reward is constant over ten lines, or one component for the whole run."""
    spread, reward = log.get("reward_std"), log.get(*LEARNED)
    main = spread or reward
    assert main is not None
    if len(main.finite()) < LEAST_IN_WINDOW:
        return too_few(main, LEAST_IN_WINDOW)
    if (finding := _is_constant(log, spread, reward)) is not None:
        return finding
    return _of_components(log) or Nothing()


def _is_constant(log: RunLog, spread: Series | None, reward: Series | None) -> Finding | None:
    if spread is not None:
        values = np.abs(spread.finite().values[-LEAST_IN_WINDOW:])
        name, largest = spread.name, float(values.max())
    else:
        assert reward is not None
        values = reward.finite().values[-LEAST_IN_WINDOW:]
        name, largest = reward.name, float(np.ptp(values))
    if largest >= CONSTANT:
        return None
    solved = is_solved(log)
    severity: Severity = "hint" if solved else "warning"
    what = f"For the last {LEAST_IN_WINDOW} lines of the log all completions have the same reward."
    why = (
        "Every answer is right: nothing is left to learn." if solved else "The reward's parser fails, or it saturates."
    )
    since = int((spread or reward).finite().steps[-LEAST_IN_WINDOW])  # type: ignore[union-attr]
    return _finding(log, severity, what, why, since, (Evidence(name, f"largest {name} there", largest, CONSTANT),))


def _of_components(log: RunLog) -> Finding | None:
    spreads = {
        found[1]: float(np.median(series.finite().values))
        for name, series in log.series.items()
        if (found := _COMPONENT.fullmatch(name)) and len(series.finite()) >= LEAST_IN_WINDOW
    }
    if len(spreads) < 2:
        return None
    largest = {name: float(np.abs(log.series[f"rewards/{name}/std"].finite().values).max()) for name in spreads}
    dead = [name for name, value in largest.items() if value < CONSTANT]
    if dead:
        what = f"The reward {', '.join(dead)} says the same of every completion, from the first step to the last."
        evidence = tuple(
            Evidence(f"rewards/{name}/std", f"largest deviation of {name}", largest[name]) for name in dead
        )
        return _finding(
            log, "warning", what, "Its parser fails, or what it asks for is always or never there.", 0, evidence
        )
    weights = setting(log, "reward_weights")
    if isinstance(weights, list | tuple) and len(weights) != len(spreads):
        weights = None
    powers = np.array(list(spreads.values())) ** 2
    if isinstance(weights, list | tuple):
        powers = powers * np.array(weights, dtype=float) ** 2
    share = float(powers.max() / powers.sum()) if powers.sum() > 0 else 0.0
    if share <= DOMINANT:
        return None
    name = list(spreads)[int(np.argmax(powers))]
    what = f"{share:.0%} of the rewards' variance is that of {name}: the others hardly count."
    evidence = (Evidence(f"rewards/{name}/std", f"share of the variance that is {name}'s", share, DOMINANT),)
    return _finding(log, "hint", what, "Rewards of different scales are summed as they are.", 0, evidence)


def _finding(
    log: RunLog, severity: Severity, what: str, why: str, first: int, evidence: tuple[Evidence, ...]
) -> Finding:
    return Finding(
        id="D18",
        severity=severity,
        certainty="certain",
        title="A reward says nothing",
        what=what,
        why=why,
        remedy="Look at some completions with their rewards (samples.jsonl) and mend the reward function; weigh the "
        "rewards anew (--reward_weights), or normalise each by itself (--multi_objective_aggregation "
        "normalize_then_sum).",
        first_step=first,
        last_step=log.last_step,
        evidence=evidence,
    )


REWARDS = Detector("D18", "reward constant", detect, (("reward_std", *LEARNED),), ONLINE)
