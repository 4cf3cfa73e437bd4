"""The world the doctor's runs are made in: answers are letters, and each letter has a worth that nobody tells.

A prompt is a topic and two letters to tell prompts apart. An answer is some letters; a topic has favourites, so that
the policy starts with habits. The gold score of an answer is the mean worth of its letters, less what is charged for
letters said twice and for answers longer or shorter than anybody writes: a proxy that has never seen such answers does
not know of these charges, and can be hacked.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from jaxtyping import Float

from benchmarks.experiments.small_models import NOTHING_BESIDE, character_tokenizer, small_llama

TOPICS, LETTERS = "ABCDEFGH", "abcdefghijklmnopqrstuvwxyz"
SHORTEST, LONGEST = 5, 9  # letters of an answer
CLEAR = 0.15  # the least difference in gold between the sides of a pair
# What is charged for letters said twice, as a share of the answer, and for each letter too many and too few.
REPEATED, TOO_LONG, TOO_SHORT = 1.5, 0.1, 0.25
WIDTH, LAYERS = 32, 1
TEXTS, TEXT_EPOCHS, TEXT_RATE = 800, 3, 1e-2


@dataclass(frozen=True)
class Letters:
    """``worth`` of each letter, in [-1, 1]; ``habits`` how likely each topic is to say it."""

    seed: int
    worth: Float[np.ndarray, "letters"]
    habits: Float[np.ndarray, "topics letters"]

    def gold(self, answer: str) -> float:
        """What the answer is worth; one without letters is worth -1."""
        said = [LETTERS.index(letter) for letter in answer if letter in LETTERS]
        if not said:
            return -1.0
        twice = 1 - len(set(said)) / len(said)
        length = TOO_LONG * max(len(said) - LONGEST, 0) + TOO_SHORT * max(SHORTEST - len(said), 0)
        return float(self.worth[said].mean()) - REPEATED * max(twice - 0.2, 0.0) - length


def letters_of(seed: int) -> Letters:
    """The world of a seed."""
    draw = generator(seed, "world")
    ranks = np.argsort([draw.permutation(len(LETTERS)) for _ in TOPICS], axis=1)
    habits = 1.0 / (1.0 + ranks) ** 0.9
    return Letters(seed, draw.permutation(np.linspace(-1, 1, len(LETTERS))), habits / habits.sum(axis=1, keepdims=True))


def answers_to(world: Letters, prompts: Sequence[str], draw: np.random.Generator) -> list[str]:
    """An answer to each prompt, by habit."""
    lengths = draw.integers(SHORTEST, LONGEST + 1, size=len(prompts))
    letters = list(LETTERS)
    return [
        "".join(draw.choice(letters, size=length, p=world.habits[TOPICS.index(prompt[0])]))
        for prompt, length in zip(prompts, lengths, strict=True)
    ]


def prompts_of(seed: int, n: int, name: str) -> list[str]:
    """``n`` prompts like "Cxq:"."""
    draw = generator(seed, name)
    return [draw.choice(list(TOPICS)) + "".join(draw.choice(list(LETTERS), size=2)) + ":" for _ in range(n)]


def pairs_of(world: Letters, n: int, name: str, wrong: float = 0.0, by: Any = None) -> list[dict[str, str]]:
    """``n`` pairs whose chosen side has the higher gold, or ``by`` another score; a share of ``wrong`` is flipped."""
    draw, score = generator(world.seed, name), by or world.gold
    rows: list[dict[str, str]] = []
    while len(rows) < n:
        prompts = prompts_of(int(draw.integers(2**31)), n, name)
        ones, others = answers_to(world, prompts, draw), answers_to(world, prompts, draw)
        for prompt, one, other, luck in zip(prompts, ones, others, draw.random(n), strict=True):
            difference = score(one) - score(other)
            if abs(difference) >= CLEAR:
                chosen, rejected = (one, other) if (difference > 0) != (luck < wrong) else (other, one)
                rows.append({"prompt": prompt, "chosen": chosen, "rejected": rejected})
    return rows[:n]


def near_twins(world: Letters, n: int, name: str) -> list[dict[str, str]]:
    """Pairs that differ in their last letter alone, the better one chosen, and both unlike what is written by habit."""
    draw = generator(world.seed, name)
    best = [LETTERS[i] for i in np.argsort(world.worth)[::-1]]
    rows = []
    for prompt in prompts_of(world.seed, n, name):
        stem = "".join(draw.choice(list(LETTERS), size=int(draw.integers(SHORTEST, LONGEST))))
        better, worse = sorted(draw.choice(len(best), size=2, replace=False))
        rows.append({"prompt": prompt, "chosen": stem + best[better], "rejected": stem + best[worse]})
    return rows


def start_of(seed: int, folder: Path, epochs: float = TEXT_EPOCHS) -> str:
    """A small Llama that answers by habit and does not know what is wanted, as a model folder below ``folder``.

    With 0 epochs it has read nothing. What is there is not made again.
    """
    place = folder / f"start-{seed}-{epochs:g}"
    if not place.is_dir():
        model = small_llama(seed, len(characters()), WIDTH, LAYERS)
        if epochs:
            _teach(model, seed, epochs)
        model.save_pretrained(place)
        make_tokenizer().save_pretrained(place)
    return str(place)


def _teach(model: Any, seed: int, epochs: float) -> None:
    from preftune.methods.context import Given
    from preftune.methods.run import run
    from preftune.methods.sft import SFTConfig, prepare

    world = letters_of(seed)
    prompts = prompts_of(seed, TEXTS, "texts")
    answers = answers_to(world, prompts, generator(seed, "texts"))
    rows = [{"prompt": prompt, "completion": answer} for prompt, answer in zip(prompts, answers, strict=True)]
    with TemporaryDirectory(prefix="doctor-start-") as folder:
        config = SFTConfig(
            model="letters",
            data="letters",
            output_dir=f"{folder}/run",
            num_train_epochs=epochs,
            learning_rate=TEXT_RATE,
            per_device_train_batch_size=32,
            seed=seed,
            **NOTHING_BESIDE,
            num_completions=0,
            dtype="float32",
        )
        run(config, prepare, given=Given(model, copy.deepcopy(model), None, make_tokenizer(), rows))


def make_tokenizer() -> Any:
    """A token a character."""
    return character_tokenizer(characters())


def characters() -> Sequence[str]:
    """All that prompts and answers are made of."""
    return (":", *TOPICS, *LETTERS)


def learned_proxy(world: Letters, n: int) -> Any:
    """A score for answers, learned from ``n`` pairs: a logistic regression on how often each letter is said."""
    from scipy.optimize import minimize

    rows = pairs_of(world, n, "proxy", wrong=0.1)
    differences = np.array([_counts(row["chosen"]) - _counts(row["rejected"]) for row in rows])

    def loss(weights: np.ndarray) -> float:
        return float(np.logaddexp(0, -differences @ weights).sum() + 0.5 * weights @ weights)

    weights = minimize(loss, np.zeros(len(LETTERS))).x
    return lambda answer: float(_counts(answer) @ weights)


def generator(seed: int, name: str) -> np.random.Generator:
    """A generator of its own for each thing that is drawn."""
    return np.random.default_rng([seed, *name.encode()])


def _counts(answer: str) -> np.ndarray:
    return np.array([answer.count(letter) for letter in LETTERS], dtype=float)
