"""Chance as a function of seed, prompt, completion and place."""

from __future__ import annotations

import numpy as np

from preftune.rollout.draws import uniforms


def test_numbers_do_not_depend_on_how_many_are_asked_for() -> None:
    assert (uniforms(3, 1, 2, 5) == uniforms(3, 1, 2, 50)[:5]).all()


def test_seed_prompt_and_completion_have_numbers_of_their_own() -> None:
    seen = {tuple(uniforms(seed, p, c, 4)) for seed in (-1, 0, 1, 2**63) for p in range(5) for c in range(5)}
    assert len(seen) == 4 * 25


def test_streams_of_neighbours_do_not_overlap() -> None:
    numbers = np.concatenate([uniforms(0, p, c, 200) for p in range(10) for c in range(10)])
    assert len(np.unique(numbers)) == len(numbers)


def test_numbers_are_uniform() -> None:
    numbers = np.concatenate([uniforms(0, p, c, 100) for p in range(20) for c in range(20)])
    assert numbers.min() >= 0 and numbers.max() < 1
    counts = np.histogram(numbers, bins=50, range=(0, 1))[0]
    assert ((counts - 800) ** 2 / 800).sum() < 49 + 4 * 98**0.5


def test_numbers_are_those_of_every_machine() -> None:
    assert uniforms(42, 1, 2, 2).tolist() == [0.2872620149663321, 0.5580459172129182]
