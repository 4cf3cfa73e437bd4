"""An online run made ready, whatever the method: prompts, policy, reference, sampler, rewards and measures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import nn

from preftune.data.read import read_prompts
from preftune.data.records import PromptRecord
from preftune.data.tokens import Tokenized, TokenPrompt, fingerprint_tokens, tokenize_prompts
from preftune.errors import PreftuneError
from preftune.methods.answers import Answers
from preftune.methods.context import Context
from preftune.methods.experience import Experience, per_token_log_probs
from preftune.methods.inputs import Data, eval_prompts, read_data, write_audit
from preftune.methods.job import Job
from preftune.methods.objectives import Objective
from preftune.methods.online_measuring import OnlineExaminer
from preftune.methods.online_settings import OnlineConfig
from preftune.methods.policy import Trainee, load_policy, load_reference, load_start
from preftune.methods.references import start_model
from preftune.methods.reporting import SILENT
from preftune.methods.rollouts import Collector, Judged
from preftune.methods.supply import Supply
from preftune.methods.windows import TakePrompts
from preftune.models.adapters import has_adapter
from preftune.models.logprobs import LogProbEngine
from preftune.models.paths import causal_model
from preftune.models.reference import (
    FrozenModel,
    ReferenceGuard,
    adapter_off,
    live,
    separate_model,
    starting_weights,
)
from preftune.rewards.naming import open_rewards
from preftune.rewards.scoring import Scorer
from preftune.rollout.engine import open_sampler
from preftune.rollout.protocol import Sampler
from preftune.rollout.sample import stop_token_ids
from preftune.rollout.vllm_sampler import open_vllm
from preftune.training.loop import Computed

NAMES = {"old": "policy", "reference": "reference"}


@dataclass(frozen=True)
class Online:
    """What online methods have in common once all is loaded; ``reference`` is None where the loss needs none."""

    context: Context[Any]
    data: Data[PromptRecord]
    train: Tokenized[TokenPrompt]
    held_out: Tokenized[TokenPrompt]
    policy: Trainee[LogProbEngine]
    reference: FrozenModel | None
    sampler: Sampler
    collector: Collector
    objective: Objective
    examiner: OnlineExaminer

    def draw(self, take: TakePrompts, number: int, turn: int = 0, prompts: int | None = None) -> Judged:
        """Judged completions of the next prompts: a window's worth unless it is said how many."""
        config: OnlineConfig = self.context.config
        self.sampler.sync()
        wanted = config.completions_per_window // config.num_generations if prompts is None else prompts
        return self.collector.collect(self.sampler, take(wanted), config.num_generations, (config.seed, number, turn))

    def experiences(
        self, judged: Judged, *, keep_old: bool, **per_completion: Float[np.ndarray, "samples"]
    ) -> list[Experience]:
        """What was drawn as something to learn from, every token with its completion's numbers.

        The reference's log-probs are kept where the loss has one, the policy's where it will have moved.
        """
        found = [rollout.experience() for rollout in judged.rollouts]
        for name, values in per_completion.items():
            found = [one.having_each(name, float(value)) for one, value in zip(found, values, strict=True)]
        if keep_old:
            found = self.with_log_probs(found, "old", starting_weights(self.policy.engine))
        return found if self.reference is None else self.with_log_probs(found, "reference", self.reference)

    def with_log_probs(self, experiences: list[Experience], name: str, model: FrozenModel) -> list[Experience]:
        """The same with the model's log-prob of each token."""
        size = self.context.config.per_device_eval_batch_size
        with self.context.reporter.progress(f"log-probs of the {NAMES[name]}", len(experiences)) as bar:
            found = per_token_log_probs(model.log_probs, experiences, size)
            bar.advance(len(experiences))
        return [one.having(**{name: log_probs}) for one, log_probs in zip(experiences, found, strict=True)]

    def job(
        self,
        name: str,
        supply: Supply[Experience],
        compute: Callable[[nn.Module, Sequence[Experience]], Computed],
        engine: nn.Module | None = None,
        save: Callable[..., None] | None = None,
    ) -> Job[Experience]:
        """The run; ``engine`` is what is trained where that is more than the policy."""
        policy = self.policy

        def measure(step: int) -> Any:
            if self.reference is not None and self.context.reference_is_start:
                return self.examiner.measure(step, self.reference, self.reference)
            start = start_model(self.context, policy.engine)
            return self.examiner.measure(step, start, self.reference or start)

        return Job(
            method=name,
            engine=engine or policy.engine,
            supply=supply,
            compute=compute,
            fingerprint=fingerprint_tokens(self.train.records),
            data_fingerprint=self.data.fingerprint,
            during=self.examiner.during,
            answer=lambda step: self.examiner.answers.write(policy.model, step, "during"),
            measure=measure,
            write_audit=lambda folder: write_audit(self.data, self.train, self.held_out, folder, {}),
            save=save or policy.save,
            guard=None if self.reference is None else ReferenceGuard(live(self.reference)),
        )


def open_online(context: Context[Any], needs_reference: bool, opened: Mapping[str, Scorer] | None = None) -> Online:
    """Reads the prompts, loads policy and reference, opens sampler and rewards; ``opened`` are rewards that are."""
    config: OnlineConfig = context.config
    data = read_data(context, read_prompts)
    policy = load_policy(context)
    train, held_out = (
        _tokens(context, records, policy.model, policy.tokenizer) for records in (data.train, data.evaluation)
    )
    if not train.records:
        raise PreftuneError(
            "No prompt is left to train on.",
            where=config.data,
            mend=f"Raise --max_length: prompts and {config.max_completion_length} tokens of completion must fit.",
        )
    rewards = open_rewards(
        [*context.given.rewards, *((opened or {}).get(name, name) for name in config.reward_funcs)],
        config.reward_weights,
        note=context.reporter.note,
        max_length=config.max_length,
        batch_size=config.per_device_eval_batch_size,
        timeout=config.reward_timeout,
        workers=config.reward_workers,
    )
    gold = None
    if config.gold_reward_funcs:
        gold = open_rewards(
            [*config.gold_reward_funcs],
            None,
            note=context.reporter.note,
            max_length=config.max_length,
            batch_size=config.per_device_eval_batch_size,
            timeout=config.reward_timeout,
            workers=config.reward_workers,
        )
    sampler = _sampler(context, policy)
    wanted = needs_reference or not context.reference_is_start  # to measure the KL from, where the loss has none
    reference = _reference(context, policy.engine) if wanted else None
    objective = Objective(context, rewards.names, rewards.weights)
    training, measured = (Collector(context, tokens.records, rewards, policy.tokenizer) for tokens in (train, held_out))
    answers = Answers(context, policy.engine, policy.tokenizer, eval_prompts(data.evaluation, policy.tokenizer, config))
    examiner = OnlineExaminer(context, policy, sampler, measured, objective, answers, gold)
    return Online(context, data, train, held_out, policy, reference, sampler, training, objective, examiner)


def _sampler(context: Context[Any], policy: Trainee[LogProbEngine]) -> Sampler:
    """vLLM where it is asked for, else the policy itself."""
    config: OnlineConfig = context.config
    stops, note = stop_token_ids(policy.model, policy.tokenizer), context.reporter.note
    if config.use_vllm:
        return open_vllm(policy.model, policy.tokenizer, config.vllm, stop_ids=stops, note=note)
    return open_sampler(policy.model, policy.tokenizer, stop_ids=stops, note=note)


def _tokens(
    context: Context[Any], records: Sequence[PromptRecord], model: Any, tokenizer: Any
) -> Tokenized[TokenPrompt]:
    config: OnlineConfig = context.config
    inner: Any = causal_model(model)
    positions = getattr(inner.config.get_text_config(), "max_position_embeddings", None)
    limits = [limit for limit in (config.max_length, positions) if isinstance(limit, int)]
    room = min(limits) - config.max_completion_length if limits else None
    if room is not None and room < 1:
        raise PreftuneError(
            f"{min(limits)} tokens leave no room for a prompt beside a completion of {config.max_completion_length}.",
            where="--max_completion_length",
            mend="Raise --max_length, or lower --max_completion_length.",
        )
    with context.reporter.progress("tokenising", len(records)) as bar:
        tokens = tokenize_prompts(records, tokenizer, max_length=room, progress=bar.advance)
    if tokens.dropped:
        reason = tokens.dropped[0].reason
        context.reporter.note(f"{len(tokens.dropped)} prompts left out, the first for {reason}; see rejected.jsonl")
    return tokens


def _reference(context: Context[Any], engine: LogProbEngine) -> FrozenModel:
    if not context.reference_is_start:
        return separate_model(load_reference(context))
    if has_adapter(engine.model):
        return adapter_off(engine)
    return separate_model(load_start(context, SILENT))
