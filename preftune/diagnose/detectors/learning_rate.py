"""D27 and D28: a learning rate that breaks the model, and one by which nothing is learned."""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from preftune.diagnose.detector import Detector
from preftune.diagnose.detectors.reading import LEARNED, ONLINE, PREFERENCE, number
from preftune.diagnose.findings import CannotTell, Certainty, Evidence, Finding, Nothing, Outcome, Severity
from preftune.diagnose.series import RunLog, Series
from preftune.diagnose.statistics import (
    falls,
    head,
    is_enough,
    last_two,
    noise,
    part,
    rises,
    spikes,
    start,
    tail,
    too_few,
    trend,
    window,
)

DEVIATIONS: Final = 6.0  # of a spike
PER_HUNDRED, LEAST_SPIKES = 3.0, 3  # lines of the log
GREW: Final = 10.0  # the gradient
ABOVE_START: Final = 1.15  # the loss against a model that knows nothing
WORSE: Final = 3.0  # deviations of a line by which an online reward ends below its start
REMEDY: Final = (
    "Divide --learning_rate by 3 to 10, warm up (--warmup_ratio 0.1), clip gradients (--max_grad_norm 1), and start "
    "anew "
    "from the same start: what is broken does not mend."
)
FOR_LONG: Final = 0.1  # of the run
STILL: Final = 2.0  # standard errors
NO_GRADIENT: Final = 1e-12


def detect_high(log: RunLog) -> Outcome:
    """Whether the loss has come to be worse than at the start, gradients have grown, or both keep leaping."""
    loss, norm = log.get("loss"), log.get("grad_norm")
    if not is_enough(loss) and not is_enough(norm):
        there = loss or norm
        return too_few(there) if there is not None else CannotTell("The log has neither loss nor grad_norm.")
    evidence: list[Evidence | None] = []
    if log.method in ONLINE:
        evidence += [_reward_ruined(log), _grew(norm)]
    else:
        evidence += [_loss_ruined(log, loss), _grew(norm), _leaps(loss, norm)]
    found = tuple(one for one in evidence if one is not None)
    if not found:
        return Nothing()
    certainty: Certainty = "certain" if len(found) > 1 else "likely"
    return Finding(
        id="D27",
        severity="warning",
        certainty=certainty,
        title="The learning rate is too high",
        what="Training makes the model worse, or leaps about, instead of making it better.",
        why=f"The steps are too large{_rate(log)}; or, where the reward falls from the start, a sign is wrong.",
        remedy=REMEDY,
        first_step=int((loss or norm).steps[0]),  # type: ignore[union-attr]
        last_step=log.last_step,
        evidence=found,
        source="Meng et al. 2024 (arXiv:2405.14734): rates of 1e-5 break models that 1e-6 trains",
    )


def _rate(log: RunLog) -> str:
    rate = number(log, "learning_rate")
    return "" if rate is None else f" (--learning_rate {rate:.3g})"


def _loss_ruined(log: RunLog, loss: Series | None) -> Evidence | None:
    """The loss, for good, above what it was before anything was learned."""
    if loss is None or not is_enough(loss):
        return None
    begun = _loss_at_start(log, loss)
    low = min(one.location for one in last_two(loss))
    middle = window(part(loss.finite(), len(loss.finite()) // 4, None))
    bound = begun + max((ABOVE_START - 1) * abs(begun), 2 * noise(loss) / max(middle.n, 1) ** 0.5)
    if min(low, middle.location) <= bound:
        return None
    return Evidence(loss.name, f"loss at the end, {begun:.3g} at the start,", low, bound)


def _loss_at_start(log: RunLog, loss: Series) -> float:
    """By its closed form where that is known: the first logged steps may have broken it already."""
    if log.method in ("dpo", "reward"):
        return min(math.log(2), head(loss).location)
    return min(float(loss.finite().values[0]), head(loss).location)


def _grew(norm: Series | None) -> Evidence | None:
    if norm is None or not is_enough(norm):
        return None
    first = head(norm).location
    ratio = min(one.location for one in last_two(norm)) / max(first, NO_GRADIENT)
    if ratio <= GREW or first <= NO_GRADIENT:
        return None
    return Evidence(norm.name, "gradient at the end over that at first", ratio, GREW)


def _leaps(loss: Series | None, norm: Series | None) -> Evidence | None:
    """Spikes of the loss that gradients have too, after the first tenth: alone, a loss leaps for a row's sake."""
    if loss is None or norm is None or not (is_enough(loss) and is_enough(norm)):
        return None
    later = part(loss.finite(), len(loss.finite()) // 10, None)
    level = max(window(later).location, 0.05 * abs(float(loss.finite().values[0])))
    high = set(spikes(later, DEVIATIONS).tolist()) & set(spikes(norm, DEVIATIONS).tolist())
    tall = [step for step in high if float(loss.values[np.searchsorted(loss.steps, step)]) > 3 * level]
    rate = 100 * len(tall) / len(later)
    if len(tall) < LEAST_SPIKES or rate < PER_HUNDRED:
        return None
    return Evidence(loss.name, "spikes of loss and gradient in a hundred lines", rate, PER_HUNDRED)


def _reward_ruined(log: RunLog) -> Evidence | None:
    """The reward below what the start earned, for good or for a tenth of the run, or far below what it had reached."""
    reward = log.get(*LEARNED)
    if reward is None or not is_enough(reward):
        return None
    finite = reward.finite()
    each = max(noise(finite), 1e-9)
    ends = max(one.location for one in last_two(finite))
    first = max(start(finite), head(finite).location)
    best = max(
        (window(part(finite, i, i + 10)) for i in range(0, len(finite) - 9, max(len(finite) // 50, 1))), key=_place
    )
    if ends < start(finite) - WORSE * each and ends < best.location - WORSE * each:
        what = f"{reward.name} at the end, {start(finite):.3g} at first,"
        return Evidence(reward.name, what, ends, start(finite) - WORSE * each)
    size = max(round(FOR_LONG * len(finite)), 5)
    worst = min(
        (window(part(finite, i, i + size)) for i in range(0, len(finite) - size + 1, max(size // 5, 1))), key=_place
    )
    untouched = float(finite.values[0])  # rates this high ruin the second line already
    if worst.location < untouched - WORSE * each:
        what = f"{reward.name} about step {worst.first_step}, {untouched:.3g} at first,"
        return Evidence(reward.name, what, worst.location, untouched - WORSE * each)
    gained = best.location - first
    if gained > WORSE * each and ends < best.location - max(0.5 * gained, WORSE * each):
        what = f"{reward.name} at the end, {best.location:.3g} near step {best.first_step},"
        return Evidence(reward.name, what, ends, best.location - 0.5 * gained)
    return None


def _place(one: object) -> float:
    return one.location  # type: ignore[attr-defined]


def detect_low(log: RunLog) -> Outcome:
    """Whether the run ends as it began."""
    norm = log.get("grad_norm")
    if norm is not None and is_enough(norm) and float(np.abs(norm.finite().values).max()) < NO_GRADIENT:
        evidence = (Evidence(norm.name, "largest gradient", float(np.abs(norm.finite().values).max()), NO_GRADIENT),)
        return _still(log, "error", "certain", "Every gradient is 0: nothing is trained.", evidence)
    if log.method == "reward":
        return _compare(log, log.get("margin"), log.get("accuracy"))
    if log.method in PREFERENCE - {"online-dpo"}:
        return _compare(log, log.get("rewards/margins"), log.get("rewards/accuracies"))
    if log.method in ONLINE:
        return _reward_still(log)
    if log.method == "sft":
        return _loss_still(log)
    return CannotTell("It needs the method, or margins with accuracies.")


def _compare(log: RunLog, margins: Series | None, accuracies: Series | None) -> Outcome:
    if margins is None:
        return CannotTell("The log has no margins.")
    if not is_enough(margins):
        return too_few(margins)
    finite = margins.finite()
    gained = tail(finite).location - float(finite.values[0] if log.method in ("simpo", "orpo") else 0.0)
    error = max(noise(finite), 1e-12) / max(tail(finite).n, 1) ** 0.5
    found = trend(finite)
    if abs(gained) >= STILL * error and found is not None and found.p < 0.05 and abs(gained) > 1e-5:
        return Nothing()
    if accuracies is not None and is_enough(accuracies) and abs(gained) > 1e-5:
        ends = tail(accuracies)
        if ends.location - STILL * max(ends.error, 0.02) > 0.5:
            return Nothing()
    evidence = [Evidence(margins.name, "change of the margin over the run", gained, STILL * error)]
    if accuracies is not None and len(accuracies.finite()):
        evidence.append(Evidence(accuracies.name, "accuracy at the end", tail(accuracies).location))
    certainty: Certainty = "certain" if abs(gained) <= 1e-5 else "likely"
    return _still(
        log, "warning", certainty, "The margin between chosen and rejected answers has not moved.", tuple(evidence)
    )


def _loss_still(log: RunLog) -> Outcome:
    loss = log.get("loss")
    if loss is None:
        return CannotTell("The log has no loss.")
    if not is_enough(loss):
        return too_few(loss)
    ends = tail(loss)
    fallen, error = start(loss) - ends.location, noise(loss) * (1 / 3 + 1 / ends.n) ** 0.5
    if fallen > STILL * error or falls(loss):
        return Nothing()
    evidence = (Evidence(loss.name, "fall of the loss over the run", fallen, STILL * error),)
    return _still(log, "warning", "likely", "The loss has not fallen.", evidence)


def _reward_still(log: RunLog) -> Outcome:
    """An online reward may stand still for many reasons; told only where the policy has not moved either."""
    reward, kl = log.get(*LEARNED), log.get("objective/kl", "kl")
    if reward is None or kl is None:
        return CannotTell("It needs the reward and the KL from the reference.")
    if not is_enough(reward) or not is_enough(kl):
        return too_few(reward if not is_enough(reward) else kl)
    moved = max(abs(one.location) for one in last_two(kl))
    if moved > 1e-4 or rises(reward):
        return Nothing()
    evidence = (Evidence(kl.name, "KL from the start at the end", moved, 1e-4),)
    return _still(log, "warning", "likely", "The policy is still where it started.", evidence)


def _still(log: RunLog, severity: Severity, certainty: Certainty, what: str, evidence: tuple[Evidence, ...]) -> Finding:
    return Finding(
        id="D28",
        severity=severity,
        certainty=certainty,
        title="Nothing is learned",
        what=what,
        why=f"The learning rate is too low{_rate(log)}, the trained weights are frozen, or the data has nothing to "
        "teach.",
        remedy="Raise --learning_rate by 10; see that the weights that should learn require gradients (--use_peft with "
        "--lora_target_modules all-linear); look at the pairs.",
        first_step=0,
        last_step=log.last_step,
        evidence=evidence,
    )


TOO_HIGH = Detector("D27", "learning rate too high", detect_high)
TOO_LOW = Detector("D28", "nothing learned", detect_low)
