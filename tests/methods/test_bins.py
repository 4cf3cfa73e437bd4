"""Demonstrations put together into packs."""

from __future__ import annotations

import random

import numpy as np
import pytest

from preftune.data.tokens import TokenDemonstration
from preftune.methods.bins import pack


def _demonstrations(lengths: list[int]) -> list[TokenDemonstration]:
    ids = np.arange(64, dtype=np.int32)
    return [TokenDemonstration(str(i), ids[:1], ids[: n - 1]) for i, n in enumerate(lengths)]


def test_longest_come_first_and_each_goes_where_it_fits_best() -> None:
    bins = pack(_demonstrations([6, 3, 5, 4, 2]), 10)
    assert [[member.length for member in one.members] for one in bins] == [[6, 4], [5, 3, 2]]
    assert [one.length for one in bins] == [10, 10]
    assert bins[0].learned == 5 + 3
    assert bins[0].id == "0+3"


@pytest.mark.parametrize("seed", range(5))
def test_nothing_is_lost_cut_or_put_beyond_the_room(seed: int) -> None:
    draw = random.Random(seed)
    lengths = [draw.randint(2, 40) for _ in range(200)]
    bins = pack(_demonstrations(lengths), 40)
    assert sorted(int(member.id) for one in bins for member in one.members) == list(range(200))
    assert max(one.length for one in bins) <= 40
    assert len(bins) <= 1.1 * sum(lengths) / 40 + 1


def test_one_longer_than_the_room_stands_alone() -> None:
    bins = pack(_demonstrations([50, 3]), 10)
    assert [one.length for one in bins] == [50, 3]


def test_without_a_limit_nothing_is_put_together() -> None:
    assert [one.length for one in pack(_demonstrations([4, 3]), None)] == [4, 3]
