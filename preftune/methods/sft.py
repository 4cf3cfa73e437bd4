"""Supervised fine-tuning: the likelihood of demonstrated answers (Ouyang et al. 2022, arXiv:2203.02155, step 1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from preftune.data.batches import by_length
from preftune.data.read import read_demonstrations
from preftune.data.tokens import TokenDemonstration, fingerprint_tokens, tokenize_demonstrations
from preftune.evaluate.likelihood import LOSS, change_per_token, loss_per_token
from preftune.methods.answers import Answers
from preftune.methods.bins import Bin, pack
from preftune.methods.context import Context
from preftune.methods.inputs import eval_prompts, read_data, to_tokens, write_audit
from preftune.methods.job import Job
from preftune.methods.moments import Moments
from preftune.methods.policy import load_policy
from preftune.methods.references import start_model
from preftune.methods.settings import RunConfig
from preftune.methods.supply import dealt_out
from preftune.models.layout import Group
from preftune.models.logprobs import CompletionLogProbs, LogProbEngine
from preftune.models.reference import FrozenModel, groups_of, starting_weights
from preftune.training.loop import Computed

LogProbs = Callable[[Sequence[Group]], CompletionLogProbs]


class SFTConfig(RunConfig):
    """Train a model to give demonstrated answers: prompts with completions, or conversations."""

    learning_rates: ClassVar[tuple[float, float]] = (2e-5, 2e-4)

    completion_only_loss: bool = Field(
        default=True,
        description="Only answers are learned, of conversations every one; false: prompts and other turns too.",
    )
    packing: bool = Field(
        default=False, description="Demonstrations are put together up to max_length; a batch counts such packs."
    )


def prepare(context: Context[Any]) -> Job[Any]:
    """A run of supervised fine-tuning."""
    config: SFTConfig = context.config
    data = read_data(context, read_demonstrations)
    policy = load_policy(context)
    tokenize = partial(tokenize_demonstrations, completion_only_loss=config.completion_only_loss)
    train, held_out = to_tokens(context, data, policy.tokenizer, tokenize)
    bins = pack(train.records, config.max_length) if config.packing else [Bin((one,)) for one in train.records]
    if config.packing:
        context.reporter.note(f"{len(train.records):,} demonstrations are packed into {len(bins):,}")
    prompts = eval_prompts(data.evaluation, policy.tokenizer, config)
    answers = Answers(context, policy.engine, policy.tokenizer, prompts)
    examiner = SFTExaminer(context, policy.engine, held_out.records, answers)
    return Job(
        method="sft",
        engine=policy.engine,
        supply=dealt_out(context, bins, weight=lambda bin: bin.learned),
        compute=sft_step,
        fingerprint=fingerprint_tokens(train.records),
        data_fingerprint=data.fingerprint,
        during=examiner.during,
        answer=lambda step: answers.write(policy.model, step, "during"),
        measure=lambda step: examiner.measure(step, start_model(context, policy.engine)),
        write_audit=lambda folder: write_audit(data, train, held_out, folder, {}),
        save=policy.save,
    )


def sft_step(module: nn.Module, batch: Sequence[Bin]) -> Computed:
    """``-sum over learned tokens of log pi(y_t | x, y_<t)``; its mean is over the learned tokens of the whole step."""
    members = [one for bin in batch for one in bin.members]
    scores = module(groups_of(members))
    learned = _learned(members).to(scores.per_token.device)
    loss_sum = -scores.per_token[learned].sum()
    tokens = int(learned.sum())
    metrics = {"entropy": (scores.entropy[learned].sum(), tokens)}
    return Computed(loss_sum, len(members), sum(one.length for one in members), metrics, weight=tokens)


@dataclass(frozen=True)
class SFTExaminer:
    """Measures the policy on demonstrations that training never sees."""

    context: Context[Any]
    engine: LogProbEngine
    items: Sequence[TokenDemonstration]
    answers: Answers
    _scored: dict[int, np.ndarray] = field(default_factory=dict)  # the latest step's

    def during(self, step: int) -> dict[str, float]:
        """The held-out loss, for the metrics log."""
        if not self.items:
            return {}
        return {"eval_loss": float(self._policy_losses(step).sum() / self._tokens().sum())}

    def measure(self, step: int, start: FrozenModel) -> Moments:
        """Before, after and change; ``start`` is the policy as it was."""
        if not self.items:
            return Moments({}, {}, {})
        with self.context.reporter.progress("scoring answers before", len(self.items)) as bar:
            was = self._losses(start.log_probs, bar.advance)
        now, tokens = self._policy_losses(step), self._tokens()
        prompts = [item.prompt.tobytes() for item in self.items]
        before, after = ({LOSS: loss_per_token(losses, tokens, prompts)} for losses in (was, now))
        change = {LOSS: change_per_token(was, now, tokens, prompts)}
        return Moments(before, after, change) | self.answers.compare(step, start, start)

    def _policy_losses(self, step: int) -> Float[np.ndarray, "items"]:
        if step not in self._scored:
            self._scored.clear()
            with self.context.reporter.progress("scoring held-out answers", len(self.items)) as bar:
                self._scored[step] = self._losses(starting_weights(self.engine).log_probs, bar.advance)
        return self._scored[step]

    def _losses(self, log_probs: LogProbs, progress: Callable[[int], object]) -> Float[np.ndarray, "items"]:
        """-log p of each item's learned tokens, summed."""
        totals = np.empty(len(self.items))
        for batch in by_length([item.length for item in self.items], self.context.config.per_device_eval_batch_size):
            members = [self.items[i] for i in batch]
            scores = log_probs(groups_of(members))
            totals[batch] = -scores.weighted_sums(_learned(members).float()).double().cpu().numpy()
            progress(len(batch))
        return totals

    def _tokens(self) -> Float[np.ndarray, "items"]:
        return np.array([item.learned for item in self.items], dtype=float)


def _learned(members: Sequence[TokenDemonstration]) -> Tensor:
    """Which of all completion tokens, in order, are learned."""
    masks = [np.ones(len(one.completion), bool) if one.mask is None else one.mask for one in members]
    return torch.from_numpy(np.concatenate(masks))
