"""Intervals by resampling clusters: they cover, and clusters count as one."""

from __future__ import annotations

import numpy as np
import pytest

from preftune.evaluate.bootstrap import (
    bootstrap_change,
    bootstrap_mean,
    bootstrap_share,
    cluster_draws,
    cluster_numbers,
    interval_of,
)


def test_interval_of_a_mean_covers_the_truth_in_nineteen_of_twenty() -> None:
    random = np.random.default_rng(0)
    clusters = [number for number in range(15) for _ in range(3)]
    covered = 0
    for seed in range(200):
        shared = np.repeat(random.normal(0, 1, 15), 3)  # items of a cluster hang together
        found = bootstrap_mean(shared + random.normal(0, 0.5, 45), clusters, "", "", "", seed)
        covered += found.low <= 0 <= found.high
    assert 0.91 <= covered / 200 <= 0.985


def test_copies_within_a_cluster_make_nothing_surer() -> None:
    values = np.random.default_rng(1).normal(size=30)
    alone = bootstrap_mean(values, range(30), "", "", "")
    copied = bootstrap_mean(np.repeat(values, 5), [n for n in range(30) for _ in range(5)], "", "", "")
    assert (copied.low, copied.high) == pytest.approx((alone.low, alone.high))
    assert copied.n == 150


def test_nan_is_left_out_and_one_cluster_says_nothing_of_others() -> None:
    found = bootstrap_mean([1.0, float("nan"), 3.0], ["a", "b", "c"], "", "", "")
    assert (found.value, found.n) == (2.0, 2)
    assert bootstrap_mean([1.0, 2.0], ["a", "a"], "", "", "").low == float("-inf")
    assert np.isnan(bootstrap_mean([float("nan")], ["a"], "", "", "").value)


def test_draws_are_of_as_many_clusters_and_the_same_with_the_same_seed() -> None:
    blocks = list(cluster_draws(7, seed=3, draws=50))
    assert (np.concatenate(blocks).sum(1) == 7).all()
    assert (blocks[0] == next(iter(cluster_draws(7, seed=3, draws=50)))).all()


def test_few_clusters_widen_the_percentiles() -> None:
    estimates = np.linspace(-1, 1, 2001)
    few, many = interval_of(estimates, 5), interval_of(estimates, 500)
    assert few[0] < many[0] < -0.94
    assert many == pytest.approx((-0.951, 0.951), abs=0.002)


def test_clusters_are_numbered_in_order_of_appearance() -> None:
    assert cluster_numbers(["b", "a", "b"]).tolist() == [0, 1, 0]


@pytest.mark.parametrize("clusters", [3, 5, 8])
def test_few_clusters_have_intervals_that_hold_the_truth(clusters: int) -> None:
    """A bootstrap of three values reaches no further than these: it holds the mean in three of four."""
    draws = np.random.default_rng(0).normal(size=(400, clusters))
    found = [bootstrap_mean(one, range(clusters), "", "", "") for one in draws]
    assert np.mean([one.low <= 0.0 <= one.high for one in found]) > 0.92


def test_shares_that_are_all_alike_are_not_taken_for_certainty() -> None:
    never = bootstrap_share(np.zeros(20), range(20), "Repetition", "")
    assert (never.value, never.low) == (0.0, 0.0)
    assert 0.1 < never.high < 0.2
    unchanged = bootstrap_change(np.zeros(20), "share", "Change", "What.")
    assert unchanged.low < 0.0 < unchanged.high and unchanged.explanation == "What."
    assert bootstrap_change(np.zeros(20), "words", "Change", "").high == 0.0
