"""A small world whose true preference is known: an answer is as good as the words in it.

A prompt names a topic. An answer repeats the topic, says ``ANSWER_WORDS`` words and ends. Every word has a worth,
drawn once a world; of two answers the one whose words are worth more is the better one, without exception. Policies
see tokens only, so a held-out pair is ranked right by those who learned the worth of words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from preftune.data.token_records import TokenDemonstration, TokenLabel, TokenPair

PAD, BOS, EOS = range(3)
TOPICS, WORDS, ANSWER_WORDS = 8, 48, 6
FIRST_TOPIC = 3
FIRST_WORD = FIRST_TOPIC + TOPICS
VOCABULARY = FIRST_WORD + WORDS
CLEAR = 0.1  # the least difference of worth between the sides of a pair; that of two random answers deviates by 0.34
LONGEST_CHATTER = 12


@dataclass(frozen=True)
class World:
    """``worth`` of each token, in [-1, 1] and 0 on average over words; ``seed`` decides all that is drawn from it."""

    seed: int
    worth: Float[np.ndarray, "vocab"]


def make_world(seed: int) -> World:
    """A world in which worths are evenly spaced and dealt out to the words at random."""
    worth = np.zeros(VOCABULARY)
    worth[FIRST_WORD:] = _draw(seed, "worth").permutation(np.linspace(-1, 1, WORDS))
    return World(seed, worth)


def draw_pairs(world: World, n: int, name: str) -> list[TokenPair]:
    """``n`` pairs, the better answer chosen; another ``name`` gives other pairs."""
    draw = _draw(world.seed, name)
    return [_pair(world, f"{name}-{number}", draw) for number in range(n)]


def flipped(pairs: Sequence[TokenPair], share: float, seed: int) -> list[TokenPair]:
    """The pairs, each label flipped with probability ``share``; what is flipped at one share is so at any larger."""
    luck = _draw(seed, "flips").random(len(pairs))
    return [
        replace(pair, chosen=pair.rejected, rejected=pair.chosen) if turn else pair
        for pair, turn in zip(pairs, luck < share, strict=True)
    ]


def labels_of(pairs: Sequence[TokenPair]) -> list[TokenLabel]:
    """Two labels a pair: its chosen answer is good, its rejected one bad."""
    return [
        TokenLabel(f"{pair.id}-{'good' if label else 'bad'}", pair.prompt, completion, label)
        for pair in pairs
        for completion, label in ((pair.chosen, True), (pair.rejected, False))
    ]


def draw_answers(world: World, n: int) -> list[TokenDemonstration]:
    """``n`` answers, good and bad alike: they tell a model how to answer, but not what is wanted."""
    draw = _draw(world.seed, "answers")
    topics = draw.integers(TOPICS, size=n).tolist()
    return [
        TokenDemonstration(f"answer-{number}", _prompt(topic), _answer(topic, draw))
        for number, topic in enumerate(topics)
    ]


def draw_chatter(world: World, n: int) -> list[TokenDemonstration]:
    """``n`` texts of words, of any length and on no topic: what a base model has read."""
    draw = _draw(world.seed, "chatter")
    lengths = draw.integers(2, LONGEST_CHATTER + 1, size=n)
    return [
        TokenDemonstration(f"text-{number}", np.array([BOS], np.int32), _ended(_words(length, draw)))
        for number, length in enumerate(lengths)
    ]


def draw_prompts(world: World, n: int) -> list[list[int]]:
    """``n`` prompts to answer."""
    return [_prompt(topic).tolist() for topic in _draw(world.seed, "prompts").integers(TOPICS, size=n).tolist()]


def worth_of(world: World, tokens: Sequence[int] | np.ndarray) -> float:
    """The mean worth of the words in an answer; one that says no word is worth nothing."""
    words = [token for token in tokens if token >= FIRST_WORD]
    return float(world.worth[words].mean()) if words else 0.0


def is_formed(prompt: Sequence[int], tokens: Sequence[int]) -> bool:
    """Whether an answer repeats its topic, says its words and ends."""
    words = tokens[1:-1]
    return (
        len(tokens) == ANSWER_WORDS + 2
        and tokens[0] == prompt[-1]
        and tokens[-1] == EOS
        and all(word >= FIRST_WORD for word in words)
    )


def _pair(world: World, identity: str, draw: np.random.Generator) -> TokenPair:
    topic = int(draw.integers(TOPICS))
    while True:
        one, other = _answer(topic, draw), _answer(topic, draw)
        difference = worth_of(world, one) - worth_of(world, other)
        if abs(difference) >= CLEAR:
            better, worse = (one, other) if difference > 0 else (other, one)
            return TokenPair(identity, _prompt(topic), better, worse)


def _prompt(topic: int) -> np.ndarray:
    return np.array([BOS, FIRST_TOPIC + topic], np.int32)


def _answer(topic: int, draw: np.random.Generator) -> np.ndarray:
    return _ended([FIRST_TOPIC + topic, *_words(ANSWER_WORDS, draw)])


def _words(n: int, draw: np.random.Generator) -> list[int]:
    return draw.integers(FIRST_WORD, VOCABULARY, size=n).tolist()


def _ended(tokens: Sequence[int]) -> np.ndarray:
    return np.array([*tokens, EOS], np.int32)


def _draw(seed: int, name: str) -> np.random.Generator:
    """A generator of its own for each thing that is drawn."""
    return np.random.default_rng([seed, *name.encode()])
