"""What rewards say of everyone's answers: means, changes from the start, and the best of n."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from preftune.data.records import PromptRecord
from preftune.evaluate.answering import Answers, Progress, asked_of
from preftune.evaluate.best_of import BestOfCurve, best_of_curve
from preftune.evaluate.bootstrap import bootstrap_mean
from preftune.evaluate.gathering import Gathered
from preftune.evaluate.matches import scores_of
from preftune.evaluate.measures import Measure
from preftune.evaluate.model import model_folder
from preftune.evaluate.not_taken import CannotTake
from preftune.evaluate.plan import EvaluationPlan
from preftune.rewards.calling import Rewards
from preftune.rewards.combining import combine
from preftune.rewards.naming import open_rewards

REWARD = "reward"


@dataclass
class Rewarding:
    """Opened rewards, and the scores they gave: of each entrant by reward's name those of each prompt's answers.

    The name ``reward`` is the weighted sum.
    """

    rewards: Rewards
    seed: int = 0
    scores: dict[str, dict[str, list[list[float]]]] = field(default_factory=dict)
    more: dict[str, list[list[float]]] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """The sum, and the parts where there are several."""
        return (REWARD, *(self.rewards.names if len(self.rewards.names) > 1 else ()))

    def sums(self, name: str) -> list[list[float]]:
        """The sums of an entrant's answers, prompt by prompt."""
        return self.scores[name][REWARD]


def open_rewarding(plan: EvaluationPlan, note: Callable[[str], object]) -> Rewarding:
    """The rewards that the plan names, reward models by their run too; judges as rewards."""
    named = [model_folder(one) if isinstance(one, str) else one for one in plan.reward]
    rewards = open_rewards(named, note=note, max_length=plan.max_length, batch_size=plan.batch_size)
    return Rewarding(rewards, plan.seed)


def reward_all(
    rewarding: Rewarding, prompts: Sequence[PromptRecord], gathered: Mapping[str, Gathered], progress: Progress
) -> None:
    """Scores everyone's answers and adds the mean rewards to their measures.

    A prompted entrant's answers are answers to the prompt itself: what stood before it is no part of what is judged.
    """
    for name, one in gathered.items():
        if one.answers.drawn():
            rewarding.scores[name] = score_answers(rewarding, prompts, one.answers, name, progress)
            one.measures |= reward_measures(rewarding, rewarding.scores[name])
        if one.more_answers is not None and one.more_answers.drawn():
            found = score_answers(rewarding, prompts, one.more_answers, f"{name}, best of n", progress)
            rewarding.more[name] = found[REWARD]


def score_answers(
    rewarding: Rewarding, prompts: Sequence[PromptRecord], answers: Answers, name: str, progress: Progress
) -> dict[str, list[list[float]]]:
    """By reward's name the scores of each prompt's answers; NaN where there is none."""
    asked = asked_of(prompts, answers)
    with progress(f"rewards of {name}", len(asked.ids)) as bar:
        table = rewarding.rewards.score(asked)
        bar.advance(len(asked.ids))
    sums = combine(table.values, rewarding.rewards.weights, np.arange(len(asked.ids)), failed=table.failed)
    columns = {} if len(table.names) < 2 else dict(zip(table.names, table.values.T, strict=True))
    return {key: scores_of(values, answers) for key, values in ({REWARD: sums} | columns).items()}


def reward_measures(rewarding: Rewarding, scores: Mapping[str, Sequence[Sequence[float]]]) -> dict[str, Measure]:
    """The mean of each reward, its interval over prompts."""
    label = " + ".join(rewarding.rewards.names)
    return {
        _key(name): bootstrap_mean(
            [value for several in found for value in several],
            [number for number, several in enumerate(found) for _ in several],
            "",
            f"Reward ({label})" if name == REWARD else f"Reward {name}",
            "Mean over its answers.",
            rewarding.seed,
        )
        for name, found in scores.items()
    }


def reward_changes(rewarding: Rewarding, start: Gathered, one: Gathered, seed: int) -> dict[str, Measure]:
    """After minus before of each reward, prompt by prompt."""
    was, now = (rewarding.scores.get(each.entrant.name) for each in (start, one))
    if was is None or now is None:
        return {}
    return {
        _key(name): bootstrap_mean(
            np.array(prompt_means(now[name])) - np.array(prompt_means(was[name])),
            range(len(now[name])),
            "",
            f"Change of {'reward' if name == REWARD else f'reward {name}'}",
            "After minus before on the same prompts.",
            seed,
        )
        for name in now
        if name in was
    }


def best_of_start(gathered: Mapping[str, Gathered], rewarding: Rewarding, seed: int) -> BestOfCurve:
    """The start's curve, and where the first model lies on it."""
    first = next(one for one in gathered.values() if one.entrant.is_first)
    start = first.entrant.start
    if start is None or start not in rewarding.more or first.entrant.name not in rewarding.scores:
        raise CannotTake("The start of the model is not known or gave no answer, so there is no best of n of it.")
    trained = prompt_means(rewarding.sums(first.entrant.name))
    most = max(map(len, rewarding.more[start]))
    scores = [several if len(several) == most else [np.nan] * most for several in rewarding.more[start]]
    return best_of_curve(np.array(scores), trained, seed=seed)


def prompt_means(scores: Sequence[Sequence[float]]) -> list[float]:
    """Each prompt's mean score; NaN without any."""
    return [_mean(np.array(several, dtype=float)) for several in scores]


def _mean(values: Float[np.ndarray, "answers"]) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")


def _key(name: str) -> str:
    return name if name == REWARD else f"rewards/{name}"
