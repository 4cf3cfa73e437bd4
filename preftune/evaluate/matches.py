"""Answers of two models to the same prompts compared: by judges in both orders, or by which has the higher reward."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from jaxtyping import Float

from preftune.data.records import PromptRecord, content_row
from preftune.evaluate.length_control import length_controlled_win_rate
from preftune.evaluate.measures import Measure
from preftune.evaluate.not_taken import CannotTake
from preftune.evaluate.win_rate import Points, SampleSize, sample_size, tie_share, win_rate

if TYPE_CHECKING:
    from preftune.evaluate.answering import Answers

WIN_RATE, LENGTH_CONTROLLED, TIES = "win_rate", "lc_win_rate", "ties"
_TIES: Final = ("tie", "identical-answers")


@dataclass(frozen=True)
class Contest:
    """Two models' answers to the same prompts; the k-th answer of one meets the k-th of the other.

    ``prompts`` are the prompts' numbers, ``texts`` the answers of subject and opponent.
    """

    key: str
    prompts: tuple[int, ...]
    texts: tuple[tuple[str, str], ...]

    def lengths(self) -> Float[np.ndarray, "comparisons 2"]:
        """The answers' characters."""
        return np.array([[len(first), len(second)] for first, second in self.texts], dtype=float).reshape(-1, 2)


@dataclass(frozen=True)
class Verdicts:
    """The subject's points of each comparison; NaN where there is no verdict, and how many lack one for what reason."""

    points: Points
    missing: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class MatchResult:
    """What a contest says: measures, the sample size that differences need, and what could not be told and why."""

    measures: Mapping[str, Measure]
    size: SampleSize
    missing: Mapping[str, int]
    not_taken: Mapping[str, str]

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "measures": {name: measure.as_dict() for name, measure in self.measures.items()},
            "sample_size": self.size.as_dict(),
            "sentence": self.size.sentence(),
            "missing": dict(self.missing),
            "not_taken": dict(self.not_taken),
        }


def contest_of(key: str, subject: Answers, opponent: Answers) -> Contest:
    """Their answers to the prompts that both could be asked."""
    met = [
        (number, pair)
        for number, (ours, theirs) in enumerate(zip(subject.texts, opponent.texts, strict=True))
        for pair in zip(ours, theirs, strict=False)
    ]
    return Contest(key, tuple(number for number, _ in met), tuple(pair for _, pair in met))


def result_of(contest: Contest, verdicts: Verdicts, by: str, *, seed: int) -> MatchResult:
    """The measures of a contest whose verdicts are known; ``by`` says who judged.

    Without one verdict there are none, and why is said.
    """
    size = sample_size(verdicts.points, contest.prompts)
    if not np.isfinite(verdicts.points).any():
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in verdicts.missing.items())
        why = f"None of {len(contest.texts):,} comparisons has a verdict" + (f": {reasons}." if reasons else ".")
        return MatchResult({}, size, verdicts.missing, dict.fromkeys((WIN_RATE, LENGTH_CONTROLLED, TIES), why))
    what = f"How often its answer is the better one by {by}; a tie counts half."
    measures = {WIN_RATE: win_rate(verdicts.points, contest.prompts, "Win rate", what, seed=seed)}
    not_taken: dict[str, str] = {}
    try:
        measures[LENGTH_CONTROLLED] = length_controlled_win_rate(
            verdicts.points, contest.lengths(), contest.prompts, seed=seed
        )
    except CannotTake as reason:
        not_taken[LENGTH_CONTROLLED] = str(reason)
    measures[TIES] = tie_share(verdicts.points, contest.prompts)
    return MatchResult(measures, size, verdicts.missing, not_taken)


def judge_by_scores(first: Float[np.ndarray, "comparisons"], second: Float[np.ndarray, "comparisons"]) -> Verdicts:
    """The higher score wins, equal ones tie; without a score there is no verdict."""
    points = (np.sign(first - second) + 1) / 2
    lost = int((~np.isfinite(points)).sum())
    return Verdicts(points, {"no-reward": lost} if lost else {})


def judge_by_models(
    contests: Sequence[Contest],
    prompts: Sequence[PromptRecord],
    judges: Sequence[Any],
    how: Any,
    *,
    journal: Path | None,
    progress: Callable[..., Any] | None,
    note: Callable[[str], object],
) -> tuple[list[Verdicts], dict[str, Any]]:
    """The judges' verdicts on all contests, each comparison in both orders, and the document of the judging.

    An empty answer loses to one with words, and the judges are not asked; nor are they of two answers alike.
    """
    from preftune.collect.judge import judge

    points = [np.array([_unasked(*pair) for pair in contest.texts]) for contest in contests]
    rows = {
        f"{number}-{place}": (number, place)
        for number, contest in enumerate(contests)
        for place in np.flatnonzero(np.isnan(points[number])).tolist()
    }
    if not rows:
        return [Verdicts(one) for one in points], {}
    result = judge(
        [_row(name, contests[number], place, prompts) for name, (number, place) in rows.items()],
        judges,
        how=how,
        journal=journal,
        progress=progress,
        note=note,
    )
    reasons = [Counter[str]() for _ in contests]
    for pair in result.pairs:
        number, place = rows[pair.id]
        points[number][place] = 1.0 if pair.meta["order"] == "chosen" else 0.0
    for left in result.left_out:
        number, place = rows[left.id]
        if left.reason in _TIES:
            points[number][place] = 0.5
        else:
            reasons[number][left.reason] += 1
    told = [Verdicts(one, dict(why)) for one, why in zip(points, reasons, strict=True)]
    for one, contest in zip(told, contests, strict=True):
        unread = int(np.isnan(one.points).sum()) - sum(one.missing.values())
        if unread:
            note(f"{contest.key}: {unread} comparisons could not be put to a judge")
    return told, result.as_dict()


def scores_of(values: Float[np.ndarray, "answers"], answers: Answers) -> list[list[float]]:
    """A flat row of scores as those of each prompt's answers."""
    found: list[list[float]] = []
    begin = 0
    for texts in answers.texts:
        found.append(values[begin : begin + len(texts)].tolist())
        begin += len(texts)
    return found


def paired_scores(first: Sequence[Sequence[float]], second: Sequence[Sequence[float]]) -> tuple[np.ndarray, np.ndarray]:
    """The scores of the comparisons of a contest, in its order."""
    met = [pair for ours, theirs in zip(first, second, strict=True) for pair in zip(ours, theirs, strict=False)]
    return np.array([pair[0] for pair in met], dtype=float), np.array([pair[1] for pair in met], dtype=float)


def _unasked(first: str, second: str) -> float:
    """The points that need no judge; NaN for those that do."""
    said = bool(first.strip()), bool(second.strip())
    return math.nan if all(said) else 0.5 if not any(said) else float(said[0])


def _row(name: str, contest: Contest, place: int, prompts: Sequence[PromptRecord]) -> dict[str, Any]:
    record = prompts[contest.prompts[place]]
    texts = contest.texts[place]
    answers = [[{"role": "assistant", "content": text}] for text in texts] if record.is_conversational else texts
    return {
        "id": name,
        "prompt": content_row(record)["prompt"],
        "response_1": answers[0],
        "response_2": answers[1],
    }
