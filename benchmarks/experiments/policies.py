"""Policies of the small world: a tiny Llama, trained by the package's own steps and loop, measured on clean pairs.

Nothing of a method is written again here: losses and steps are those of `preftune.methods`, log-probs those of
`LogProbEngine`, and `preftune.training.loop` drives them. Left out are the files of a run.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.experiments.world import (
    ANSWER_WORDS,
    BOS,
    EOS,
    PAD,
    VOCABULARY,
    World,
    draw_answers,
    draw_chatter,
    draw_prompts,
    is_formed,
    worth_of,
)
from preftune.data.token_records import TokenDemonstration, TokenLabel, TokenPair
from preftune.evaluate.preferences import PairScores, implicit_rewards, prefers_right, score_pairs
from preftune.methods.bins import Bin
from preftune.methods.dpo import DPOConfig, dpo_method
from preftune.methods.kto import KTOConfig, kto_method
from preftune.methods.labels import label_step, mismatched
from preftune.methods.orpo import ORPOConfig, orpo_method
from preftune.methods.pairs import pair_step
from preftune.methods.sft import sft_step
from preftune.mini.training import Recipe, train_epochs
from preftune.models.logprobs import LogProbEngine
from preftune.models.reference import Item, Reference, item_log_probs, starting_weights
from preftune.models.weights import fingerprint_weights
from preftune.rollout.sample import sample
from preftune.training.loop import Computed

BETA = 0.1
WIDTH, LAYERS = 32, 2
TEXTS, TEXT_EPOCHS, TEXT_RATE = 800, 3, 1e-2  # what a policy has learned before it sees a preference
EPOCHS, BATCH, RATE = 5, 32, 2e-3
SCORED_AT_ONCE = 100


@dataclass(frozen=True)
class Outcome:
    """A policy on clean held-out pairs, and its own answers.

    ``accuracy`` is the share of pairs whose better answer the implicit reward ranks higher, ``margin`` the mean
    difference of the rewards (BETA times nats), ``likelier`` the share whose better answer has the higher mean
    log-prob (so the higher odds), ``nll`` the mean over tokens of -log p of the better answers. Of sampled answers,
    ``worth`` is the mean true worth and ``formed`` the share that has an answer's form.
    """

    accuracy: float
    margin: float
    likelier: float
    nll: float
    worth: float
    formed: float


def tuned_policy(world: World) -> LogProbEngine:
    """A policy that knows how to answer, but not which answers are wanted."""
    return _learned(world, draw_answers(world, TEXTS))


def base_policy(world: World) -> LogProbEngine:
    """A policy that has read words, but no answer."""
    return _learned(world, draw_chatter(world, TEXTS))


def trained_on_pairs(
    start: LogProbEngine, pairs: Sequence[TokenPair], config: DPOConfig | ORPOConfig, seed: int, epochs: int = EPOCHS
) -> LogProbEngine:
    """A copy of ``start`` trained on ``pairs`` as the config says; ``start`` is the reference, where there is one."""
    method = orpo_method(config) if isinstance(config, ORPOConfig) else dpo_method(config)
    step = pair_step(method, _frozen(start, pairs) if method.needs_reference else None)
    return _trained(start, pairs, step, Recipe(epochs, RATE, BATCH, seed))


def trained_on_labels(
    start: LogProbEngine, labels: Sequence[TokenLabel], config: KTOConfig, seed: int, epochs: int = EPOCHS
) -> LogProbEngine:
    """A copy of ``start`` trained on ``labels`` with KTO; a batch is of as many answers as one of pairs has."""
    items = mismatched(labels, seed)
    step = label_step(kto_method(config), _frozen(start, items))
    return _trained(start, items, step, Recipe(epochs, RATE, 2 * BATCH, seed))


def outcome(
    world: World, policy: LogProbEngine, start: LogProbEngine, held_out: Sequence[TokenPair], answers: int = 200
) -> Outcome:
    """``policy`` against ``start``, measured on ``held_out`` and on as many ``answers`` of its own."""
    before, after = (score_pairs(engine, held_out, SCORED_AT_ONCE) for engine in (start, policy))
    rewards = implicit_rewards(after, before.log_probs, BETA)
    drawn = sample(
        policy.model,
        draw_prompts(world, answers),
        pad_id=PAD,
        stop_ids=[EOS],
        max_new_tokens=2 * ANSWER_WORDS,
        seed=world.seed,
        batch_size=answers,
    )
    return Outcome(
        accuracy=float(prefers_right(rewards).mean()),
        margin=float((rewards[:, 0] - rewards[:, 1]).mean()),
        likelier=float(after.ranks_right().mean()),
        nll=_nll(after),
        worth=float(np.mean([worth_of(world, one.tokens) for one in drawn])),
        formed=float(np.mean([is_formed(one.prompt, one.tokens) for one in drawn])),
    )


def _learned(world: World, texts: Sequence[TokenDemonstration]) -> LogProbEngine:
    bins = [Bin((text,)) for text in texts]

    def weight(number: int) -> float:
        return float(bins[number].learned)

    return _trained(
        LogProbEngine(_tiny_llama(world.seed), path="masked"),
        bins,
        sft_step,
        Recipe(TEXT_EPOCHS, TEXT_RATE, 32, world.seed),
        weight,
    )


def _tiny_llama(seed: int) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
        initializer_range=0.1,
        tie_word_embeddings=False,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).eval()


def _trained(
    start: LogProbEngine,
    items: Sequence[Any],
    step: Callable[[nn.Module, Sequence[Any]], Computed],
    recipe: Recipe,
    weight: Callable[[int], float] = lambda number: 1.0,
) -> LogProbEngine:
    policy = copy.deepcopy(start)
    train_epochs(
        policy,
        [item.length for item in items],
        lambda module, numbers: step(module, [items[i] for i in numbers]),
        recipe,
        weight=weight,
    )
    return policy


def _frozen(start: LogProbEngine, items: Sequence[Item]) -> Reference:
    """The log-probs of ``items`` under ``start``, computed once; nothing is left in the user's cache."""
    table = item_log_probs(starting_weights(start), items, SCORED_AT_ONCE)
    place = {item.id: number for number, item in enumerate(items)}
    return Reference(
        "log-probs computed once",
        lambda asked: table[[place[item.id] for item in asked]],
        lambda: fingerprint_weights([("log_probs", table)]),
    )


def _nll(scores: PairScores) -> float:
    """-log p of the better answers, over all their tokens."""
    return float(-scores.log_probs[:, 0].sum() / scores.lengths[:, 0].sum())
