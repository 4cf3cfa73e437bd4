"""Distinct-n, openings, repetition and length of answers."""

from __future__ import annotations

import numpy as np
import pytest

from preftune.evaluate.diversity import (
    COUNTED,
    distinct_share,
    diversity_changes,
    diversity_measures,
    n_grams,
    repeated_share,
    words,
)


def test_words_are_folded_and_scripts_without_spaces_count_by_character() -> None:
    assert words("Don't STOP, 猫だ!") == ["don", "'", "t", "stop", ",", "猫", "だ", "!"]


def test_shares_by_hand() -> None:
    assert distinct_share(n_grams(["a", "b", "a", "b"], 2)) == pytest.approx(2 / 3)
    assert repeated_share(["a", "b", "c", "a", "b", "c"]) == pytest.approx(1 / 4)
    assert repeated_share(["a"]) == 0.0


def test_measures_of_known_answers() -> None:
    answers = [["of course I can"], ["of course I do"], ["no"], []]
    found = diversity_measures(answers)
    assert found["unique_openings"].value == pytest.approx(2 / 3)  # "of course i" twice
    assert found["distinct_1"].value == pytest.approx(6 / 9)
    assert found["words"].value == pytest.approx(3.0)
    assert found["words"].n == 3
    assert all(one.low <= one.value <= one.high for one in found.values())


def test_length_alone_does_not_lower_distinct_words() -> None:
    head = [f"w{number}" for number in range(COUNTED)]
    short, long = " ".join(head), " ".join(head + ["again"] * 500)
    first, last = (diversity_measures([[text]] * 4)["distinct_1"].value for text in (short, long))
    assert first == last


def test_formulaic_answers_show_as_a_change_with_an_interval() -> None:
    random = np.random.default_rng(0)
    varied = [[" ".join(f"w{n}" for n in random.integers(0, 500, 30))] for _ in range(40)]
    formulaic = [[f"certainly , here is {texts[0]}"] for texts in varied]
    changes = diversity_changes(varied, formulaic)
    assert changes["unique_openings"].high < -0.9
    assert changes["words"].value == pytest.approx(4.0)
    same = diversity_changes(varied, varied)
    assert all(one.value == 0 for one in same.values())


def test_jackknife_is_about_as_wide_as_new_draws_differ() -> None:
    random = np.random.default_rng(1)
    weights = 1 / np.arange(1, 201)

    def draw() -> list[list[str]]:
        spoken = random.choice(200, (60, 20), p=weights / weights.sum())
        return [[" ".join(f"w{n}" for n in row)] for row in spoken]

    found = [diversity_measures(draw())["distinct_1"] for _ in range(40)]
    spread = np.std([one.value for one in found])
    told = np.mean([(one.high - one.low) / 4 for one in found])
    assert told == pytest.approx(spread, rel=0.35)


def test_answers_that_are_all_different_leave_room_for_some_that_are_not() -> None:
    texts = [[word] for word in ("red fox runs", "blue bird sings", "old oak stands")]
    found = diversity_measures(texts)
    assert (found["unique_openings"].value, found["unique_openings"].high) == (1.0, 1.0)
    assert found["unique_openings"].low < 0.5
    assert found["repetition"].high > 0.5
    changes = diversity_changes(texts, texts)
    assert changes["unique_openings"].low < 0.0 < changes["unique_openings"].high
