"""A method on preference pairs made ready: data, policy, reference, step and measures."""

from __future__ import annotations

from typing import Any

from preftune.data.read import read_pairs
from preftune.data.tokens import fingerprint_tokens, tokenize_pairs
from preftune.methods.answers import Answers
from preftune.methods.context import Context
from preftune.methods.inputs import eval_prompts, pair_audit, read_data, to_tokens, write_audit
from preftune.methods.job import Job
from preftune.methods.measuring import PairExaminer
from preftune.methods.moments import Moments
from preftune.methods.pairs import PairMethod, pair_step
from preftune.methods.policy import load_policy
from preftune.methods.references import (
    References,
    check_agreement,
    choose_references,
    reference_probe,
    start_model,
)
from preftune.methods.supply import dealt_out
from preftune.models.reference import ReferenceGuard


def prepare_pairs(context: Context[Any], method: PairMethod) -> Job[Any]:
    """Reads, loads and tokenises; computes the reference's log-probs where they are computed once."""
    config = context.config
    data = read_data(context, read_pairs)
    policy = load_policy(context)
    train, held_out = to_tokens(context, data, policy.tokenizer, tokenize_pairs)
    references = _references(context, method, policy.engine, train.records, held_out.records)
    training = None if references is None else references.training
    probe = dict if training is None else reference_probe(training, train.records)
    answers = Answers(
        context,
        policy.engine,
        policy.tokenizer,
        eval_prompts(data.evaluation, policy.tokenizer, config),
    )
    examiner = PairExaminer(
        context, method, policy.engine, held_out.records, None if references is None else references.evaluation, answers
    )

    def measure(step: int) -> Moments:
        start = start_model(context, policy.engine)
        other = None if references is None or context.reference_is_start else references.model
        return examiner.measure(step, start, other or start)

    return Job(
        method=method.name,
        engine=policy.engine,
        supply=dealt_out(context, train.records),
        compute=pair_step(method, training, use_confidence=config.use_confidence),
        fingerprint=fingerprint_tokens(train.records),
        data_fingerprint=data.fingerprint,
        during=lambda step: examiner.during(step) | probe(),
        answer=lambda step: answers.write(policy.model, step, "during"),
        measure=measure,
        write_audit=lambda folder: write_audit(data, train, held_out, folder, pair_audit(data)),
        save=policy.save,
        guard=None if training is None else ReferenceGuard(training),
    )


def _references(context: Context[Any], method: PairMethod, engine: Any, train: Any, held_out: Any) -> References | None:
    """The references, compared with the policy at the start; None for a method without one."""
    if not method.needs_reference:
        return None
    references = choose_references(context, engine, train, held_out, method.reduce, method.reduction)
    check_agreement(context, engine, references.training, train, method.reduce)
    return references
