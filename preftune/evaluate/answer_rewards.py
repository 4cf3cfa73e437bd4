"""What rewards say of a model's own answers: drawn once, judged by each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from preftune.data.records import PromptRecord
from preftune.errors import PreftuneError
from preftune.evaluate.answering import Progress, asked_of, draw_answers
from preftune.evaluate.measures import Measure, mean
from preftune.evaluate.model import OpenModel
from preftune.rewards.calling import Rewards


def reward_measures(
    model: OpenModel,
    prompts: Sequence[PromptRecord],
    rewards: Rewards,
    *,
    max_length: int | None,
    max_new_tokens: int,
    seed: int,
    progress: Progress,
) -> dict[str, Measure]:
    """The mean of each reward over answers to ``prompts`` drawn at temperature 1, by the rewards' names.

    Prompts that leave no room within ``max_length`` are left out; so, of a reward, are answers it gives no score,
    and its n says so. Raises PreftuneError where nothing is left.
    """
    answers = draw_answers(
        model, prompts, n=1, max_length=max_length, max_new_tokens=max_new_tokens, seed=seed, progress=progress
    )
    asked = asked_of(prompts, answers)
    if not asked.ids:
        raise PreftuneError("None of the prompts can be asked.", mend="Raise --max_length, or look at the template.")
    with progress(f"judging answers of {model.name}", len(asked.ids)) as bar:
        table = rewards.score(asked)
        bar.advance(len(asked.ids))
    return {name: _measured(name, table.values[:, column]) for column, name in enumerate(table.names)}


def _measured(name: str, scores: np.ndarray) -> Measure:
    known = scores[np.isfinite(scores)]
    return mean(known, "", f"Reward {name}", f"Mean over {len(scores)} answers drawn at temperature 1.")
