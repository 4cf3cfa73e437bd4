import numpy as np
import pytest

from preftune.audit.clusters import bootstrap_interval, clustered_share, folds_by_cluster
from preftune.audit.findings import share_of
from preftune.intervals import design_effect, wilson


def test_independent_rows_have_wilsons_interval() -> None:
    expected = share_of(8, 10, "", "")
    assert wilson(0.8, 10) == pytest.approx((expected.low, expected.high), abs=1e-9)
    share = clustered_share([0.0] * 5 + [1.0] * 5, range(10), "", "")
    assert (share.low, share.high) == pytest.approx(wilson(0.5, 9), abs=0.02)


def test_copies_of_a_prompt_count_once() -> None:
    hits = np.random.default_rng(0).random(400) < 0.7
    once = clustered_share(hits, np.arange(400), "", "")
    thrice = clustered_share(np.tile(hits, 3), np.tile(np.arange(400), 3), "", "")
    assert (thrice.value, thrice.n) == (once.value, 1200)
    assert (thrice.low, thrice.high) == pytest.approx((once.low, once.high), abs=1e-3)


def test_equal_values_show_no_design_effect_so_clusters_count_as_rows() -> None:
    assert design_effect([1.0] * 12, [0, 1, 2] * 4) == 4.0
    assert clustered_share([1.0] * 12, [0, 1, 2] * 4, "", "").low == pytest.approx(wilson(1.0, 3)[0])


def test_nothing_counted_gives_no_figures() -> None:
    share = clustered_share([], [], "", "")
    assert (share.value, share.low, share.high, share.n) == (None, None, None, 0)


def test_folds_keep_clusters_together_and_are_even() -> None:
    clusters = np.random.default_rng(0).integers(0, 60, size=1000)
    folds = folds_by_cluster(clusters, 5, seed=3)
    assert all(len(set(folds[clusters == one])) == 1 for one in range(60))
    sizes = np.bincount(folds)
    assert len(sizes) == 5 and sizes.max() - sizes.min() <= 20
    assert (folds_by_cluster(clusters, 5, seed=3) == folds).all()
    assert (folds_by_cluster(clusters, 5, seed=4) != folds).any()


def test_bootstrap_draws_whole_clusters() -> None:
    hits = np.random.default_rng(0).random(200) < 0.5
    low, high = bootstrap_interval(hits, np.arange(200), seed=1)
    assert high - low == pytest.approx(2 * 1.96 * 0.5 / 200**0.5, rel=0.15)
    copied = bootstrap_interval(np.tile(hits, 4), np.tile(np.arange(200), 4), seed=1)
    assert copied[1] - copied[0] == pytest.approx(high - low, rel=0.15)
