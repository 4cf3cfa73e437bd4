"""Win rates of known verdicts, and how many prompts a difference needs."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from preftune.evaluate.win_rate import comparisons_needed, design_effect, sample_size, tie_share, win_rate

W, L, T, X = 1.0, 0.0, 0.5, float("nan")


def test_ties_are_half_and_what_has_no_verdict_is_left_out() -> None:
    found = win_rate(np.array([W, W, L, T, X]), range(5))
    assert (found.value, found.n) == (0.625, 4)
    assert tie_share(np.array([W, T, T, X]), range(4)).value == pytest.approx(2 / 3)


def test_interval_is_the_normal_one_where_there_are_many_prompts() -> None:
    points = np.array([W] * 360 + [L] * 240)
    found = win_rate(points, range(600))
    half = 1.96 * np.sqrt(0.6 * 0.4 / 600)
    assert (found.low, found.high) == pytest.approx((0.6 - half, 0.6 + half), abs=0.004)
    assert win_rate(points, range(600), seed=1) != found  # another seed, other draws
    assert win_rate(points, range(600)) == found


def test_winning_every_time_is_not_certainty() -> None:
    found = win_rate(np.ones(20), range(20))
    assert found.value == 1.0
    assert found.low == pytest.approx(20 / (20 + 1.96**2), abs=0.01)  # Wilson's


def test_answers_to_one_prompt_count_as_one_draw() -> None:
    points = np.repeat([W, L] * 30, 4)
    prompts = [number for number in range(60) for _ in range(4)]
    together, apart = win_rate(points, prompts), win_rate(points, range(240))
    assert together.high - together.low == pytest.approx(2 * (apart.high - apart.low), rel=0.1)
    assert design_effect(points, prompts) == pytest.approx(4, rel=0.05)
    assert design_effect(points, range(240)) == 1.0


@pytest.mark.parametrize(("rate", "ties"), [(0.55, 0.0), (0.6, 0.3)])
def test_so_many_comparisons_find_the_difference_in_four_of_five(rate: float, ties: float) -> None:
    n = comparisons_needed(rate, ties=ties)
    assert n is not None
    random = np.random.default_rng(0)
    wins, draws = rate - ties / 2, 2000
    counts = random.multinomial(n, [wins, ties, 1 - wins - ties], size=draws)
    means = (counts[:, 0] + counts[:, 1] / 2) / n
    error = np.sqrt((0.25 - counts[:, 1] / n / 4) / n)
    assert np.mean(np.abs(means - 0.5) / error > norm.isf(0.025)) == pytest.approx(0.8, abs=0.03)


def test_known_sample_sizes() -> None:
    assert comparisons_needed(0.55) == 783  # the textbook's one-proportion test
    assert comparisons_needed(0.45) == 783
    assert comparisons_needed(0.9, ties=0.3) is None  # 30% ties leave at most 85%
    assert comparisons_needed(0.5) is None


def test_measured_ties_and_clustering_go_into_the_sample_size() -> None:
    points = np.array([W, L] * 200)
    alone = sample_size(points, range(400))
    assert alone.needed[0.55] == 783
    assert alone.smallest == 0.57
    assert alone.sentence() == "to tell 55% from 50% you need 783 prompts; these 400 tell 57% or more"
    tied = sample_size(np.array([W, L, T, T] * 100), range(400))
    assert tied.needed[0.55] == pytest.approx(783 / 2, rel=0.02)
    repeated = sample_size(np.repeat(points, 2), [n for n in range(400) for _ in range(2)])
    assert repeated.needed[0.55] == pytest.approx(783, abs=3)  # two answers that agree are worth one
    assert sample_size(np.array([]), []).sentence().endswith("tell no difference")


@pytest.mark.parametrize(
    ("prompts", "answers", "wins", "ties"),
    [(40, 1, 0.6, 0.3), (20, 4, 0.6, 0.2), (6, 6, 0.55, 0.1), (40, 1, 0.97, 0.0)],
)
def test_intervals_hold_the_truth(prompts: int, answers: int, wins: float, ties: float) -> None:
    """Prompts differ in how often they are won where they have several answers; ties, extremes and few prompts too."""
    draw = np.random.default_rng(0)
    held, of = 0, np.repeat(np.arange(prompts), answers).tolist()
    for _ in range(200):
        chance = draw.beta(4 * wins, 4 * (1 - wins), (prompts, 1)) if answers > 1 else np.full((prompts, 1), wins)
        points = np.where(draw.random((prompts, answers)) < chance, W, L)
        points = np.where(draw.random((prompts, answers)) < ties, T, points)
        found = win_rate(points.ravel(), of)
        held += found.low <= (1 - ties) * wins + ties / 2 <= found.high
    assert held / 200 > 0.9


def test_ties_of_one_prompt_count_as_one_draw() -> None:
    points, of = np.repeat([T, W, T, W, L], 4), np.repeat(np.arange(5), 4).tolist()
    together, apart = tie_share(points, of), tie_share(points, range(20))
    assert together.value == apart.value == 0.4
    assert together.high - together.low > apart.high - apart.low


def test_the_sample_size_finds_its_difference_four_times_in_five() -> None:
    ties, rate = 0.3, 0.65
    n = comparisons_needed(rate, ties=ties)
    assert n is not None
    draw, wins = np.random.default_rng(0), rate - ties / 2
    found = 0
    for _ in range(300):
        place = draw.random(n)
        points = np.where(place < wins, W, np.where(place < wins + ties, T, L))
        found += win_rate(points, range(n)).low > 0.5
    assert 0.72 < found / 300 < 0.88
