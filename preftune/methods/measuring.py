"""What a run on pairs measures on held-out prompts: before the first step, on the way, and at the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float

from preftune.data.tokens import TokenPair
from preftune.evaluate.measures import paired_change
from preftune.evaluate.preferences import (
    PREFERENCE,
    RANKING,
    PairScores,
    implicit_rewards,
    prefers_right,
    ranking_accuracy,
    reward_measures,
    score_frozen,
    score_pairs,
)
from preftune.methods.answers import Answers
from preftune.methods.context import Context
from preftune.methods.moments import Moments
from preftune.methods.pairs import PairMethod, evaluation_figures
from preftune.models.logprobs import LogProbEngine
from preftune.models.reference import FrozenModel, PairLogProbs

REWARD_SCALE = 0.1  # of the implicit reward of methods without a beta
PairRewards = Float[np.ndarray, "pairs 2"]


@dataclass(frozen=True)
class PairExaminer:
    """Measures the policy in ``engine`` on pairs that training never sees.

    ``reference()`` are the reference's log-probs of the pairs, None for a method without one. What came before
    the first step is measured at the end, by the frozen start: training need not wait for it.
    """

    context: Context[Any]
    method: PairMethod
    engine: LogProbEngine
    pairs: Sequence[TokenPair]
    reference: Callable[[], PairLogProbs] | None
    answers: Answers
    _scored: dict[int, PairScores] = field(default_factory=dict)  # the latest step's

    def during(self, step: int) -> dict[str, float]:
        """Means over the held-out pairs, for the metrics log."""
        if not self.pairs:
            return {}
        scores = self._policy_scores(step)
        reference = None if self.reference is None else self.reference()
        figures = evaluation_figures(self.method, scores, reference)
        return figures | {f"eval_{RANKING}": float(scores.ranks_right().mean())}

    def measure(self, step: int, start: FrozenModel, reference: FrozenModel) -> Moments:
        """Before, after and change; ``start`` is the policy as it was, ``reference`` what it is compared with."""
        if not self.pairs:
            return Moments({}, {}, {})
        first, last = self._start_scores(start), self._policy_scores(step)
        table = first.log_probs if self.reference is None else self.reference().double().cpu().numpy()
        scale = getattr(self.context.config, "beta", REWARD_SCALE)
        was, now = (implicit_rewards(scores, table, scale) for scores in (first, last))
        return _moments(first, last, was, now) | self.answers.compare(step, start, reference)

    def _start_scores(self, start: FrozenModel) -> PairScores:
        if self.reference is not None and self.context.reference_is_start:
            return PairScores.of(self.pairs, self.reference().double().cpu().numpy())  # the start is the reference
        with self.context.reporter.progress("scoring pairs before", len(self.pairs)) as bar:
            return score_frozen(start, self.pairs, self.context.config.per_device_eval_batch_size, bar.advance)

    def _policy_scores(self, step: int) -> PairScores:
        """The policy's scores after ``step``: a last evaluation and the measurement after are one pass."""
        if step not in self._scored:
            self._scored.clear()
            with self.context.reporter.progress("scoring held-out pairs", len(self.pairs)) as bar:
                size = self.context.config.per_device_eval_batch_size
                self._scored[step] = score_pairs(self.engine, self.pairs, size, bar.advance)
        return self._scored[step]


def _moments(first: PairScores, last: PairScores, was: PairRewards, now: PairRewards) -> Moments:
    """Accuracies and margin of the same pairs before and after."""
    prompts = last.prompts
    right, ranked = (prefers_right(was), prefers_right(now)), (first.ranks_right(), last.ranks_right())
    return Moments(
        before=reward_measures(was, prompts) | {RANKING: ranking_accuracy(first)},
        after=reward_measures(now, prompts) | {RANKING: ranking_accuracy(last)},
        change={
            PREFERENCE: paired_change(*right, "share", "Change of held-out preference accuracy", prompts),
            RANKING: paired_change(*ranked, "share", "Change of how often the preferred answer is likelier", prompts),
        },
    )
