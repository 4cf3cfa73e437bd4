"""A world small enough to be counted: 46,656 completions, so that optimum, KL and expected reward are exact numbers.

A policy is asked one question and answers with exactly six of six symbols; nothing else is possible. The policy is a
Llama of two layers whose LM head has a bias of its own: -10,000 on the tokens that are no symbols, so that their
probability is exactly 0 in float32 and so is its gradient. The EOS exists, and is never drawn.

Rewards are standardised under the reference: 0 on average, deviation 1. So an expected reward is a gain over the
reference. ``beta`` is such that the optimum pi* = pi_ref exp(r / beta) / Z lies ``DISTANCE`` nats from the reference.
For every policy  E[r] - beta KL(pi || pi_ref) = beta log Z - beta KL(pi || pi*):  the KL from the optimum is all that
is missing to the best objective.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from benchmarks.experiments.small_models import FIRST_CHARACTER, character_tokenizer, small_llama

ASK, FIRST_SYMBOL = FIRST_CHARACTER, FIRST_CHARACTER + 1
SYMBOLS, LENGTH = "abcdef", 6
N_SYMBOLS = len(SYMBOLS)
N_COMPLETIONS = N_SYMBOLS**LENGTH
VOCABULARY = FIRST_SYMBOL + N_SYMBOLS
PROMPT = "?"
IMPOSSIBLE = -1e4
DISTANCE = 1.0  # KL(pi* || pi_ref), nats
WIDTH, LAYERS = 32, 2
PEAKEDNESS = 0.8  # the deviation of a symbol's logit from one context to another, nats
PAIR_STRENGTH = 0.25  # of what neighbours are worth together, against what symbols are worth by themselves

LogProbs = Float[Tensor, "completions"]


@dataclass(frozen=True)
class World:
    """``start`` is the reference as a model, ``reference`` its exact log-probs; ``rewards`` are of all completions.

    Completion number i has the digits of i to the base of six as its symbols, the first symbol first.
    """

    seed: int
    start: nn.Module
    reference: LogProbs
    rewards: LogProbs
    beta: float

    @property
    def optimum(self) -> LogProbs:
        """log pi*."""
        return tilted(self.reference, self.rewards, self.beta)


@dataclass(frozen=True)
class Standing:
    """Where a policy stands: KLs and entropy in nats, the expected reward, and that as a share of the optimum's."""

    kl_to_optimum: float
    kl_to_reference: float
    reward: float
    reward_share: float
    entropy: float


def make_world(seed: int, distance: float = DISTANCE) -> World:
    """The world of a seed: a random reference, random rewards, and beta for an optimum ``distance`` nats away."""
    start = make_policy(seed)
    with torch.no_grad():
        reference = log_probs_of(start)
    rewards = standardised(_draw_rewards(seed), reference)
    return World(seed, start, reference, rewards, beta_at(distance, reference, rewards))


def make_policy(seed: int, width: int = WIDTH, layers: int = LAYERS) -> Any:
    """A random Llama that can say nothing but symbols."""
    model = small_llama(seed, 1 + N_SYMBOLS, width, layers)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        head = nn.Linear(width, VOCABULARY)
        nn.init.normal_(head.weight, std=PEAKEDNESS / width**0.5)
    with torch.no_grad():
        head.bias.zero_()[:FIRST_SYMBOL] = IMPOSSIBLE
    model.lm_head = head
    return model


def make_tokenizer() -> Any:
    """A token a character: the question, the symbols; padding and EOS beside them."""
    return character_tokenizer((PROMPT, *SYMBOLS))


def log_probs_of(model: nn.Module) -> LogProbs:
    """log pi of all completions, with gradients, in double precision from float32 logits.

    A tree: each prefix is computed once, 9,331 tokens in place of 279,936.
    """
    from transformers import DynamicCache

    cache, found = DynamicCache(), torch.zeros(1, dtype=torch.float64)
    symbols = torch.arange(FIRST_SYMBOL, VOCABULARY)
    ids = torch.tensor([[ASK]])
    for place in range(LENGTH):
        logits = model(input_ids=ids, past_key_values=cache, use_cache=True).logits[:, -1]
        next_one = logits.double().log_softmax(-1)[:, FIRST_SYMBOL:]
        found = (found[:, None] + next_one).flatten()
        if place < LENGTH - 1:
            cache.batch_repeat_interleave(N_SYMBOLS)
            ids = symbols.repeat(N_SYMBOLS**place)[:, None]
    return found


@torch.no_grad()
def exact_log_probs(model: nn.Module) -> LogProbs:
    """The same of a model that is being trained, whose attention may have been exchanged: of its weights alone."""
    plain = make_policy(0)
    plain.load_state_dict(model.state_dict())
    return log_probs_of(plain)


def number_of(tokens: Sequence[int]) -> int:
    """Which completion it is; raises ``ValueError`` for what is none."""
    digits = [token - FIRST_SYMBOL for token in tokens]
    if len(digits) != LENGTH or min(digits) < 0:
        raise ValueError(
            f"A completion of this world has {LENGTH} symbols, but this one has the tokens {list(tokens)}."
        )
    number = 0
    for digit in digits:
        number = number * N_SYMBOLS + digit
    return number


def tokens_of(number: int) -> list[int]:
    """The tokens of completion ``number``."""
    return [FIRST_SYMBOL + number // N_SYMBOLS ** (LENGTH - 1 - place) % N_SYMBOLS for place in range(LENGTH)]


def reward_function(rewards: LogProbs) -> Callable[..., list[float]]:
    """A reward function as trainers take it, that looks the completion up."""
    table = rewards.tolist()

    def reward(completion_ids: Sequence[Sequence[int]], **_: Any) -> list[float]:
        return [table[number_of(tokens)] for tokens in completion_ids]

    return reward


def tilted(reference: LogProbs, rewards: LogProbs, beta: float) -> LogProbs:
    """log of pi_ref exp(r / beta) / Z, the policy with the highest E[r] - beta KL(pi || pi_ref)."""
    return (reference + rewards / beta).log_softmax(0)


def beta_at(distance: float, reference: LogProbs, rewards: LogProbs) -> float:
    """The beta whose optimum lies ``distance`` nats from the reference, by bisection."""
    low, high = 1e-3, 1e3  # a larger beta holds the optimum nearer
    for _ in range(80):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if kl(tilted(reference, rewards, middle), reference) > distance else (low, middle)
    return high


def standing(world: World, policy: LogProbs) -> Standing:
    """Where ``policy`` stands, exactly."""
    optimum = world.optimum
    reward = expected(policy, world.rewards)
    return Standing(
        kl_to_optimum=kl(policy, optimum),
        kl_to_reference=kl(policy, world.reference),
        reward=reward,
        reward_share=reward / expected(optimum, world.rewards),
        entropy=-expected(policy, policy),
    )


def acts_like_beta(world: World, policy: LogProbs) -> float:
    """The beta of the optimum nearest to ``policy``: the one that has the same expected reward; infinite for none."""
    reward = expected(policy, world.rewards)
    if reward <= 0:
        return float("inf")
    low, high = 1e-3, 1e3  # a larger beta earns less
    for _ in range(80):
        middle = (low * high) ** 0.5
        earned = expected(tilted(world.reference, world.rewards, middle), world.rewards)
        low, high = (middle, high) if earned > reward else (low, middle)
    return high


def objective(world: World, policy: LogProbs) -> Tensor:
    """E[r] - beta KL(pi || pi_ref), with gradients."""
    return (policy.exp() * (world.rewards - world.beta * (policy - world.reference))).sum()


def kl(policy: LogProbs, other: LogProbs) -> float:
    """KL(policy || other), nats."""
    return expected(policy, policy - other)


def expected(policy: LogProbs, values: LogProbs) -> float:
    """The mean of ``values`` under ``policy``; what has no probability counts nothing, whatever its value."""
    weights = policy.exp()
    return float(torch.where(weights > 0, weights * values, 0.0).sum())


def standardised(values: LogProbs, reference: LogProbs) -> LogProbs:
    """``values`` with mean 0 and deviation 1 under ``reference``."""
    centred = values - expected(reference, values)
    return centred / expected(reference, centred.square()) ** 0.5


def _draw_rewards(seed: int) -> LogProbs:
    """What each symbol is worth at its place, plus what each pair of neighbours and of first and last is worth."""
    draw = np.random.default_rng([seed, *b"rewards"])
    alone = draw.normal(size=(LENGTH, N_SYMBOLS))
    together = PAIR_STRENGTH * draw.normal(size=(LENGTH, N_SYMBOLS, N_SYMBOLS))
    digits = np.indices((N_SYMBOLS,) * LENGTH).reshape(LENGTH, N_COMPLETIONS)
    worth = sum(alone[place, digits[place]] for place in range(LENGTH))
    worth += sum(together[place, digits[place - 1], digits[place]] for place in range(LENGTH))
    return torch.from_numpy(worth)
