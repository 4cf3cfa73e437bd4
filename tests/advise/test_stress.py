"""What spoils data, in doses; and which problem surely costs most."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from preftune.advise.disturbances import AXES, flip, lose, prefer_longer, repeat
from preftune.advise.stress import Estimate, interval, stress, worst_of
from preftune.data.records import Pair
from preftune.errors import PreftuneError

ROWS = np.arange(200)
LONGER = np.where(ROWS % 4 == 0, -1.0, 1.0)


def draw(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@given(st.floats(0, 1), st.integers(0, 5))
def test_flips_turn_the_share_and_nothing_else(share: float, seed: int) -> None:
    found = flip(ROWS, LONGER, share, draw(seed))
    assert (found.signs == -1).sum() == round(share * 200)
    assert np.array_equal(found.rows, ROWS)


@given(st.floats(0, 1), st.integers(0, 5))
def test_copies_leave_the_number_and_take_the_share_of_different_rows(share: float, seed: int) -> None:
    found = repeat(ROWS, LONGER, share, draw(seed))
    assert len(found.rows) == 200 and (found.signs == 1).all()
    assert len(np.unique(found.rows)) == max(1, 200 - round(share * 200))


def test_length_bias_turns_only_rows_whose_shorter_answer_was_chosen() -> None:
    whole = prefer_longer(ROWS, LONGER, 1.0, draw())
    assert np.array_equal(whole.signs < 0, LONGER < 0)
    half = prefer_longer(ROWS, LONGER, 0.5, draw())
    assert 0 < (half.signs < 0).sum() < (LONGER < 0).sum()


def test_lost_rows_are_gone() -> None:
    assert len(lose(ROWS, LONGER, 0.75, draw()).rows) == 50


def test_every_problem_is_tried_at_the_share_they_are_compared_at() -> None:
    assert all(0.25 in axis.shares for axis in AXES.values())


def test_the_interval_is_student_s_widened_for_overlapping_splits() -> None:
    values = np.array([0.0, 1.0, 2.0])
    found = interval(values, ratio=0.0)
    assert found.value == 1.0 and found.high == pytest.approx(1.0 + 4.302653 * np.sqrt(1 / 3), rel=1e-5)
    assert interval(values, ratio=1 / 3).high > found.high


SURE = Estimate(0.8, 0.75, 0.85)


def test_the_worst_problem_is_named_only_where_it_surely_costs_most() -> None:
    noise = draw().normal(0.1, 0.005, 10)
    found = worst_of({"noise": noise, "less data": noise - 0.08}, SURE, 1 / 3)
    assert found.worst == "noise" and found.headline == "Noise costs most" and found.against["less data"].low > 0
    found = worst_of({"noise": noise, "less data": noise - draw(1).normal(0, 0.01, 10)}, SURE, 1 / 3)
    assert found.worst is None and found.headline.startswith("Cannot tell which")


def test_a_model_that_learns_nothing_tells_nothing() -> None:
    found = worst_of({"noise": np.full(10, 0.1)}, Estimate(0.52, 0.49, 0.55), 1 / 3)
    assert found.worst is None and "learns nothing" in found.verdict


def test_costs_that_may_be_nothing_are_no_costs_and_small_ones_only_where_that_is_sure() -> None:
    found = worst_of({"noise": draw().normal(0.0, 0.02, 10)}, SURE, 1 / 3)
    assert found.worst is None and found.headline.startswith("Cannot tell")
    found = worst_of({"noise": draw().normal(0.0, 0.002, 10)}, SURE, 1 / 3)
    assert found.worst is None and found.headline == "No data problem costs 2 points here"


def test_a_weak_model_is_said_to_have_little_to_lose() -> None:
    weak = Estimate(0.58, 0.53, 0.64)
    assert "little to lose" in worst_of({"noise": draw().normal(0.0, 0.02, 10)}, weak, 1 / 3).verdict


def test_noise_costs_what_it_must_on_a_task_with_a_known_rule() -> None:
    found = stress(pairs(300), axes=["noise", "less data"], seeds=4)
    assert found.undisturbed.low > 0.8
    costs = {name: [dose.cost.value for dose in curve] for name, curve in found.curves.items()}
    assert costs["noise"][-1] > costs["noise"][0] and costs["noise"][-1] > costs["less data"][0]
    assert found.worst == "noise"


def test_a_training_of_one_s_own_is_given_turned_pairs() -> None:
    seen: list[int] = []

    def fit(chosen):
        seen.append(sum("bad" in str(pair.chosen) for pair in chosen))
        return lambda others: np.ones(len(others))

    stress(pairs(100), fit=fit, axes=["noise"], shares=[0.25], seeds=2)
    assert seen[0] == 0 and seen[1] == 19  # a quarter of 75


def test_too_few_pairs_are_refused() -> None:
    with pytest.raises(PreftuneError, match="show nothing"):
        stress(pairs(60))


def pairs(n: int) -> list[Pair]:
    """The answer that says "good" is chosen; each says some words of its own."""
    random = draw(3)
    words = [f"word{i}" for i in range(40)]

    def answer(kind: str) -> str:
        return " ".join([kind, *random.choice(words, 5)])

    return [Pair(prompt=f"question {i}", chosen=answer("good"), rejected=answer("bad")) for i in range(n)]
