"""D08 and D09: a policy that runs away from its reference, and a KL that cannot be right."""

from __future__ import annotations

from typing import Final

import numpy as np

from preftune.diagnose.detector import Detector
from preftune.diagnose.detectors.policy_step import updates_per_window
from preftune.diagnose.detectors.reading import GROUPED, ONLINE, number, per_completion_kl, per_token_kl, setting
from preftune.diagnose.findings import CannotTell, Certainty, Evidence, Finding, Nothing, Outcome
from preftune.diagnose.series import RunLog, Series
from preftune.diagnose.statistics import blocks, is_enough, last_two, part, tail, too_few, trend

FAR, FAR_A_TOKEN = 50.0, 2.5  # nats
JUMP: Final = 10.0  # times the median of the lines before
LEAST_JUMP: Final = 10.0  # nats a completion: below it a jump is no matter
BENT: Final = 5.0  # the last third's slope over the middle's
ABOVE_TARGET, LINES_ABOVE = 2.0, 20
BELOW_ZERO, K1_BELOW_ZERO = -1e-6, -0.02  # nats a token
AT_START: Final = 0.01  # nats a token
REMEDY: Final = (
    "Take a checkpoint from before. Lower --learning_rate, raise --kl_coef (PPO) or --beta (GRPO, RLOO), leave a "
    "window "
    "early (--early_stop_kl 0.02), end the run at a KL (--kl_cap 20)."
)


def detect_explosion(log: RunLog) -> Outcome:
    """Whether the KL is out of all bounds, leaps, bends upward, or stays above its target."""
    kl = per_completion_kl(log)
    if kl is None:
        return CannotTell("The log has no objective/kl, nor kl with completions/mean_length.")
    if not is_enough(kl):
        return too_few(kl)
    signs = [one for one in (_far(kl), _far_a_token(log), _leaps(kl), _bends(kl), _above_target(log, kl)) if one]
    if not signs:
        return Nothing()
    evidence, since = zip(*signs, strict=True)
    return Finding(
        id="D08",
        severity="warning",
        certainty="certain" if len(signs) > 1 else "likely",
        title="The policy runs away from its reference",
        what=f"The KL has come to {tail(kl).location:.3g} nats a completion.",
        why="The steps are too large, or leaving the reference costs too little; rewards say little that far away.",
        remedy=REMEDY,
        first_step=min(since),
        last_step=log.last_step,
        evidence=evidence,
        source="Gao et al. 2022 (arXiv:2210.10760); Huang et al. 2024 (arXiv:2403.17031): failure from 50 nats on",
    )


def _far(kl: Series) -> tuple[Evidence, int] | None:
    before, after = last_two(kl)
    low = min(before.location, after.location)
    return (Evidence(kl.name, "KL, nats a completion", low, FAR), before.first_step) if low > FAR else None


def _far_a_token(log: RunLog) -> tuple[Evidence, int] | None:
    kl = per_token_kl(log)
    if kl is None or not is_enough(kl):
        return None
    before, after = last_two(kl)
    low = min(before.location, after.location)
    if low <= FAR_A_TOKEN:
        return None
    return Evidence(kl.name, "KL, nats a token", low, FAR_A_TOKEN), before.first_step


def _leaps(kl: Series) -> tuple[Evidence, int] | None:
    """A line ten times the median of those before it, and the next one too."""
    finite = blocks(kl, least=1)
    size = max(len(finite) // 10, 5)
    medians = np.array([np.median(window) for window in np.lib.stride_tricks.sliding_window_view(finite.values, size)])
    ahead, median = finite.values[size:], np.maximum(medians[: len(finite) - size], 1e-9)
    high = (ahead > JUMP * median) & (ahead > LEAST_JUMP)
    twice = np.flatnonzero(high[:-1] & high[1:])
    if not len(twice):
        return None
    place = int(twice[0])
    return Evidence(kl.name, "KL over the median of the lines before", float(ahead[place] / median[place]), JUMP), int(
        finite.steps[size + place]
    )


def _bends(kl: Series) -> tuple[Evidence, int] | None:
    finite = kl.finite()
    n = len(finite)
    middle, late = trend(part(finite, n // 3, 2 * n // 3)), part(finite, 2 * n // 3, None)
    last = trend(late)
    if middle is None or last is None or not last.rises() or tail(late).location < LEAST_JUMP:
        return None
    if last.slope <= BENT * max(middle.slope, 1e-12) or last.change < LEAST_JUMP:
        return None
    return Evidence(
        kl.name, "slope of the last third over the middle's", last.slope / max(middle.slope, 1e-12), BENT
    ), int(late.steps[0])


def _above_target(log: RunLog, kl: Series) -> tuple[Evidence, int] | None:
    target = number(log, "kl_target")
    if target is None or target <= 0:
        return None
    latest = part(kl.finite(), -LINES_ABOVE, None)
    low = float(latest.values.min())
    if len(latest) < LINES_ABOVE or low <= ABOVE_TARGET * target:
        return None
    return Evidence(kl.name, f"least KL of the last {LINES_ABOVE} lines", low, ABOVE_TARGET * target), int(
        latest.steps[0]
    )


def detect_impossible(log: RunLog) -> Outcome:
    """Whether the KL is what no KL can be: below zero, or not 0 before anything was learned."""
    kl = per_token_kl(log)
    if kl is None or not len(kl.finite()):
        return CannotTell("The log has no KL from the reference.")
    finite = kl.finite()
    if (found := _below_zero(log, finite)) is not None:
        return found
    if int(finite.steps[0]) > max(1.0, updates_per_window(log) or 1.0):
        return Nothing() if is_enough(finite) else too_few(finite)
    start = float(finite.values[0])
    if abs(start) <= AT_START:
        return Nothing() if is_enough(finite) else too_few(finite)
    evidence = (Evidence(kl.name, "KL of the first window, nats a token", start, AT_START),)
    what = "The KL from the reference is not 0 in the first window, before anything was learned."
    return _impossible(log, what, int(finite.steps[0]), evidence)


def _below_zero(log: RunLog, kl: Series) -> Finding | None:
    if log.method in GROUPED and setting(log, "kl_estimator") in ("k3", "k2") and log.method == "grpo":
        least = float(kl.values.min())
        if least < BELOW_ZERO:
            at = int(kl.steps[int(np.argmin(kl.values))])
            evidence = (Evidence(kl.name, "least KL, nats a token", least, BELOW_ZERO),)
            return _impossible(log, "The estimator of the KL that is set is never below 0, and is.", at, evidence)
    if not is_enough(kl):
        return None
    before, after = last_two(kl)
    if max(before.location, after.location) >= K1_BELOW_ZERO:
        return None
    evidence = (Evidence(kl.name, "KL at the end, nats a token", tail(kl).location, K1_BELOW_ZERO),)
    return _impossible(log, "The KL stays below 0, which no KL can be on average.", before.first_step, evidence)


def _impossible(log: RunLog, what: str, step: int, evidence: tuple[Evidence, ...]) -> Finding:
    certainty: Certainty = "certain" if setting(log, "ref_model") is None else "likely"
    return Finding(
        id="D09",
        severity="error",
        certainty=certainty,
        title="The KL cannot be right",
        what=what,
        why="Policy and reference differ in more than what was learned: temperature, dropout, template, precision, "
        "adapters left on, another model; or completions are not drawn from the policy whose log-probs are used.",
        remedy="Use one temperature for sampling and log-probs, --disable_dropout true, no --top_p, --top_k or "
        "penalty, "
        "one chat template, and as reference the model the run starts from (leave --ref_model out).",
        first_step=step,
        last_step=log.last_step,
        evidence=evidence,
        source="Schulman 2020, approximating KL divergence: k3 >= 0; KL = 0 for equal policies",
    )


KL_EXPLOSION = Detector("D08", "KL explosion", detect_explosion, (("objective/kl", "kl"),), ONLINE)
KL_IMPOSSIBLE = Detector("D09", "KL estimator or reference wrong", detect_impossible, (("objective/kl", "kl"),), ONLINE)
