"""Which series and settings play which part, whatever the method calls them."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from preftune.diagnose.series import RunLog, Series
from preftune.diagnose.statistics import LEAST_IN_WINDOW, at_steps

GROUPED: Final = frozenset({"grpo", "rloo"})
ONLINE: Final = frozenset({"grpo", "rloo", "ppo", "online-dpo"})
ON_PAIRS: Final = frozenset({"dpo", "ipo", "orpo", "simpo"})
WITH_REFERENCE: Final = frozenset({"dpo", "ipo", "kto"})
PREFERENCE: Final = ON_PAIRS | {"kto", "online-dpo"}
LEAST_EVALUATIONS: Final = 4
LEARNED: Final = ("reward", "objective/scores")
GOLD: Final = (
    *("gold/score", "eval_gold/score", "judge/win_rate", "eval_judge/win_rate"),
    *("human/rate", "eval_human/rate", "eval_win_rate", "win_rate"),
)


def setting(log: RunLog, *names: str) -> Any:
    """The first of these settings that is said; None where none is."""
    return next((log.config[name] for name in names if log.config.get(name) is not None), None)


def number(log: RunLog, *names: str) -> float | None:
    """The same as a finite number; None for what is none."""
    value = setting(log, *names)
    try:
        found = float(value) if value is not None and not isinstance(value, bool) else None
    except (TypeError, ValueError):
        return None
    return found if found is not None and np.isfinite(found) else None


def evaluated(log: RunLog, *names: str) -> Series | None:
    """The finite points of the first of these that is logged; None of fewer than ``LEAST_EVALUATIONS``."""
    series = log.get(*names)
    return None if series is None or len(series.finite()) < LEAST_EVALUATIONS else series.finite()


def beta_of(log: RunLog) -> float | None:
    """What implicit rewards are multiplied by; None where it is not said, or the method has no reference."""
    beta = number(log, "beta")
    return beta if beta and log.method in (*WITH_REFERENCE, "online-dpo", None) else None


def loss_types(log: RunLog) -> tuple[str, ...]:
    """The names of the losses that are summed; none where it is not said."""
    said = setting(log, "loss_type")
    return (said,) if isinstance(said, str) else tuple(map(str, said)) if isinstance(said, list | tuple) else ()


def per_completion_kl(log: RunLog) -> Series | None:
    """The KL from the reference in nats a completion.

    GRPO and RLOO log it a token, which is multiplied by the mean length; KTO's ``kl`` is something else.
    """
    if (found := log.get("objective/kl")) is not None:
        return found
    kl, lengths = log.get("kl"), log.get("completions/mean_length")
    if kl is None or lengths is None or log.method == "kto":
        return None
    return Series(kl.name, kl.steps, kl.values * at_steps(lengths, kl.steps), kl.logged_as)


def per_token_kl(log: RunLog) -> Series | None:
    """The same in nats a token."""
    if log.method in GROUPED or log.method is None:
        found = log.get("kl") if log.get("completions/mean_length", "frac_reward_zero_std") is not None else None
        if found is not None:
            return found
    kl, lengths = log.get("objective/kl"), log.get("completions/mean_length")
    if kl is None or lengths is None:
        return None
    return Series(kl.name, kl.steps, kl.values / np.maximum(at_steps(lengths, kl.steps), 1e-9), kl.logged_as)


def is_solved(log: RunLog) -> bool:
    """True where a reward between 0 and 1 has come to nearly 1: nothing is left to learn, and nothing is wrong."""
    reward = log.get(*LEARNED)
    if reward is None:
        return False
    values = reward.finite().values
    if len(values) < LEAST_IN_WINDOW:
        return False
    return bool(values.min() >= -1e-9 and values.max() <= 1 + 1e-9 and np.median(values[-10:]) >= 0.9)


def value_at(series: Series | None, step: float) -> float | None:
    """What a curve was at a step; None where there is no curve."""
    return None if series is None else float(at_steps(series, np.array([step]))[0])


def span(*series: Series | None) -> tuple[int, int]:
    """The first and the last step of these series."""
    there = [one for one in series if one is not None and len(one)]
    return (int(min(one.steps[0] for one in there)), int(max(one.steps[-1] for one in there))) if there else (0, 0)
