"""Sums, their reward, and how often a group teaches nothing."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.experiments import arithmetic
from benchmarks.experiments.small_models import EOS
from benchmarks.experiments.sums import (
    answer_of,
    is_right,
    make_policy,
    make_tokenizer,
    prompt_of,
    rightness,
    shuffled,
    split_sums,
)


def test_sums_are_all_there_and_none_is_learned_and_held_out() -> None:
    learned, held_out = split_sums(11, 500)
    assert len(held_out) == 500
    assert len({*learned, *held_out}) == 8100
    assert all(10 <= one <= 99 and 10 <= other <= 99 for one, other in [*learned, *held_out])
    assert split_sums(12, 500)[1] != held_out


def test_a_sum_is_read_back_as_it_was_written() -> None:
    tokenizer = make_tokenizer()
    assert (prompt_of((37, 58)), answer_of((37, 58))) == ("37+58=", "95")
    ids = tokenizer("37+58=95")["input_ids"]
    assert len(ids) == 8
    assert tokenizer.decode([*ids, EOS], skip_special_tokens=True) == "37+58=95"


def test_only_the_answer_itself_is_right() -> None:
    assert is_right(completions=["95", "95 ", "9", "195"], answer=["95"] * 4) == [1, 0, 0, 0]


def test_shuffled_rewards_are_as_many_but_know_nothing_of_their_completion() -> None:
    reward = shuffled(is_right, 11)
    batch = {"completions": ["1"] * 100 + ["2"] * 300, "answer": ["1"] * 400}
    found = np.array([reward(**batch) for _ in range(50)])
    assert (found.sum(1) == 100).all()
    assert found[:, :100].mean() == pytest.approx(0.25, abs=0.03)


def test_expected_ties_are_those_of_all_groups_that_can_be_chosen() -> None:
    right = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], dtype=bool)
    assert arithmetic.expected_ties(right, group=2) == pytest.approx((4 / 10 + 1) / 2)  # 3 + 1 of 10 pairs
    draw = np.random.default_rng(11)
    found = arithmetic.expected_ties(draw.random((4000, 32)) < 0.3)
    assert found == pytest.approx(0.3**8 + 0.7**8, abs=0.01)


def test_a_model_that_was_taught_nothing_adds_nothing() -> None:
    _, held_out = split_sums(11, 30)
    assert rightness(make_policy(11), held_out).mean() < 0.1
    assert rightness(make_policy(11), held_out, temperature=1.0, samples=3).shape == (30, 3)


@pytest.mark.slow
def test_sft_stops_where_enough_is_right() -> None:
    learned, held_out = split_sums(11, 200)
    model, steps = arithmetic.taught(11, learned, held_out)
    assert 0.3 <= rightness(model, held_out).mean() < 0.75
    assert steps < 4000
