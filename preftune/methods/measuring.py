"""What a run measures on held-out prompts: before the first step, on the way, and at the end."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

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
    score_pairs,
)
from preftune.methods.inputs import EvalPrompt
from preftune.methods.pairs import PairMethod, evaluation_figures
from preftune.methods.reporting import Reporter
from preftune.methods.settings import PairConfig
from preftune.models.logprobs import LogProbEngine
from preftune.models.reference import FrozenModel, PairLogProbs
from preftune.rollout.sample import Completion, sample, stop_token_ids

SAMPLES = "samples.jsonl"


@dataclass(frozen=True)
class HeldOut:
    """Pairs and prompts training never sees, and the reference's log-probs of the pairs."""

    pairs: tuple[TokenPair, ...]
    prompts: Sequence[EvalPrompt]
    reference: PairLogProbs


@dataclass(frozen=True)
class Measured:
    """The measures of one moment, and the values behind them for comparing moments item by item."""

    measures: Mapping[str, Measure]
    scores: PairScores
    rewards: np.ndarray
    lengths: Sequence[int]


@dataclass(frozen=True)
class Examiner:
    """Measures the policy in ``engine``; writes answers into ``folder`` where this process owns it."""

    config: PairConfig
    method: PairMethod
    engine: LogProbEngine
    tokenizer: Any
    held_out: HeldOut
    folder: Path | None
    reporter: Reporter

    def before(self) -> Measured:
        """The policy before its first step."""
        if self.config.ref_model is None:  # then it is the reference, whose log-probs are at hand
            scores = PairScores.of(self.held_out.pairs, self.held_out.reference.double().numpy())
        else:
            scores = self._scores("measuring before")
        return self._measure(scores, 0, "before")

    def during(self, step: int) -> dict[str, float]:
        """Means over the held-out pairs, for the metrics log."""
        if not self.held_out.pairs:
            return {}
        scores = self._scores("evaluating")
        figures = evaluation_figures(self.method, scores.log_probs, self.held_out.reference)
        return figures | {f"eval_{RANKING}": float(scores.ranks_right().mean())}

    def after(self, step: int, frozen: FrozenModel) -> Measured:
        """The trained policy, its KL from ``frozen`` included."""
        return self._measure(self._scores("measuring after"), step, "after", frozen)

    def write_answers(self, step: int, stage: str) -> None:
        """Greedy answers to the first held-out prompts, into ``samples.jsonl``."""
        prompts = self.held_out.prompts[: self.config.num_samples]
        if not prompts:
            return
        completions = self._sample(prompts, f"writing answers {stage}", temperature=0.0)
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
        if self.folder is not None:
            _add_rows(self.folder / SAMPLES, rows, step, stage)

    def _measure(self, scores: PairScores, step: int, stage: str, frozen: FrozenModel | None = None) -> Measured:
        rewards = implicit_rewards(scores, self.held_out.reference.double().numpy(), self.method.reward_scale)
        if not self.held_out.pairs:
            return Measured({}, scores, rewards, [])
        self.write_answers(step, stage)
        completions = self._completions(f"answers {stage}")
        measures = reward_measures(rewards, scores.prompts) | {RANKING: ranking_accuracy(scores)}
        if completions:
            measures |= answer_lengths(completions)
        if completions and frozen is not None:
            size = self.config.per_device_eval_batch_size
            measures[KL] = kl_from_reference(lambda groups: self.engine(groups).sums(), frozen.sums, completions, size)
        return Measured(measures, scores, rewards, [len(completion.tokens) for completion in completions])

    def _scores(self, description: str) -> PairScores:
        with self.reporter.progress(description, len(self.held_out.pairs)) as bar:
            return score_pairs(self.engine, self.held_out.pairs, self.config.per_device_eval_batch_size, bar.advance)

    def _completions(self, description: str) -> list[Completion]:
        return self._sample(self.held_out.prompts[: self.config.num_completions], description, temperature=1.0)

    def _sample(self, prompts: Sequence[EvalPrompt], description: str, temperature: float) -> list[Completion]:
        if not prompts:
            return []
        stop_ids = stop_token_ids(self.engine.model, self.tokenizer)
        pad = self.tokenizer.pad_token_id
        with self.reporter.progress(description, len(prompts)) as bar:
            return sample(
                self.engine.model,
                [prompt.tokens for prompt in prompts],
                pad_id=stop_ids[0] if pad is None else pad,
                stop_ids=stop_ids,
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


def _add_rows(path: Path, rows: Sequence[Mapping[str, Any]], step: int, stage: str) -> None:
    """Rows of the same moment, and of moments a resumed run has not reached, are replaced."""
    kept = []
    if path.is_file():
        kept = [line for line in path.read_text(encoding="utf-8").splitlines() if _is_earlier(line, step, stage)]
    lines = kept + [json.dumps(row, ensure_ascii=False) for row in rows]
    write_file(path, "".join(line + "\n" for line in lines))


def _is_earlier(line: str, step: int, stage: str) -> bool:
    try:
        row = json.loads(line)
    except ValueError:
        return False
    return isinstance(row, dict) and row.get("step", 0) <= step and row.get("stage") != stage
