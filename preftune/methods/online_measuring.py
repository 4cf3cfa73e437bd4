"""What an online run measures on held-out prompts: the reward of completions before and after, their length, the KL."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from preftune.evaluate.answers import KL, answer_lengths, kl_from_reference
from preftune.evaluate.measures import Measure, mean, paired_change, standard_error
from preftune.methods.answers import Answers
from preftune.methods.context import Context
from preftune.methods.moments import Moments, spread_of
from preftune.methods.objectives import Objective
from preftune.methods.online_settings import OnlineConfig
from preftune.methods.policy import Trainee
from preftune.methods.rollouts import Collector, Judged
from preftune.models.logprobs import LogProbEngine
from preftune.models.reference import FrozenModel
from preftune.rewards.calling import Rewards
from preftune.rewards.combining import combine
from preftune.rollout.engine import open_sampler
from preftune.rollout.protocol import Sampler
from preftune.rollout.sample import Completion, stop_token_ids

REWARD = "reward"
GOLD = "gold"
DRAWS = 1_000_003  # apart from the seeds of training's windows


@dataclass(frozen=True)
class OnlineExaminer:
    """Measures the policy on prompts that training never sees, with the same draws each time; prompts are the clusters.

    ``gold`` are rewards that training never sees either: whether they rise with those it learns from.
    """

    context: Context[Any]
    policy: Trainee[LogProbEngine]
    sampler: Sampler
    collector: Collector
    objective: Objective
    answers: Answers
    gold: Rewards | None = None

    def during(self, step: int) -> dict[str, float]:
        """Mean rewards and length, for the metrics log."""
        judged = self._draw(self.sampler)
        if not judged:
            return {}
        figures = {f"eval_{REWARD}": _mean(self._rewards(judged))}
        figures |= {f"eval_rewards/{name}/mean": _mean(judged.values[:, i]) for i, name in enumerate(judged.names)}
        lengths = [len(one.drawn.tokens) for one in judged.rollouts]
        return figures | {"eval_completions/mean_length": float(np.mean(lengths))} | self._gold_figures(judged)

    def measure(self, step: int, start: FrozenModel, reference: FrozenModel) -> Moments:
        """Before, after and change; ``start`` is the policy as it was, ``reference`` what it is compared with."""
        with start.lend() as model:
            self.answers.write(model, 0, "before")
            stops = stop_token_ids(model, self.policy.tokenizer)
            first = self._draw(open_sampler(model, self.policy.tokenizer, stop_ids=stops))
        self.answers.write(self.policy.model, step, "after")
        last = self._draw(self.sampler)
        if not first or not last:
            return Moments({}, {}, {})
        was, now = _completions(first), _completions(last)
        size = self.context.config.per_device_eval_batch_size
        prompts = last.groups.tolist()
        kl = kl_from_reference(self.policy.engine, reference.log_probs, now, size, prompts)
        before = self._measures(first) | answer_lengths(was, prompts)
        after = self._measures(last) | answer_lengths(now, prompts) | {KL: kl}
        spreads = {
            REWARD: spread_of(self._rewards(first).tolist(), self._rewards(last).tolist()),
            "length": spread_of([len(one.tokens) for one in was], [len(one.tokens) for one in now]),
        }
        return Moments(before, after, self._changes(first, last), spreads) | self._gold_moments(first, last)

    def _draw(self, sampler: Sampler) -> Judged | None:
        config: OnlineConfig = self.context.config
        n = min(config.eval_prompts, len(self.collector.prompts))
        if not n:
            return None
        sampler.sync()
        return self.collector.collect(sampler, range(n), config.num_generations_eval, (config.seed, DRAWS))

    def _rewards(self, judged: Judged) -> Float[np.ndarray, "samples"]:
        """The weighted sum, NaN where nothing is known; constraints and penalties are left out of it."""
        return combine(judged.values, self.objective.weights, judged.groups, failed=judged.failed)

    def _gold_figures(self, judged: Judged) -> dict[str, float]:
        """Mean of the gold rewards, its standard error and n: prompts are the independent draws."""
        if self.gold is None:
            return {}
        scores = self._gold_scores(judged)
        known = np.isfinite(scores)
        error = standard_error(scores[known], judged.groups[known].tolist())
        return {"gold/score": _mean(scores), "gold/score_se": error, "gold/n": float(len(set(judged.groups[known])))}

    def _gold_moments(self, first: Judged, last: Judged) -> Moments:
        if self.gold is None:
            return Moments({}, {}, {})
        was, now = self._gold_scores(first), self._gold_scores(last)
        said = "Mean of rewards that training never saw, on the same completions."
        both = np.isfinite(was) & np.isfinite(now)
        return Moments(
            {GOLD: _measure(was, first, "Gold reward", said)},
            {GOLD: _measure(now, last, "Gold reward", said)},
            {GOLD: paired_change(was[both], now[both], "", "Change of gold reward", last.groups[both].tolist())},
            {GOLD: spread_of(was.tolist(), now.tolist())},
        )

    def _gold_scores(self, judged: Judged) -> Float[np.ndarray, "samples"]:
        assert self.gold is not None
        found = self.collector.judged_by(self.gold, judged.rollouts)
        return combine(found.values, np.array(self.gold.weights, dtype=float), judged.groups, failed=found.failed)

    def _measures(self, judged: Judged) -> dict[str, Measure]:
        each = len(judged.rollouts) // judged.n_groups
        completions = "one completion" if each == 1 else f"{each} completions"
        said = f"Mean reward of {completions} to each of {judged.n_groups} held-out prompts, drawn as in training."
        measures = {REWARD: _measure(self._rewards(judged), judged, "Reward", said)}
        if len(judged.names) > 1:
            for column, name in enumerate(judged.names):
                said = f"The same of the reward {name} alone, before its weight."
                measures[f"rewards/{name}"] = _measure(judged.values[:, column], judged, f"Reward {name}", said)
        return measures

    def _changes(self, first: Judged, last: Judged) -> dict[str, Measure]:
        was, now = self._rewards(first), self._rewards(last)
        both = np.isfinite(was) & np.isfinite(now)
        prompts = last.groups
        lengths, lengths_now = ([len(one.drawn.tokens) for one in judged.rollouts] for judged in (first, last))
        return {
            REWARD: paired_change(was[both], now[both], "", "Change of reward", prompts[both].tolist()),
            "mean_length": paired_change(lengths, lengths_now, "tokens", "Change of answer length", prompts.tolist()),
        }


def _measure(values: np.ndarray, judged: Judged, title: str, explanation: str) -> Measure:
    known = np.isfinite(values)
    return mean(values[known], "", title, explanation, judged.groups[known].tolist())


def _mean(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")


def _completions(judged: Judged) -> Sequence[Completion]:
    return [Completion(one.prompt.tolist(), list(one.drawn.tokens), one.drawn.finished) for one in judged.rollouts]
