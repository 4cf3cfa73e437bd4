import math

import numpy as np
import pytest

from preftune.audit.other_comparisons import margins_from_others
from preftune.data.records import Pair


def won(chosen: str, rejected: str, prompt: str = "q") -> Pair:
    return Pair(prompt=prompt, chosen=chosen, rejected=rejected)


def test_the_better_record_wins_by_its_log_odds() -> None:
    pairs = [won("a", "b"), won("a", "c"), won("a", "d"), won("e", "b"), won("b", "f")]
    # Elsewhere a has won 2 of 2, and b 1 of 2.
    assert margins_from_others(pairs)[0] == pytest.approx(math.log(3) - math.log(1))


def test_others_vouch_for_what_follows_from_them_and_contradict_what_does_not() -> None:
    assert margins_from_others([won("a", "b"), won("b", "c"), won("a", "c")])[2] == pytest.approx(math.log(4))
    assert margins_from_others([won("a", "b"), won("b", "c"), won("c", "a")])[2] == pytest.approx(-math.log(4))


def test_pairs_without_other_comparisons_have_no_witness() -> None:
    pairs = [won("a", "b"), won("a", "b", "other prompt"), won("c", "d"), won("c", "d")]
    assert margins_from_others(pairs).tolist() == [0.0] * 4
    assert margins_from_others([]).tolist() == []


def test_copies_and_contradictions_of_a_pair_do_not_vouch_for_it() -> None:
    chain = [won("a", "b"), won("b", "c")]
    (alone,) = margins_from_others([*chain, won("c", "a")])[2:]
    copies = [won("c", "a"), won("c", "a"), won(" c", "a ")]
    assert margins_from_others([*chain, *copies])[2:] == pytest.approx([alone] * 3)
    assert margins_from_others([*chain, won("c", "a"), won("a", "c")])[2:] == pytest.approx([alone, -alone])


def test_swapping_a_pair_changes_the_sign_of_its_margin_alone() -> None:
    draw = np.random.default_rng(0)
    pairs = [won(*(f"answer {end}" for end in draw.choice(6, 2, replace=False))) for _ in range(20)]
    margins = margins_from_others(pairs)
    for row in range(20):
        turned = [*pairs]
        turned[row] = won(pairs[row].rejected, pairs[row].chosen)
        assert margins_from_others(turned)[row] == pytest.approx(-margins[row])


def test_a_flip_among_many_comparisons_is_named() -> None:
    answers = [f"answer {number}" for number in range(8)]
    pairs = [won(answers[i], answers[j]) for i in range(8) for j in range(i + 1, 8)]
    flipped = 5
    pairs[flipped] = won(pairs[flipped].rejected, pairs[flipped].chosen)
    margins = margins_from_others(pairs)
    assert margins.argmin() == flipped and margins[flipped] < -3
