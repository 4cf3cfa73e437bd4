"""D01: the reward that is trained on goes one way, the score that counts another (Gao et al. 2022, arXiv:2210.10760).

Gold is whatever was measured beside the reward and not trained on: a gold reward, a judge's win rate, people's. Two
signs are looked for. It *fell*: gold is surely below its own peak while the proxy is not below what it was there. It
*stalled*: in the later half the proxy goes on rising, and gold gives less than a fifth of what as much proxy had
bought before. A gold score that is the proxy can do neither.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from preftune.diagnose.detector import Detector
from preftune.diagnose.detectors.reading import GOLD, LEARNED, ONLINE, per_completion_kl, value_at
from preftune.diagnose.findings import Certainty, Evidence, Finding, Nothing, Outcome
from preftune.diagnose.series import RunLog, Series
from preftune.diagnose.statistics import at_steps, blocks, noise, rises, since, too_few, trend

PROXIES: Final = (*LEARNED, "eval_reward")
LEAST_GOLD: Final = 8  # measurements
MOST_BLOCKS: Final = 24
FELL: Final = 3.0  # standard errors below the peak, for the last two blocks together; 2 for each
STALLED: Final = 0.2  # of the gold that as much proxy bought before
SURE: Final = 3.0  # standard errors
LEAST_AFTER: Final = 3  # blocks after the peak
REMEDY: Final = (
    "Take the checkpoint at the peak of gold. To go on: raise the price of the KL (--kl_coef for PPO, --beta for GRPO "
    "and RLOO), stop by --kl_cap at the KL of the peak, score by several reward models and take the worst, and "
    "retrain the reward model on completions of this policy."
)


@dataclass(frozen=True)
class _Curves:
    """Gold and proxy in the same blocks; ``error`` is the standard error of a block of gold, of proxy."""

    gold: Series
    proxy: np.ndarray
    gold_error: float
    proxy_error: float


def detect(log: RunLog) -> Outcome:
    """Whether reward and gold part."""
    reward, gold = log.get(*PROXIES), log.get(*GOLD)
    assert reward is not None and gold is not None
    if len(gold.finite()) < LEAST_GOLD:
        return too_few(gold, LEAST_GOLD)
    if len(reward.finite()) < LEAST_GOLD:
        return too_few(reward, LEAST_GOLD)
    if not rises(reward):
        return Nothing()
    curves = _in_blocks(log, reward.finite(), gold.finite())
    return _fell(log, reward, gold, curves) or _stalled(log, reward, gold, curves) or Nothing()


def _in_blocks(log: RunLog, reward: Series, gold: Series) -> _Curves:
    means = blocks(gold, MOST_BLOCKS, least=max(len(gold) // MOST_BLOCKS, 1))
    size = len(gold) / len(means)
    told = log.get(f"{gold.name}_se")
    error = float(np.median(told.finite().values)) if told is not None else noise(gold)
    edges = np.concatenate([[-np.inf], (means.steps[1:] + means.steps[:-1]) / 2, [np.inf]])
    counts, _ = np.histogram(reward.steps, edges)
    sums, _ = np.histogram(reward.steps, edges, weights=reward.values)
    proxy = np.where(counts > 0, sums / np.maximum(counts, 1), at_steps(reward, means.steps))
    return _Curves(means, proxy, error / size**0.5, noise(reward) / max(float(np.median(counts)), 1.0) ** 0.5)


def _fell(log: RunLog, reward: Series, gold: Series, curves: _Curves) -> Finding | None:
    values, n = curves.gold.values, len(curves.gold)
    smooth = np.convolve(values, np.ones(3) / 3, mode="valid")  # the mean of three: a single lucky block is no peak
    peak = int(np.argmax(smooth)) + 1
    if n - 1 - peak < LEAST_AFTER:
        return None
    top, ends = float(smooth[peak - 1]), values[-2:]
    error = curves.gold_error
    single, both = error * (1 + 1 / 3) ** 0.5, error * (1 / 2 + 1 / 3) ** 0.5
    drop = top - float(ends.mean())
    if not (np.all(top - ends > 2 * single) and drop > FELL * both and drop > 0):
        return None
    gain = float(curves.proxy[-2:].mean() - curves.proxy[peak - 1 : peak + 2].mean())
    allowed = 2 * curves.proxy_error * (1 / 2 + 1 / 3) ** 0.5
    if not gain > -allowed:
        return None  # both fell: the policy broke, it did not hack
    step = int(curves.gold.steps[peak])
    sure: Certainty = "certain" if gain > allowed and drop > 2 * FELL * both else "likely"
    kl = value_at(per_completion_kl(log), step)
    where = "" if kl is None else f", at {kl:.1f} nats a completion from the reference"
    return Finding(
        id="D01",
        severity="warning",
        certainty=sure,
        title="Reward hacking: the reward rises, the true score falls",
        what=f"{gold.name} peaked near step {step}{where}, and has fallen by {drop:.3g} since, while {reward.name} "
        f"went on by {gain:+.3g}.",
        why="The policy has found what the reward overrates: the further it is from where the reward was learned, the "
        "less the reward says.",
        remedy=REMEDY,
        first_step=step,
        last_step=int(gold.steps[-1]),
        evidence=(
            Evidence(gold.name, f"{gold.name} at its peak", top),
            Evidence(gold.name, f"{gold.name} at the end", float(ends.mean()), top - FELL * both),
            Evidence(reward.name, f"{reward.name} at that peak", float(curves.proxy[peak - 1 : peak + 2].mean())),
            Evidence(reward.name, f"{reward.name} at the end", float(curves.proxy[-2:].mean())),
            *([] if kl is None else [Evidence("objective/kl", "KL at the peak, nats a completion", kl)]),
        ),
        source="Gao et al. 2022 (arXiv:2210.10760)",
    )


def _stalled(log: RunLog, reward: Series, gold: Series, curves: _Curves) -> Finding | None:
    n = len(curves.gold)
    if n < LEAST_GOLD:
        return None
    half, third = n // 2, max(n // 6, 1)
    step = float(curves.gold.steps[half])
    late = since(reward, step)
    if not rises(late):
        return None
    gold_late = trend(since(gold, step))
    if gold_late is None or gold_late.rises(0.05):
        return None
    error = curves.gold_error * (2 / third) ** 0.5
    first, middle, last = (
        (float(curves.gold.values[at].mean()), float(curves.proxy[at].mean()))
        for at in (slice(0, third), slice(half - third // 2, half - third // 2 + third), slice(n - third, n))
    )
    bought, paid = middle[0] - first[0], middle[1] - first[1]
    got, spent = last[0] - middle[0], last[1] - middle[1]
    if spent <= SURE * curves.proxy_error * (2 / third) ** 0.5 or paid <= 0 or spent < 0.2 * paid:
        return None
    expected = max(bought, 0.0) / paid * spent
    if not (expected - got > SURE * error and got < STALLED * expected):
        return None
    return Finding(
        id="D01",
        severity="warning",
        certainty="likely",
        title="Reward hacking: the reward rises, the true score does not",
        what=f"Since step {int(step)} {reward.name} rose by {spent:.3g}; before, as much had brought {expected:.3g} of "
        f"{gold.name}, now it brought {got:+.3g}.",
        why="What the policy still learns is the reward's error, not what the reward stands for.",
        remedy=REMEDY,
        first_step=int(step),
        last_step=int(gold.steps[-1]),
        evidence=(
            Evidence(reward.name, f"change of {reward.name} in the later half", spent),
            Evidence(gold.name, f"change of {gold.name} in the later half", got, STALLED * expected),
            Evidence(gold.name, "p of its trend there", gold_late.p),
        ),
        source="Gao et al. 2022 (arXiv:2210.10760)",
    )


REWARD_HACKING = Detector("D01", "reward hacking, gold known", detect, needs=(PROXIES, GOLD), methods=ONLINE)
