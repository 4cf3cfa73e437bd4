"""How many groups teach nothing: counted without bias, and by p^G + (1 - p)^G beyond what was drawn."""

from __future__ import annotations

import numpy as np
import pytest

from preftune.advise.success import dead_share, success_of


def test_the_count_of_dead_groups_is_unbiased() -> None:
    draw = np.random.default_rng(0)
    for p, group in ((0.1, 4), (0.3, 8), (0.5, 2)):
        right = draw.binomial(8, p, 20_000).tolist()
        assert dead_share(success_of(right[:50], 8), group) >= 0
        truth = p**group + (1 - p) ** group
        found = dead_share(_success(right), group)
        assert found == pytest.approx(truth, abs=0.015)


def test_a_group_as_large_as_the_draw_is_dead_where_all_are_alike() -> None:
    assert dead_share(_success([0, 8, 3, 5]), 8) == 0.5


def test_beyond_the_draw_more_completions_leave_fewer_groups_dead() -> None:
    found = _success([1, 2, 0, 4])
    assert dead_share(found, 32) < dead_share(found, 16) < 1


def _success(right: list[int]):
    from preftune.advise.success import Success

    return Success(tuple(right), 8, 0.0, 0.0, 1.0)
