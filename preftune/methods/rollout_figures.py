"""What a window of judged completions shows, by TRL's names, as sums with their weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from preftune.methods.rollouts import Judged, Rollout

Sums = dict[str, tuple[float, float]]
OPENING_TOKENS = 8


def window_figures(judged: Judged, rewards: Float[np.ndarray, "samples"]) -> Sums:
    """Rewards, their spread within groups, lengths, and signs of formulaic answers; ``rewards`` are the combined."""
    if not judged.rollouts:
        return {}
    return reward_figures(judged, rewards) | length_figures(judged.rollouts) | sameness_figures(judged.rollouts)


def reward_figures(judged: Judged, rewards: Float[np.ndarray, "samples"]) -> Sums:
    """The combined reward and each one's own; ``frac_reward_zero_std`` is the share of groups without a signal.

    A group is two completions or more whose reward is known.
    """
    known = rewards[np.isfinite(rewards)]
    groups = [rewards[judged.groups == group] for group in np.unique(judged.groups)]
    spreads = np.array([spread(group) for group in groups if np.isfinite(group).sum() > 1])
    sums: Sums = {
        "reward": (float(known.sum()), float(len(known))),
        "reward_std": _one(known.std(ddof=1) if len(known) > 1 else 0.0),
    }
    if len(spreads):
        sums["frac_reward_zero_std"] = (float((spreads == 0).sum()), float(len(spreads)))
        sums["group/std_mean"] = (float(spreads.sum()), float(len(spreads)))
    for column, name in enumerate(judged.names):
        values = judged.values[:, column]
        applies = values[np.isfinite(values)]
        sums[f"rewards/{name}/mean"] = (float(applies.sum()), float(len(applies)))
        sums[f"rewards/{name}/std"] = _one(applies.std(ddof=1) if len(applies) > 1 else 0.0)
        if judged.failed[:, column].any():
            sums[f"rewards/{name}/failed"] = (float(judged.failed[:, column].sum()), float(len(values)))
    lengths = np.array([len(one.drawn.tokens) for one in judged.rollouts], dtype=float)
    sums["reward_len_corr"] = _one(length_correlation(rewards, lengths, judged.groups))
    return sums


def advantage_figures(advantages: Float[np.ndarray, "samples"], groups: np.ndarray) -> Sums:
    """Mean and deviation over all completions, and the largest mean of a group, which by construction is near 0."""
    if not len(advantages):
        return {}
    means = [abs(float(advantages[groups == group].mean())) for group in np.unique(groups)]
    return {
        "adv/mean": (float(advantages.sum()), float(len(advantages))),
        "adv/std": _one(advantages.std()),
        "adv/group_mean_max": _one(max(means)),
    }


def length_correlation(
    rewards: Float[np.ndarray, "samples"], lengths: Float[np.ndarray, "samples"], groups: np.ndarray
) -> float:
    """Spearman's correlation of reward and length within prompts: of ranks, each less its group's mean.

    Where each prompt has one completion there is no within, and it is that over all.
    """
    known = np.isfinite(rewards)
    rewards, lengths, groups = rewards[known], lengths[known], groups[known]
    members = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    if all(len(own) < 2 for own in members):
        members = [np.arange(len(rewards))]
    parts = [(_ranks(rewards[own]), _ranks(lengths[own])) for own in members if len(own) > 1]
    if not parts:
        return 0.0
    first, second = (np.concatenate(side) for side in zip(*parts, strict=True))
    scale = float(np.sqrt((first**2).sum() * (second**2).sum()))
    return float((first * second).sum()) / scale if scale else 0.0


def _ranks(values: Float[np.ndarray, "group"]) -> Float[np.ndarray, "group"]:
    """Ranks less their mean; equals share theirs."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts + 1) / 2)[place]
    return ranks - ranks.mean()


def length_figures(rollouts: Sequence[Rollout]) -> Sums:
    """Lengths in tokens; ``clipped_ratio`` is the share that was cut."""
    lengths = np.array([len(one.drawn.tokens) for one in rollouts], dtype=float)
    finished = np.array([one.drawn.finished for one in rollouts])
    return {
        "completions/mean_length": (float(lengths.sum()), float(len(lengths))),
        "completions/min_length": _one(lengths.min()),
        "completions/max_length": _one(lengths.max()),
        "completions/clipped_ratio": (float((~finished).sum()), float(len(lengths))),
        "completions/mean_terminated_length": (float(lengths[finished].sum()), float(finished.sum())),
    }


def sameness_figures(rollouts: Sequence[Rollout]) -> Sums:
    """Different three-token stretches among all, and different openings among all completions."""
    stretches: Counter[tuple[int, ...]] = Counter()
    for one in rollouts:
        tokens = one.drawn.tokens
        stretches.update(zip(tokens, tokens[1:], tokens[2:], strict=False))
    openings = {tuple(one.drawn.tokens[:OPENING_TOKENS]) for one in rollouts}
    return {
        "rep/distinct3": (float(len(stretches)), float(stretches.total())),
        "rep/unique_prefix": (float(len(openings)), float(len(rollouts))),
    }


def spread(rewards: Float[np.ndarray, "group"]) -> float:
    """The standard deviation of a group's rewards; 0 where fewer than two are known or all are the same."""
    known = rewards[np.isfinite(rewards)]
    return 0.0 if len(known) < 2 or np.ptp(known) == 0 else float(known.std(ddof=1))


def _one(value: float) -> tuple[float, float]:
    return float(value), 1.0
