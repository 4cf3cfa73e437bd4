"""Groups that teach something: those whose rewards are all the same are drawn again, with other prompts.

DAPO's dynamic sampling (Yu et al. 2025, arXiv:2503.14476, section 3.2).
"""

from __future__ import annotations

from preftune.methods.across import gathered
from preftune.methods.online import Online
from preftune.methods.rollout_figures import Sums, spread
from preftune.methods.rollouts import Judged
from preftune.methods.windows import TakePrompts


def draw_informative(online: Online, judged: Judged, take: TakePrompts, number: int) -> tuple[Judged, Judged, Sums]:
    """As many groups as were ``judged``, drawn anew until their rewards differ; and all that were drawn.

    After ``max_resampling`` rounds the rest is filled with groups that do not. All processes draw in every round, for
    they take their prompts together.
    """
    wanted = judged.n_groups
    useful, useless = _parted(online, judged)
    for turn in range(1, online.context.config.max_resampling + 1):
        missing = max(gathered(online.context.accelerator, [wanted - useful.n_groups]))
        if missing <= 0:
            break
        more = online.draw(take, number, turn, missing)
        good, bad = _parted(online, more)
        useful, useless = useful + good, useless + bad
    found = min(useful.n_groups, wanted)
    if found < wanted:
        rounds = online.context.config.max_resampling
        online.context.reporter.note(f"dynamic sampling: {found} of {wanted} groups differ in reward, {rounds} rounds")
    drawn = useful.n_groups + useless.n_groups
    figures: Sums = {"dynamic_sampling/drawn": (float(drawn), 1.0), "dynamic_sampling/useful": (float(found), 1.0)}
    return (useful + useless).first(wanted), useful + useless, figures


def _parted(online: Online, judged: Judged) -> tuple[Judged, Judged]:
    """The groups whose rewards differ, and the others."""
    rewards = online.objective.combined(judged)
    differ = {group for group in judged.groups.tolist() if spread(rewards[judged.groups == group]) > 0}
    others = set(judged.groups.tolist()) - differ
    return judged.only(differ), judged.only(others)
