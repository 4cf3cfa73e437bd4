"""The best-of-n curve against enumeration, and what training is worth on it."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from preftune.evaluate.best_of import best_of_curve, expected_best, worth_best_of
from preftune.evaluate.not_taken import CannotTake


def test_expected_best_is_the_mean_over_all_choices() -> None:
    scores = np.array([[0.3, -1.0, 2.0, 2.0, 0.7], [1.0, 1.0, 1.0, 1.0, 1.0]])
    found = expected_best(scores)
    for row, own in zip(found, scores, strict=True):
        for n in range(1, 6):
            assert row[n - 1] == pytest.approx(np.mean([max(choice) for choice in combinations(own, n)]))


def test_curve_is_unbiased_for_draws_of_a_known_distribution() -> None:
    scores = np.random.default_rng(0).random((1500, 8))
    curve = best_of_curve(scores)
    assert [point.n for point in curve.points] == [1, 2, 4, 8]
    for point in curve.points:
        assert point.reward.value == pytest.approx(point.n / (point.n + 1), abs=0.02)
        assert point.reward.low <= point.n / (point.n + 1) <= point.reward.high
        assert point.kl == pytest.approx(np.log(point.n) - (point.n - 1) / point.n)


def test_a_model_that_draws_the_best_of_four_is_worth_the_best_of_four() -> None:
    random = np.random.default_rng(1)
    scores = random.random((900, 16))
    trained = random.random((900, 4)).max(1)
    worth = worth_best_of(expected_best(scores), trained)
    assert worth.value == pytest.approx(4, abs=0.7)
    assert worth.low < 4 < worth.high


def test_ends_of_the_curve_are_said() -> None:
    scores = np.random.default_rng(2).random((50, 4))
    assert "more than the best of 4" in best_of_curve(scores, np.full(50, 2.0)).sentence
    assert "no more than one answer" in best_of_curve(scores, np.full(50, -1.0)).sentence
    assert best_of_curve(scores).worth is None


def test_prompts_without_all_scores_are_left_out() -> None:
    scores = np.array([[1.0, 2.0], [np.nan, 5.0], [3.0, 4.0]])
    curve = best_of_curve(scores, [1.5, 9.0, 3.5])
    assert curve.points[-1].reward.value == 3.0
    assert curve.worth is not None and curve.worth.n == 2
    with pytest.raises(CannotTake, match="no best of n"):
        best_of_curve(np.full((2, 2), np.nan))
