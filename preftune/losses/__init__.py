"""Every preference loss as a pure function of log-probs; ``losses.dpo(...)`` gives one loss a pair."""

from preftune.losses.pairwise import dpo, log_ratio_margin

__all__ = ["dpo", "log_ratio_margin"]
