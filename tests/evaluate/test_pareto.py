"""The Pareto front and its volume: by hand, and against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from preftune.evaluate.pareto import clearly_dominated, dominates, hypervolume, pareto_front

POINTS = arrays(np.float64, st.tuples(st.integers(0, 12), st.just(2)), elements=st.integers(-4, 4).map(float))


def test_the_front_of_a_handful_of_points() -> None:
    points = np.array([[1.0, 4.0], [2.0, 3.0], [2.0, 2.0], [4.0, 1.0], [3.0, 1.0], [0.0, 4.0]])
    assert pareto_front(points) == [0, 1, 3]


def test_equal_points_are_both_on_the_front_and_nan_on_none() -> None:
    assert pareto_front(np.array([[1.0, 1.0], [1.0, 1.0], [0.0, 0.0]])) == [0, 1]
    assert pareto_front(np.array([[np.nan, 9.0], [1.0, 1.0]])) == [1]
    assert pareto_front(np.empty((0, 2))) == []


@given(POINTS)
def test_nobody_dominates_the_front_and_it_dominates_the_rest(points: np.ndarray) -> None:
    front = pareto_front(points)
    by_definition = [
        i
        for i in range(len(points))
        if not any(all(points[j] >= points[i]) and any(points[j] > points[i]) for j in range(len(points)))
    ]
    assert sorted(front) == by_definition
    assert list(points[front, 0]) == sorted(points[front, 0])
    if front:
        rest = [i for i in range(len(points)) if i not in front]
        assert dominates(points[front], points[rest]).any(0).all()


def test_three_objectives_have_a_front_too() -> None:
    assert set(pareto_front(np.array([[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0], [0, 0, 0.5]]))) == {0, 1, 2}


def test_the_volume_of_a_staircase() -> None:
    stairs = np.array([[1.0, 3.0], [2.0, 2.0], [3.0, 1.0]])
    assert hypervolume(stairs, (0.0, 0.0)) == 6.0
    assert hypervolume(stairs, (1.0, 1.0)) == 1.0
    assert hypervolume(np.array([[2.0, 5.0]]), (1.0, 1.0)) == 4.0
    assert hypervolume(np.array([[0.0, 9.0], [np.nan, 1.0]]), (0.0, 0.0)) == 0.0


@given(POINTS)
def test_the_volume_counts_the_cells_below_any_point(points: np.ndarray) -> None:
    cells = [(x + 0.5, y + 0.5) for x in range(-5, 4) for y in range(-5, 4)]
    covered = sum(any(x < px and y < py for px, py in points) for x, y in cells)
    assert hypervolume(points, (-5.0, -5.0)) == pytest.approx(covered)


@given(POINTS)
def test_points_off_the_front_add_no_volume(points: np.ndarray) -> None:
    front = points[pareto_front(points)]
    assert hypervolume(front.reshape(-1, 2), (-5.0, -5.0)) == hypervolume(points, (-5.0, -5.0))


def test_only_what_is_beaten_outside_the_intervals_is_clearly_dominated() -> None:
    points = np.array([[3.0, 3.0], [1.0, 1.0], [2.8, 2.8]])
    assert clearly_dominated(points - 0.5, points + 0.5).tolist() == [False, True, False]


def test_the_volume_is_of_two_objectives() -> None:
    with pytest.raises(ValueError, match="two objectives"):
        hypervolume(np.zeros((2, 3)), (0.0, 0.0))
