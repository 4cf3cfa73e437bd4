"""Nats a token with their interval."""

from __future__ import annotations

import numpy as np
import pytest

from preftune.evaluate.likelihood import change_per_token, loss_per_token


def test_loss_weighs_tokens_alike_and_not_answers() -> None:
    found = loss_per_token(np.array([2.0, 30.0]), np.array([1.0, 9.0]), [b"a", b"b"])
    assert found.value == pytest.approx(3.2)
    assert found.n == 2


def test_interval_is_that_of_a_mean_where_all_answers_are_as_long() -> None:
    totals = np.array([1.0, 2.0, 4.0, 9.0])
    found = loss_per_token(totals, np.ones(4), [b"a", b"b", b"c", b"d"])
    assert found.high - found.value == pytest.approx(3.1824463 * totals.std(ddof=1) / 2)


def test_answers_to_one_prompt_widen_the_interval() -> None:
    totals = np.repeat([1.0, 2.0, 4.0], 10)
    apart = loss_per_token(totals, np.ones(30), [str(i).encode() for i in range(30)])
    together = loss_per_token(totals, np.ones(30), [str(i // 10).encode() for i in range(30)])
    assert together.high - together.low > 3 * (apart.high - apart.low)


def test_change_is_of_the_same_answers() -> None:
    found = change_per_token(np.array([3.0, 8.0]), np.array([2.0, 7.0]), np.array([2.0, 2.0]), [b"a", b"b"])
    assert (found.value, found.low, found.high) == pytest.approx((-0.5, -0.5, -0.5))


def test_one_prompt_gives_no_interval() -> None:
    found = loss_per_token(np.array([1.0, 2.0]), np.ones(2), [b"a", b"a"])
    assert (found.low, found.high) == (float("-inf"), float("inf"))
