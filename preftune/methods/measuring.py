"""What a run measures on held-out prompts: before the first step, on the way, and at the end."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from preftune.data.tokens import TokenPair
from preftune.durable import write_file
from preftune.evaluate.answers import KL, answer_lengths, kl_from_reference
from preftune.evaluate.measures import Measure, paired_change
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
from preftune.methods.inputs import EvalPrompt
from preftune.methods.pairs import PairMethod, evaluation_figures
from preftune.methods.reporting import Reporter
from preftune.methods.settings import PairConfig
from preftune.models.logprobs import LogProbEngine
from preftune.models.reference import FrozenModel, PairLogProbs
from preftune.rollout.sample import Completion, padding_and_stops, sample

SAMPLES = "samples.jsonl"


@dataclass(frozen=True)
class HeldOut:
    """Pairs and prompts training never sees; ``reference()`` are the reference's log-probs of the pairs."""

    pairs: tuple[TokenPair, ...]
    prompts: Sequence[EvalPrompt]
    reference: Callable[[], PairLogProbs]


@dataclass(frozen=True)
class Measured:
    """The measures of one moment, and the values behind them for comparing moments item by item."""

    measures: Mapping[str, Measure]
    scores: PairScores
    rewards: np.ndarray
    lengths: Sequence[int]


@dataclass(frozen=True)
class Examiner:
    """Measures the policy in ``engine``; writes answers into ``folder`` where this process owns it.

    What came before the first step is measured at the end, by the frozen start: training need not wait for it.
    """

    config: PairConfig
    method: PairMethod
    engine: LogProbEngine
    tokenizer: Any
    held_out: HeldOut
    folder: Path | None
    reporter: Reporter
    _scored: dict[int, PairScores] = field(default_factory=dict)  # the latest step's

    def during(self, step: int) -> dict[str, float]:
        """Means over the held-out pairs, for the metrics log."""
        if not self.held_out.pairs:
            return {}
        scores = self._policy_scores(step)
        figures = evaluation_figures(self.method, scores.log_probs, self.held_out.reference())
        return figures | {f"eval_{RANKING}": float(scores.ranks_right().mean())}

    def before(self, start: FrozenModel) -> Measured:
        """The policy as it was before its first step."""
        pairs = self.held_out.pairs
        if self.config.ref_model is None:  # then it is the reference, whose log-probs are at hand
            scores = PairScores.of(pairs, self.held_out.reference().double().cpu().numpy())
        else:
            with self.reporter.progress("scoring pairs before", len(pairs)) as bar:
                scores = score_frozen(start, pairs, self.config.per_device_eval_batch_size, bar.advance)
        with start.lend() as model:
            completions = self._completions(model, 0, "before")
        return self._measure(scores, completions)

    def after(self, step: int, reference: FrozenModel) -> Measured:
        """The trained policy, its KL from ``reference`` included."""
        scores = self._policy_scores(step)
        completions = self._completions(self.engine.model, step, "after")
        measured = self._measure(scores, completions)
        if not completions:
            return measured
        size = self.config.per_device_eval_batch_size
        kl = kl_from_reference(lambda groups: self.engine(groups).sums(), reference.sums, completions, size)
        return replace(measured, measures={**measured.measures, KL: kl})

    def write_answers(self, model: nn.Module, step: int, stage: str) -> None:
        """Greedy answers to the first held-out prompts, into ``samples.jsonl``."""
        prompts = self.held_out.prompts[: self.config.num_samples]
        completions = self._sample(model, prompts, f"writing answers {stage}", temperature=0.0)
        rows = [
            {
                "step": step,
                "stage": stage,
                "prompt_id": prompt.id,
                "prompt": prompt.text,
                "completion": self.tokenizer.decode(completion.tokens, skip_special_tokens=True),
                "tokens": len(completion.tokens),
                "finished": completion.finished,
            }
            for prompt, completion in zip(prompts, completions, strict=True)
        ]
        if rows and self.folder is not None:
            _put_rows(self.folder / SAMPLES, rows, step, stage)

    def _measure(self, scores: PairScores, completions: Sequence[Completion]) -> Measured:
        reference = self.held_out.reference().double().cpu().numpy()
        rewards = implicit_rewards(scores, reference, self.method.reward_scale)
        measures: dict[str, Measure] = {}
        if self.held_out.pairs:
            measures = reward_measures(rewards, scores.prompts) | {RANKING: ranking_accuracy(scores)}
        if completions:
            measures |= answer_lengths(completions)
        return Measured(measures, scores, rewards, [len(completion.tokens) for completion in completions])

    def _policy_scores(self, step: int) -> PairScores:
        """The policy's scores after ``step``: a last evaluation and the measurement after are one pass."""
        if step not in self._scored:
            self._scored.clear()
            with self.reporter.progress("scoring held-out pairs", len(self.held_out.pairs)) as bar:
                size = self.config.per_device_eval_batch_size
                self._scored[step] = score_pairs(self.engine, self.held_out.pairs, size, bar.advance)
        return self._scored[step]

    def _completions(self, model: nn.Module, step: int, stage: str) -> list[Completion]:
        """Answers at temperature 1, for figures; those for reading are written on the way."""
        self.write_answers(model, step, stage)
        prompts = self.held_out.prompts[: self.config.num_completions]
        return self._sample(model, prompts, f"answers {stage}", temperature=1.0)

    def _sample(
        self, model: nn.Module, prompts: Sequence[EvalPrompt], description: str, temperature: float
    ) -> list[Completion]:
        if not prompts:
            return []
        with self.reporter.progress(description, len(prompts)) as bar:
            return sample(
                model,
                [prompt.tokens for prompt in prompts],
                **padding_and_stops(self.engine.model, self.tokenizer),
                max_new_tokens=self.config.max_new_tokens,
                temperature=temperature,
                seed=self.config.seed,
                progress=bar.advance,
            )


def describe_change(before: Measured, after: Measured) -> dict[str, Measure]:
    """Differences after minus before over the same pairs and prompts."""
    if not after.measures:
        return {}
    prompts = after.scores.prompts
    was, now = (prefers_right(moment.rewards) for moment in (before, after))
    ranked, ranks = (moment.scores.ranks_right() for moment in (before, after))
    change = {
        PREFERENCE: paired_change(was, now, "share", "Change of held-out preference accuracy", prompts),
        RANKING: paired_change(ranked, ranks, "share", "Change of how often the preferred answer is likelier", prompts),
    }
    if after.lengths:
        change["mean_length"] = paired_change(before.lengths, after.lengths, "tokens", "Change of answer length")
    return change


def as_document(measures: Mapping[str, Measure]) -> dict[str, Any]:
    """Measures by name, as JSON takes them."""
    return {name: measure.as_dict() for name, measure in measures.items()}


def _put_rows(path: Path, rows: Sequence[Mapping[str, Any]], step: int, stage: str) -> None:
    """Adds rows in the order of steps; those of the same moment, which a resumed run writes again, are replaced."""
    earlier = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    kept = [
        row for line in earlier if (row := _read_row(line)) and (row.get("step"), row.get("stage")) != (step, stage)
    ]
    ordered = sorted([*kept, *rows], key=lambda row: row.get("step", 0))
    write_file(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ordered))


def _read_row(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None
