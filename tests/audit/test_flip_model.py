import numpy as np
import pytest

from preftune.audit.flip_model import RATES, expected_flips, fit_flips, flip_probabilities


def world(rate: float, strength: float, rows: int = 4_000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Margins (rows, 1) for the given label, and which labels are flipped."""
    draw = np.random.default_rng(seed)
    margins = strength * draw.normal(size=rows)
    right = np.where(draw.random(rows) < 1 / (1 + np.exp(-margins)), margins, -margins)
    flipped = draw.random(rows) < rate
    return np.where(flipped, -right, right)[:, None], flipped


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.2, 0.3])
def test_the_rate_is_found_where_the_model_is_strong(rate: float) -> None:
    hits = 0
    for seed in range(10):
        model = fit_flips(world(rate, 4.0, rows=2_000, seed=seed)[0])
        low, high = model.rate_interval()
        hits += low - 0.01 <= rate <= high
        assert high - low < 0.15 and model.rate == pytest.approx(rate, abs=0.06)
    assert hits >= 8


def test_a_weak_model_says_that_it_does_not_know_the_rate() -> None:
    low, high = fit_flips(world(0.2, 0.3)[0]).rate_interval()
    assert high - low > 0.25


def test_margins_of_chance_tell_nothing() -> None:
    margins = np.random.default_rng(0).normal(size=(500, 1))
    model = fit_flips(margins)
    low, high = model.rate_interval()
    assert high - low > 0.3
    assert np.ptp(flip_probabilities(model, margins)) < 0.2


def test_probabilities_are_how_often_labels_are_flipped() -> None:
    margins, flipped = world(0.2, 3.0, rows=20_000)
    found = flip_probabilities(fit_flips(margins), margins)
    assert found.mean() == pytest.approx(0.2, abs=0.02)
    for low, high in [(0.0, 0.05), (0.05, 0.2), (0.2, 0.6), (0.6, 0.9), (0.9, 1.0)]:
        rows = (found >= low) & (found < high)
        assert flipped[rows].mean() == pytest.approx(found[rows].mean(), abs=0.06)


def test_the_expected_share_of_the_likeliest_holds_what_is_there() -> None:
    hits = 0
    for seed in range(20):
        margins, flipped = world(0.2, 2.0, rows=1_500, seed=seed)
        model = fit_flips(margins)
        top = np.argsort(-flip_probabilities(model, margins))[:50]
        mean, low, high = expected_flips(model, margins[top])
        assert low < mean < high
        hits += low <= flipped[top].mean() <= high
    assert hits >= 17


def test_a_second_witness_counts_as_much_as_it_knows() -> None:
    margins, _ = world(0.2, 2.0)
    noise = np.random.default_rng(1).normal(size=margins.shape)
    slopes = fit_flips(np.hstack([margins, noise])).slopes[20]
    assert RATES[20] == pytest.approx(0.2)
    assert slopes[0] == pytest.approx(1.0, abs=0.2) and slopes[1] < 0.15


def test_rows_of_a_prompt_that_hang_together_widen_the_interval() -> None:
    margins, _ = world(0.2, 3.0)
    low, high = fit_flips(margins).rate_interval()
    wide_low, wide_high = fit_flips(margins, design_effect=4.0).rate_interval()
    assert wide_high - wide_low == pytest.approx(2 * (high - low), rel=0.25)
