"""Group size: the published-in-house table, and drawn rewards against the exact figures."""

from __future__ import annotations

import pytest

from benchmarks.experiments import group_size
from benchmarks.experiments.group_size import ESTIMATORS, exact_mean
from preftune.losses.advantages import gradient_snr


@pytest.mark.parametrize(
    ("rate", "estimator", "groups", "ratios"),
    [
        (0.3, "normalised", lambda g: 64 // g, (4.8, 6.9, 9.8, 14.1)),
        (0.3, "RLOO", lambda g: 64 // g, (4.8, 6.7, 7.9, 8.5)),
        (0.1, "normalised", lambda g: 64 // g, (2.7, 2.9, 3.2, 3.8)),
        (0.3, "normalised", lambda g: 8, (2.4, 4.9, 9.9, 20.1)),
        (0.1, "normalised", lambda g: 8, (1.3, 2.0, 3.2, 5.4)),
    ],
)
def test_ratio_by_group_size_is_the_known_table(rate: float, estimator: str, groups, ratios) -> None:
    found = [gradient_snr(rate, g, groups(g), ESTIMATORS[estimator]) for g in (2, 4, 8, 16)]
    assert found == pytest.approx(ratios, rel=0.02, abs=0.05)  # the table is of samples, rounded


def test_drawn_rewards_agree_with_the_exact_figures() -> None:
    runs = [run for run in group_size.runs_of(11, draws=3000) if run["success_rate"] in (0.1, 0.3)]
    for run in runs:
        rate, size, advantages = run["success_rate"], run["group"], ESTIMATORS[run["estimator"]]
        exact = gradient_snr(rate, size, group_size.BUDGETS[run["budget"]](size), advantages)
        assert run["snr"] == pytest.approx(exact, rel=0.08)
        assert run["mean"] == pytest.approx(exact_mean(rate, size, advantages), rel=0.1)


@pytest.mark.parametrize("size", group_size.GROUPS)
def test_leaving_one_out_gives_the_true_gradient_at_every_size(size: int) -> None:
    assert exact_mean(0.1, size, ESTIMATORS["RLOO"]) == pytest.approx(0.09)
