"""The size of an edit."""

from __future__ import annotations

from difflib import SequenceMatcher

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preftune.collect.word_edits import edit_share, says_the_same

WORDS = st.lists(st.sampled_from("abcd"), max_size=12)


def longest_common(first: list[str], second: list[str]) -> int:
    table = [[0] * (len(second) + 1) for _ in range(len(first) + 1)]
    for i, one in enumerate(first, 1):
        for j, other in enumerate(second, 1):
            table[i][j] = table[i - 1][j - 1] + 1 if one == other else max(table[i - 1][j], table[i][j - 1])
    return table[-1][-1]


@settings(max_examples=200, deadline=None)
@given(WORDS, WORDS)
def test_share_is_that_of_the_longest_common_subsequence(first: list[str], second: list[str]) -> None:
    total = len(first) + len(second)
    expected = 1 - 2 * longest_common(first, second) / total if total else 0.0
    assert edit_share(" ".join(first), " ".join(second)) == pytest.approx(expected)
    assert edit_share(" ".join(first), " ".join(second)) <= 1 - SequenceMatcher(None, first, second).ratio() + 1e-12


def test_case_punctuation_and_space_say_the_same_and_signs_do_not() -> None:
    assert says_the_same("Yes,  it is.", "yes it is!")
    assert not says_the_same("x < y", "x > y")
    assert not says_the_same("It is 5", "It is -5")
