"""Kahneman-Tversky optimisation (Ethayarajh et al. 2024, arXiv:2402.01306): answers labelled good or bad."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pydantic import Field

from preftune import losses
from preftune.data.kinds import one_sided
from preftune.data.read import read_labels
from preftune.data.tokens import TokenLabel, fingerprint_tokens, tokenize_labels
from preftune.evaluate.labels import label_measures, pairs_within
from preftune.evaluate.measures import paired_change
from preftune.evaluate.preferences import PREFERENCE, prefers_right
from preftune.methods.answers import Answers
from preftune.methods.context import Context
from preftune.methods.inputs import eval_prompts, read_data, to_tokens, write_audit
from preftune.methods.job import Job
from preftune.methods.labels import LabelItem, LabelMethod, evaluation_figures, label_step, mismatched
from preftune.methods.moments import Moments
from preftune.methods.policy import load_policy
from preftune.methods.references import PROBED_ITEMS, check_agreement, choose_references, start_model
from preftune.methods.settings import CappedConfig, ReferenceConfig
from preftune.methods.supply import dealt_out
from preftune.models.logprobs import LogProbEngine
from preftune.models.reference import (
    FrozenModel,
    ItemLogProbs,
    Reference,
    ReferenceGuard,
    item_log_probs,
    starting_weights,
    summed,
)


class KTOConfig(ReferenceConfig, CappedConfig):
    """Train a policy on single answers labelled good or bad, against its frozen start."""

    beta: float = Field(default=0.1, gt=0, description="How dearly leaving the reference is paid.")
    desirable_weight: float = Field(
        default=1.0, gt=0, description="Weight of good answers; raise it where they are few."
    )
    undesirable_weight: float = Field(
        default=1.0, gt=0, description="Weight of bad answers; raise it where they are few."
    )


def prepare(context: Context[Any]) -> Job[Any]:
    """A run of KTO: labels, or pairs read as two labels each."""
    config: KTOConfig = context.config
    data = read_data(context, read_labels)
    if (error := one_sided(data.train, config.data)) is not None:
        raise error
    policy = load_policy(context)
    train, held_out = to_tokens(context, data, policy.tokenizer, tokenize_labels)
    _advise_weights(context, train.records)
    items = mismatched(train.records, config.seed)
    measured = mismatched(held_out.records, config.seed) if _has_two_prompts(held_out.records) else []
    references = choose_references(context, policy.engine, items, measured)
    check_agreement(context, policy.engine, references.training, items, summed)
    prompts = eval_prompts(data.evaluation, policy.tokenizer, config)
    answers = Answers(context, policy.engine, policy.tokenizer, prompts)
    method = kto_method(config)
    examiner = LabelExaminer(context, method, policy.engine, measured, references.evaluation, answers)

    probe = _reference_probe(references.training, items)

    def measure(step: int) -> Moments:
        start = start_model(context, policy.engine)
        return examiner.measure(step, start, start if context.reference_is_start else references.model)

    return Job(
        method=method.name,
        engine=policy.engine,
        supply=dealt_out(context, items),
        compute=label_step(method, references.training),
        fingerprint=fingerprint_tokens(train.records),
        data_fingerprint=data.fingerprint,
        during=lambda step: examiner.during(step) | probe(),
        answer=lambda step: answers.write(policy.model, step, "during"),
        measure=measure,
        write_audit=lambda folder: write_audit(data, train, held_out, folder, _audit(data.train)),
        save=policy.save,
        guard=ReferenceGuard(references.training),
    )


def kto_method(config: KTOConfig) -> LabelMethod:
    """KTO as a method on labels."""
    return LabelMethod(
        "kto",
        lambda values: losses.kto(
            values.policy,
            values.reference,
            values.labels,
            values.kl,
            beta=config.beta,
            desirable_weight=config.desirable_weight,
            undesirable_weight=config.undesirable_weight,
        ),
        config.beta,
    )


@dataclass(frozen=True)
class LabelExaminer:
    """Measures the policy on labels that training never sees; ``reference()`` are the reference's log-probs."""

    context: Context[Any]
    method: LabelMethod
    engine: LogProbEngine
    items: Sequence[LabelItem]
    reference: Callable[[], ItemLogProbs]
    answers: Answers
    _scored: dict[int, ItemLogProbs] = field(default_factory=dict)  # the latest step's

    def during(self, step: int) -> dict[str, float]:
        """Means over the held-out labels, for the metrics log."""
        if not self.items:
            return {}
        return evaluation_figures(self.method, self._scores(step), self.reference(), self.items)

    def measure(self, step: int, start: FrozenModel, reference: FrozenModel) -> Moments:
        """Before, after and change; ``start`` is the policy as it was, ``reference`` what it is compared with."""
        if not self.items:
            return Moments({}, {}, {})
        size = self.context.config.per_device_eval_batch_size
        is_start = self.context.reference_is_start
        first = self.reference() if is_start else item_log_probs(start, self.items, size)
        was, now = (
            self.method.reward_scale * (scores - self.reference())[:, 0].double().numpy()
            for scores in (first, self._scores(step))
        )
        return self._moments(was, now) | self.answers.compare(step, start, reference)

    def _scores(self, step: int) -> ItemLogProbs:
        if step not in self._scored:
            self._scored.clear()
            with self.context.reporter.progress("scoring held-out answers", len(self.items)) as bar:
                size = self.context.config.per_device_eval_batch_size
                self._scored[step] = item_log_probs(starting_weights(self.engine), self.items, size, bar.advance)
        return self._scored[step]

    def _moments(self, was: np.ndarray, now: np.ndarray) -> Moments:
        labels, prompts = np.array([item.label for item in self.items]), [item.prompt.tobytes() for item in self.items]
        before, after = (label_measures(rewards, labels, prompts) for rewards in (was, now))
        pairs, of = pairs_within(labels, prompts)
        if not len(pairs):
            return Moments(before, after, {})
        right = prefers_right(was[pairs]), prefers_right(now[pairs])
        change = paired_change(*right, "share", "Change of held-out preference accuracy", of)
        return Moments(before, after, {PREFERENCE: change})


def _reference_probe(reference: Reference, items: Sequence[LabelItem]) -> Callable[[], dict[str, float]]:
    """What the reference says of the same few answers, good and bad, whenever it is asked."""
    good, bad = (
        sorted((one for one in items if one.label is label), key=lambda one: one.length)[: PROBED_ITEMS // 2]
        for label in (True, False)
    )

    def ask() -> dict[str, float]:
        answers = reference.log_probs([*good, *bad])[:, 0].double()
        return {
            "ref_logps/chosen": float(answers[: len(good)].mean()),
            "ref_logps/rejected": float(answers[len(good) :].mean()),
        }

    return ask


def _has_two_prompts(labels: Sequence[TokenLabel]) -> bool:
    return len({label.prompt.tobytes() for label in labels}) > 1


def _advise_weights(context: Context[Any], labels: Sequence[TokenLabel]) -> None:
    """Where good and bad answers do not weigh alike, says which weights would make them."""
    good = sum(label.label for label in labels)
    config: KTOConfig = context.config
    desirable, undesirable = losses.suggested_kto_weights(good, len(labels) - good)
    ratio = config.desirable_weight * good / (config.undesirable_weight * (len(labels) - good))
    if not 1 <= ratio <= 4 / 3:
        context.reporter.note(
            f"{good:,} good and {len(labels) - good:,} bad answers weigh {ratio:.2f} to 1; 1 to 4/3 is advised: "
            f"--desirable_weight {desirable:.3g} --undesirable_weight {undesirable:.3g}"
        )


def _audit(labels: Sequence[Any]) -> dict[str, Any]:
    return {"labels": {"good": sum(one.label for one in labels), "bad": sum(not one.label for one in labels)}}
