"""Held-out labels: how well rewards part good from bad."""

from __future__ import annotations

import numpy as np
import pytest

from preftune.evaluate.labels import label_measures, label_separation, pairs_within
from preftune.evaluate.preferences import PREFERENCE

LABELS = np.array([True, False, True, False])


def test_separation_is_the_share_of_good_above_bad() -> None:
    rewards = np.array([3.0, 1.0, 0.5, 0.5])  # 3 > 1, 3 > .5, .5 < 1, .5 = .5
    assert label_separation(rewards, LABELS, [b"a", b"b", b"c", b"d"]).value == pytest.approx(2.5 / 4)


def test_separation_of_equal_rewards_is_even_odds() -> None:
    found = label_separation(np.zeros(4), LABELS, [b"a", b"b", b"c", b"d"])
    assert (found.value, found.low, found.high, found.n) == (0.5, 0.5, 0.5, 4)


def test_separation_without_one_of_the_kinds_says_nothing() -> None:
    found = label_separation(np.arange(2.0), np.array([True, True]), [b"a", b"b"])
    assert (found.low, found.high, found.n) == (0.0, 1.0, 0)
    assert np.isnan(found.value)


def test_interval_of_the_separation_covers_the_truth_over_draws() -> None:
    """Good ones are drawn from N(1, 1), bad ones from N(0, 1): the area is Phi(1 / sqrt 2) = 0.7602."""
    draw = np.random.default_rng(0)
    labels = np.arange(80) % 2 == 0
    prompts = [str(i).encode() for i in range(80)]
    hits = 0
    for _ in range(40):
        found = label_separation(draw.normal(labels.astype(float)), labels, prompts)
        hits += found.low <= 0.7602 <= found.high
    assert hits >= 32  # 92 of 100 in the long run


def test_pairs_are_of_one_prompt() -> None:
    labels = np.array([True, False, False, True, True])
    pairs, prompts = pairs_within(labels, [b"a", b"a", b"b", b"b", b"c"])
    assert pairs.tolist() == [[0, 1], [3, 2]]
    assert prompts == [b"a", b"b"]


def test_accuracy_over_pairs_of_a_prompt_is_given_where_there_are_such() -> None:
    rewards = np.array([1.0, 0.0, 2.0, 3.0])
    together = label_measures(rewards, LABELS, [b"a", b"a", b"b", b"b"])
    assert together[PREFERENCE].value == 0.5
    assert PREFERENCE not in label_measures(rewards, LABELS, [b"a", b"b", b"c", b"d"])
