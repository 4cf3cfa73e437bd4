"""D11: a value model that predicts worse than a constant would."""

from __future__ import annotations

from typing import Final

from preftune.diagnose.detector import Detector
from preftune.diagnose.findings import Evidence, Finding, Nothing, Outcome
from preftune.diagnose.series import RunLog
from preftune.diagnose.statistics import is_enough, last_two, part, too_few, window

BEGIN: Final = 0.25  # of the run: before, a critic may still be learning
USELESS: Final = -0.05


def detect(log: RunLog) -> Outcome:
    """Whether the explained variance is below zero after the first quarter of the run."""
    explained = log.get("explained_variance")
    assert explained is not None
    if not is_enough(explained):
        return too_few(explained)
    finite = explained.finite()
    later = window(part(finite, round(BEGIN * len(finite)), None))
    ends = last_two(finite)
    if later.location >= USELESS or any(one.location >= USELESS for one in ends):
        return Nothing()
    return Finding(
        id="D11",
        severity="hint",
        certainty="likely",
        title="The value model is of no use",
        what="Its predictions of the return are worse than the mean would be: advantages are only noisier for it.",
        why="It starts from nothing, learns too slowly, or the returns change faster than it follows.",
        remedy="Start it from the reward model (--value_model), raise --vf_coef, make more passes "
        "(--num_ppo_epochs), or "
        "do without: --lam 1, or GRPO and RLOO, which need none.",
        first_step=later.first_step,
        last_step=log.last_step,
        evidence=(Evidence(explained.name, "explained variance after the first quarter", later.location, USELESS),),
        source="Huang et al. 2022 (37 details of PPO)",
    )


CRITIC = Detector("D11", "useless critic", detect, (("explained_variance",),), frozenset({"ppo"}))
