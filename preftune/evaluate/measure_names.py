"""The names under which measures stand in a result and in a gate, and what each is."""

from __future__ import annotations

import difflib
import re
from typing import Final

# A name in brackets stands for any: rewards/{reward} is rewards/length, rewards/accuracy ...
MEASURES: Final[dict[str, str]] = {
    "ranking_accuracy": "how often the preferred answer is the likelier one a token",
    "preference_accuracy": "how often the model raised the preferred answer more, against its start",
    "reward_margin": "beta times how much further the preferred answer was raised",
    "log_prob_per_token": "mean log-prob of preferred answers",
    "mean_length": "mean length of answers in tokens",
    "finished": "share of answers that ended by themselves",
    "kl": "KL from the start in nats an answer",
    "accuracy": "of a reward model: how often it scores the preferred answer higher",
    "margin": "of a reward model: chosen minus rejected score",
    "mean_reward": "of a reward model: mean score",
    "calibration_error": "of a reward model: distance between sure and right",
    "temperature": "of a reward model: what its margins are divided by",
    "longer_wins": "how often the preferred answer is the longer one",
    "reward": "mean reward of answers",
    "rewards/{reward}": "the same of one of several rewards",
    "win_rate": "against the first --against, else against the start; ties half",
    "win_rate/{opponent}": "against start, system-prompt, few-shot, or a model of --against",
    "lc_win_rate": "the win rate at equal lengths",
    "lc_win_rate/{opponent}": "the same against one opponent",
    "ties": "share of ties in the win rate",
    "ties/{opponent}": "the same against one opponent",
    "distinct_1": "different words over all words",
    "distinct_2": "different neighbouring words over all",
    "unique_openings": "different first three words over all answers",
    "repetition": "share of three-word sequences an answer had before",
    "words": "words an answer",
    "retention_loss": "nats a token on general text",
    "lm_eval/{task}/{metric}": "a metric of a task of lm-evaluation-harness",
    "change/{measure}": "after minus before on the same items, of most of the above",
    "worth_best_of": "the n whose best of n the trained model is worth",
    "frontier/best_reward": "reward of the best checkpoint",
    "frontier/best_kl": "its KL from the start",
    "human_win_rate": "of the blind check by a person, decided ones only",
    "human_points": "of the blind check, ties half",
    "human_ties": "share of ties in the blind check",
}


def is_measure(name: str) -> bool:
    """Whether a measure can have this name."""
    if name.startswith("change/"):
        return is_measure(name.removeprefix("change/"))
    return any(_pattern(known).fullmatch(name) for known in MEASURES if known != "change/{measure}")


def nearest_measure(name: str) -> str | None:
    """The known name nearest to one that is none."""
    found = difflib.get_close_matches(name, MEASURES, n=1, cutoff=0.5)
    return found[0] if found else None


def _pattern(known: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\\\{\w+\\\}", r"[^\\s]+", re.escape(known)))
