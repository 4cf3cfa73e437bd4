"""D02: signs of reward hacking where no true score is logged: at least two of four must show.

A rising reward is what training is for. It is suspect where it comes with answers that grow, a reward that goes by
length, answers that grow alike, or reward models that no longer agree (Singhal et al. 2023, arXiv:2310.03716).
"""

from __future__ import annotations

from typing import Final

from preftune.diagnose.detector import Detector
from preftune.diagnose.detectors.reading import GOLD, LEARNED, ONLINE, per_completion_kl
from preftune.diagnose.detectors.repetition import stock_phrases
from preftune.diagnose.findings import Evidence, Finding, Nothing, Outcome
from preftune.diagnose.series import RunLog
from preftune.diagnose.statistics import falls, head, is_enough, last_two, noise, rises, tail, too_few

RISEN: Final = 3.0  # deviations of the first points
LONGER: Final = 1.5
BY_LENGTH: Final = 0.6
ALIKE: Final = 0.7  # of the different three-token stretches at first
FEW_OPENINGS: Final = 0.4
APART: Final = 2.0  # the ensemble's deviation against its first
FAR: Final = 10.0  # nats a completion


def detect(log: RunLog) -> Outcome:
    """Whether the reward rises along with two signs of hacking."""
    reward = log.get(*LEARNED)
    assert reward is not None
    if not is_enough(reward):
        return too_few(reward)
    if log.get(*GOLD) is not None:
        return Nothing()  # the true score is known, and D01 looks at it
    risen = tail(reward).location - head(reward).location
    if not (rises(reward) and risen > RISEN * max(head(reward).scale, noise(reward), 1e-12)):
        return Nothing()
    signs = [
        one for one in (_longer(log), _by_length(log), _alike(log), _opens_alike(log), _apart(log), _far(log)) if one
    ]
    if len(signs) < 2:
        return Nothing()
    return Finding(
        id="D02",
        severity="hint",
        certainty="hint" if len(signs) < 3 else "likely",
        title="The reward may be hacked",
        what=f"{reward.name} rose by {risen:.3g}, and {len(signs)} signs of hacking came with it.",
        why="Rewards that were learned overrate what they have seldom seen: long answers, stock phrases, repetition.",
        remedy="Read the 50 completions with the highest reward. Measure what counts beside the reward "
        "(--gold_reward_funcs, a judge, people): then it is known, not guessed. Charge for length in the reward, raise "
        "--kl_coef or --beta, or score by several reward models.",
        first_step=int(reward.steps[0]),
        last_step=log.last_step,
        evidence=(Evidence(reward.name, f"rise of {reward.name}", risen), *signs),
        source="Singhal et al. 2023 (arXiv:2310.03716)",
    )


def _longer(log: RunLog) -> Evidence | None:
    lengths = log.get("completions/mean_length")
    if lengths is None or not is_enough(lengths) or not rises(lengths):
        return None
    ratio = min(one.location for one in last_two(lengths)) / max(head(lengths).location, 1e-9)
    return Evidence(lengths.name, "length against the first", ratio, LONGER) if ratio > LONGER else None


def _by_length(log: RunLog) -> Evidence | None:
    by_length = log.get("reward_len_corr")
    if by_length is None or not is_enough(by_length):
        return None
    low = min(one.location for one in last_two(by_length))
    return Evidence(by_length.name, "correlation of reward and length", low, BY_LENGTH) if low > BY_LENGTH else None


def _alike(log: RunLog) -> Evidence | None:
    different = log.get("rep/distinct3")
    if different is None or not is_enough(different) or not falls(different):
        return None
    ratio = max(one.location for one in last_two(different)) / max(head(different).location, 1e-9)
    return Evidence(different.name, "different stretches against the first", ratio, ALIKE) if ratio < ALIKE else None


def _opens_alike(log: RunLog) -> Evidence | None:
    openings = log.get("rep/unique_prefix")
    if openings is None or not is_enough(openings) or not falls(openings):
        return stock_phrases(log)
    ratio = max(one.location for one in last_two(openings)) / max(head(openings).location, 1e-9)
    if ratio < FEW_OPENINGS:
        return Evidence(openings.name, "different openings against the first", ratio, FEW_OPENINGS)
    return stock_phrases(log)


def _apart(log: RunLog) -> Evidence | None:
    ensemble = log.get("reward/ensemble_std", "reward_ensemble_std")
    if ensemble is None or not is_enough(ensemble):
        return None
    ratio = min(one.location for one in last_two(ensemble)) / max(head(ensemble).location, 1e-9)
    return (
        Evidence(ensemble.name, "disagreement of the reward models, against the first", ratio, APART)
        if ratio > APART
        else None
    )


def _far(log: RunLog) -> Evidence | None:
    kl = per_completion_kl(log)
    if kl is None or not is_enough(kl):
        return None
    low = min(one.location for one in last_two(kl))
    return Evidence(kl.name, "KL from the reference, nats a completion", low, FAR) if low > FAR and rises(kl) else None


HACKING_SIGNS = Detector("D02", "signs of reward hacking", detect, (LEARNED,), ONLINE)
