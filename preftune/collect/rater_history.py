"""How far a rater's thumb can be trusted: from their votes on answers that others judged too, and their habits.

The model is that of MACE (Hovy et al. 2013): with probability ``competence`` a vote is the truth, else it comes from
the rater's habit, up with probability ``habit``. Of two raters the covariance of their votes is then
``competence_1 * competence_2 * pi * (1 - pi)``, where ``pi`` is the share of good answers; so the agreement beyond
what their up-rates give by chance tells the product of the competences (the argument of Aickin 1990 for his alpha).
``pi`` is taken to be the share of up votes. A rater's agreement has a Beta posterior whose prior is the agreement that
all raters' competence predicts for one of this up-rate; the pool's in turn starts from 70% agreement on balanced votes,
the upper range of what people reach in preference work.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final, NamedTuple

_POOL_PRIOR: Final = 30.0  # compared votes that weigh as much as the assumed agreement of the whole pool
_LEAST_VARIANCE: Final = 0.09  # of a vote, at 10% or 90% up: beyond it agreement tells nearly nothing
_LEAST_KAPPA: Final = 0.01
_LEAST_DIVISOR: Final = 0.3  # among raters of no competence nobody's can be told
_MOST_COMPETENT: Final = 0.95
_HABIT_RANGE: Final = (0.02, 0.98)


class UserVote(NamedTuple):
    """A rater's last thumb on an answer."""

    answer: int
    user: str | None
    is_up: bool


@dataclass(frozen=True)
class Rater:
    """One rater; ``compared`` votes stand beside others', and their agreement is Beta(``yes``, ``no``)."""

    votes: int
    ups: int
    compared: int
    yes: float
    no: float
    competence: float
    habit: float

    @property
    def agreement(self) -> float:
        """The posterior mean of the share of others who vote the same."""
        return self.yes / (self.yes + self.no)

    def agreement_interval(self) -> tuple[float, float]:
        """The central 95% of the posterior."""
        from scipy.stats import beta

        low, high = beta.ppf([0.025, 0.975], self.yes, self.no)
        return float(low), float(high)

    def log_ratio(self, is_up: bool) -> float:
        """Log of how much likelier this vote is on a good answer than on a bad one."""
        habit = self.habit if is_up else 1 - self.habit
        by_habit = (1 - self.competence) * habit
        likelier = math.log((self.competence + by_habit) / by_habit)
        return likelier if is_up else -likelier


@dataclass(frozen=True)
class RaterHistory:
    """The raters of a log; ``kappa`` is agreement beyond chance, ``up_rate`` the share of up votes.

    ``compared`` counts votes beside others' on the same answer; where it is 0 the kappa is the assumed one.
    """

    raters: Mapping[str, Rater]
    unknown: Rater
    votes: int
    up_rate: float
    compared: int
    agreement: float | None
    kappa: float
    assumed_kappa: float

    def of(self, user: str | None) -> Rater:
        """The rater, or one of whom nothing is known."""
        return self.raters.get(user, self.unknown) if user is not None else self.unknown

    def relative_competence(self, user: str | None) -> float:
        """The rater's competence in units of the unknown rater's, at most 1.5."""
        return min(self.of(user).competence / self.unknown.competence, 1.5)


def rater_history(votes: Iterable[UserVote], *, thumbs_agreement: float, history_votes: float) -> RaterHistory:
    """The raters' competences and habits; ``votes`` come ordered by answer, one a rater and answer.

    ``thumbs_agreement`` is the agreement that two raters of balanced votes are assumed to have, and
    ``history_votes`` how many compared votes of a rater weigh as much as what the pool predicts.
    """
    given, ups, compared = Counter[str](), Counter[str](), Counter[str]()
    agreed: dict[str, float] = defaultdict(float)
    total, total_up = 0, 0
    for _, group in groupby(votes, key=lambda vote: vote.answer):
        on_answer = list(group)
        total, total_up = total + len(on_answer), total_up + sum(vote.is_up for vote in on_answer)
        known = [vote for vote in on_answer if vote.user is not None]
        for vote, share in zip(known, _shares_agreeing(known), strict=True):
            user = str(vote.user)
            given[user] += 1
            ups[user] += vote.is_up
            if share is not None:
                compared[user] += 1
                agreed[user] += share
    up_rate = (total_up + 1) / (total + 2)
    assumed = 2 * thumbs_agreement - 1
    kappa = _pooled_kappa(compared, agreed, given, ups, up_rate, assumed)
    pool = _Pool(up_rate, kappa, history_votes)
    raters = {user: _rater(given[user], ups[user], compared[user], agreed[user], pool) for user in given}
    n = compared.total()
    return RaterHistory(
        raters=raters,
        unknown=_rater(0, 0, 0, 0.0, pool),
        votes=total,
        up_rate=up_rate,
        compared=n,
        agreement=sum(agreed.values()) / n if n else None,
        kappa=kappa,
        assumed_kappa=assumed,
    )


class _Pool(NamedTuple):
    up_rate: float
    kappa: float
    history_votes: float

    @property
    def variance(self) -> float:
        return max(self.up_rate * (1 - self.up_rate), _LEAST_VARIANCE)

    @property
    def competence(self) -> float:
        return min(math.sqrt(max(self.kappa, _LEAST_KAPPA)), _MOST_COMPETENT)


def _shares_agreeing(votes: Sequence[UserVote]) -> list[float | None]:
    """Of each vote on one answer, the share of the others that say the same; None where there is no other."""
    others, ups = len(votes) - 1, sum(vote.is_up for vote in votes)
    if others < 1:
        return [None] * len(votes)
    return [(ups - 1 if vote.is_up else others - ups) / others for vote in votes]


def _pooled_kappa(
    compared: Counter[str],
    agreed: Mapping[str, float],
    given: Counter[str],
    ups: Counter[str],
    up_rate: float,
    assumed: float,
) -> float:
    """Agreement beyond chance over all raters, drawn to the assumed one where few votes are compared."""
    variance = max(up_rate * (1 - up_rate), _LEAST_VARIANCE)
    n = compared.total()
    beyond = sum(agreed[user] - count * _chance(ups[user] / given[user], up_rate) for user, count in compared.items())
    return (beyond / (2 * variance) + _POOL_PRIOR * assumed) / (n + _POOL_PRIOR)


def _chance(rate: float, other_rate: float) -> float:
    """How often two votes of these up-rates agree by chance."""
    return rate * other_rate + (1 - rate) * (1 - other_rate)


def _rater(votes: int, ups: int, compared: int, agreed: float, pool: _Pool) -> Rater:
    rate = (ups + pool.history_votes * pool.up_rate) / (votes + pool.history_votes)
    chance = _chance(rate, pool.up_rate)
    expected = min(max(chance + 2 * pool.variance * pool.competence**2, 0.01), 0.99)
    yes = pool.history_votes * expected + agreed
    no = pool.history_votes * (1 - expected) + compared - agreed
    beyond = (yes / (yes + no) - chance) / (2 * pool.variance * max(pool.competence, _LEAST_DIVISOR))
    competence = min(max(beyond, 0.0), _MOST_COMPETENT)
    habit = (rate - competence * pool.up_rate) / (1 - competence)
    return Rater(
        votes=votes,
        ups=ups,
        compared=compared,
        yes=yes,
        no=no,
        competence=competence,
        habit=min(max(habit, _HABIT_RANGE[0]), _HABIT_RANGE[1]),
    )
