"""The win rates of a line-up: by judges where there are any, else by the higher reward."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from preftune.data.records import PromptRecord
from preftune.evaluate.answering import Progress
from preftune.evaluate.entrants import Field
from preftune.evaluate.gathering import Gathered
from preftune.evaluate.matches import (
    WIN_RATE,
    Contest,
    MatchResult,
    Verdicts,
    contest_of,
    judge_by_models,
    judge_by_scores,
    paired_scores,
    result_of,
)
from preftune.evaluate.plan import EvaluationPlan
from preftune.evaluate.rewarding import Rewarding

Named = tuple[str, str, str, MatchResult]  # subject, opponent, the opponent's key, what came of it


class Setting(Protocol):
    """What is told to, and where reasons are kept."""

    progress: Progress
    note: Callable[[str], object]
    not_taken: dict[str, str]


def take_verdicts(
    lined_up: Field,
    gathered: Mapping[str, Gathered],
    prompts: Sequence[PromptRecord],
    rewarding: Rewarding | None,
    plan: EvaluationPlan,
    setting: Setting,
) -> tuple[list[Named], dict[str, Any]]:
    """Every match's result, and the document of the judging; nothing where nothing can decide."""
    if not plan.wants_verdicts:
        return [], {}
    if not lined_up.matches:
        if lined_up.entrants:
            setting.not_taken[WIN_RATE] = "There is nobody to win against: what the model started from is not known."
        return [], {}
    contests = [
        contest_of(
            f"{one.subject} against {one.opponent}", gathered[one.subject].answers, gathered[one.opponent].answers
        )
        for one in lined_up.matches
    ]
    if not any(contest.texts for contest in contests):
        setting.not_taken[WIN_RATE] = "No prompt was answered by both: num_completions is 0, or none fits max_length."
        return [], {}
    if plan.judge:
        verdicts, document = _judged(contests, prompts, plan, setting)
        by = ", ".join(str(getattr(one, "model", one)) for one in plan.judge)
    else:
        assert rewarding is not None
        verdicts, document = _rewarded(lined_up, contests, rewarding), {}
        by = f"the reward {' + '.join(rewarding.rewards.names)}"
    named: list[Named] = []
    for match, contest, one in zip(lined_up.matches, contests, verdicts, strict=True):
        result = result_of(contest, one, by, seed=plan.seed)
        named.append((match.subject, match.opponent, match.key, result))
        if lined_up.first is not None and match.subject == lined_up.first.name:
            setting.not_taken.update({f"{key}/{match.key}": why for key, why in result.not_taken.items()})
        if match == lined_up.main:
            setting.not_taken.update(result.not_taken)
    return named, document


def _judged(
    contests: Sequence[Contest], prompts: Sequence[PromptRecord], plan: EvaluationPlan, setting: Setting
) -> tuple[list[Verdicts], dict[str, Any]]:
    from preftune.collect.judge import How, judge_named
    from preftune.collect.prices import find_price

    judges = [
        judge_named(one, price=lambda model, is_free: find_price(model, None, None, is_free=is_free))
        if isinstance(one, str)
        else one
        for one in plan.judge
    ]
    how = plan.judging or How()
    asked = 2 * how.samples * len(judges) * sum(len(contest.texts) for contest in contests)
    with setting.progress("judging", asked) as bar:
        return judge_by_models(
            contests,
            prompts,
            judges,
            how,
            journal=plan.journal,
            progress=lambda judge, answer, spent: bar.advance(1),
            note=setting.note,
        )


def _rewarded(lined_up: Field, contests: Sequence[Contest], rewarding: Rewarding) -> list[Verdicts]:
    """By the rewards' sums; none where those of one side could not be had."""
    found = []
    for match, contest in zip(lined_up.matches, contests, strict=True):
        if match.subject in rewarding.scores and match.opponent in rewarding.scores:
            sums = (rewarding.sums(name) for name in (match.subject, match.opponent))
            found.append(judge_by_scores(*paired_scores(*sums)))
        else:
            unknown = np.full(len(contest.texts), np.nan)
            found.append(judge_by_scores(unknown, unknown))
    return found
