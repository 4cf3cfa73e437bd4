"""Figures with their intervals, against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from preftune.evaluate.measures import Measure, mean, paired_change, share, share_of

Z = 1.959963984540054
COUNTS = st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@given(COUNTS)
def test_share_has_wilsons_interval(counts: tuple[int, int]) -> None:
    """By hand (Wilson 1927), and as scipy has it."""
    hits, n = counts
    p = hits / n
    centre, spread = p + Z**2 / (2 * n), Z * math.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2))
    found = share(hits, n, "", "")
    assert found.value == p
    assert found.low == pytest.approx(max(0.0, (centre - spread) / (1 + Z**2 / n)), abs=1e-12)
    assert found.high == pytest.approx(min(1.0, (centre + spread) / (1 + Z**2 / n)), abs=1e-12)
    theirs = stats.binomtest(hits, n).proportion_ci(0.95, method="wilson")
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=1e-9)


def test_share_of_nothing_says_that_nothing_is_known() -> None:
    found = share(0, 0, "", "")
    assert math.isnan(found.value)
    assert (found.low, found.high, found.n) == (0.0, 1.0, 0)


@given(st.lists(st.booleans(), min_size=1, max_size=60))
def test_share_over_different_prompts_is_the_plain_share(flags: list[bool]) -> None:
    found, plain = share_of(flags, range(len(flags)), "", ""), share(sum(flags), len(flags), "", "")
    assert found.value == plain.value
    # The cluster-robust variance has n - 1 where the binomial one has n.
    slack = 1.0 / len(flags) if len(flags) > 1 else 1e-9
    assert found.low <= plain.low + 1e-9
    assert found.high >= plain.high - 1e-9
    assert found.low >= plain.low - slack
    assert found.high <= plain.high + slack


def test_pairs_of_one_prompt_that_agree_count_once() -> None:
    """Ten prompts whose eight pairs all say the same know as much as ten pairs."""
    flags = np.repeat([1, 1, 1, 0, 1, 0, 1, 1, 0, 1], 8)
    prompts = np.repeat(np.arange(10), 8)
    found, ten = share_of(flags, prompts, "", ""), share(7, 10, "", "")
    assert found.n == 80
    assert found.value == pytest.approx(0.7)
    assert found.high - found.low == pytest.approx(ten.high - ten.low, rel=0.06)
    assert found.high - found.low > 2 * (share(56, 80, "", "").high - share(56, 80, "", "").low)


@given(st.lists(st.floats(-50, 50), min_size=2, max_size=40))
def test_mean_has_students_interval(values: list[float]) -> None:
    found = mean(values, "nats", "", "")
    assert found.value == pytest.approx(np.mean(values), abs=1e-9)
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    half = stats.t.ppf(0.975, len(values) - 1) * error
    assert found.high - found.value == pytest.approx(half, abs=1e-7)
    assert found.value - found.low == pytest.approx(half, abs=1e-7)
    if error > 1e-6:
        low, high = stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
        assert (found.low, found.high) == pytest.approx((low, high), rel=1e-6, abs=1e-7)


def test_mean_of_values_that_hang_together_is_as_sure_as_their_prompts_are_many() -> None:
    values, prompts = np.repeat([1.0, 2.0, 4.0, 9.0], 5), np.repeat(np.arange(4), 5)
    found, four = mean(values, "", "", "", prompts), mean([1.0, 2.0, 4.0, 9.0], "", "", "")
    assert (found.value, found.low, found.high) == pytest.approx((four.value, four.low, four.high))
    assert found.n == 20


@pytest.mark.parametrize("values", [[], [3.0]])
def test_mean_of_fewer_than_two_has_no_bounds(values: list[float]) -> None:
    found = mean(values, "", "", "")
    assert (found.low, found.high, found.n) == (-math.inf, math.inf, len(values))


def test_paired_change_is_narrower_than_the_difference_of_two_means() -> None:
    """What differs between items cancels out."""
    draw = np.random.default_rng(0)
    before = draw.normal(0, 10, 50)
    after = before + 1 + draw.normal(0, 0.1, 50)
    found = paired_change(before, after, "tokens", "")
    assert found.low < 1.05
    assert found.high > 0.95
    assert found.high - found.low < 0.1


def test_interval_covers_the_truth_as_often_as_it_says() -> None:
    """4,000 experiments each; 0.95 is met within four standard errors, 0.014."""
    draw = np.random.default_rng(1)
    shares = [share(int(draw.binomial(60, 0.7)), 60, "", "") for _ in range(4000)]
    means = [mean(draw.normal(2.0, 3.0, 8), "", "", "") for _ in range(4000)]
    assert np.mean([found.low <= 0.7 <= found.high for found in shares]) == pytest.approx(0.95, abs=0.02)
    assert np.mean([found.low <= 2.0 <= found.high for found in means]) == pytest.approx(0.95, abs=0.014)


def test_measure_reads_with_its_interval_and_n() -> None:
    assert str(Measure(0.75, 0.663, 0.821, 1152, "share", "", "")) == "75.0% (95% interval 66.3% to 82.1%, n = 1,152)"
    assert str(Measure(0.3321, 0.2, 0.5, 9, "nats", "", "")) == "0.332 nats (95% interval 0.2 to 0.5, n = 9)"


def test_no_change_at_all_is_not_taken_for_certainty() -> None:
    alike = np.ones(16)
    found = paired_change(alike, alike, "share", "Change")
    assert found.value == 0.0
    assert found.low == -found.high < -0.05
    assert paired_change(alike, alike, "tokens", "Change").high == 0.0  # bounds are known of shares alone
    all_lost = paired_change(np.ones(8), np.zeros(8), "share", "Change")
    assert -1.0 == all_lost.low == all_lost.value < all_lost.high < -0.3


def test_the_interval_of_a_paired_change_of_shares_is_that_of_agresti_and_min() -> None:
    from scipy.stats import t

    differences = np.array([1.0] * 5 + [-1.0] * 2 + [0.0] * 23)
    found = paired_change(np.zeros(30), differences, "share", "Change")
    n, centre = 32, 3 / 32
    half = t.ppf(0.975, 31) * np.sqrt((8 / n - centre**2) / n)  # 7 changes, and one half of either kind
    assert (found.low, found.high) == pytest.approx((centre - half, centre + half))


@pytest.mark.parametrize(("n", "up", "down"), [(50, 0.02, 0.0), (50, 0.04, 0.01), (30, 0.1, 0.03), (100, 0.1, 0.05)])
def test_intervals_of_paired_changes_hold_the_truth(n: int, up: float, down: float) -> None:
    draw = np.random.default_rng(0).random((600, n))
    differences = (draw < up).astype(float) - ((draw >= up) & (draw < up + down))
    found = [paired_change(np.zeros(n), one, "share", "Change") for one in differences]
    assert np.mean([one.low <= up - down <= one.high for one in found]) > 0.93


def test_the_pairs_of_a_prompt_change_together() -> None:
    draw = np.random.default_rng(1)
    moved = np.repeat(draw.choice([-1.0, 0.0, 1.0], 20), 5)
    apart = paired_change(np.zeros(100), moved, "share", "Change")
    together = paired_change(np.zeros(100), moved, "share", "Change", np.repeat(np.arange(20), 5).tolist())
    assert together.high - together.low > 1.9 * (apart.high - apart.low)
