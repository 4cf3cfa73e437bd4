"""How micro-batches are cut where items differ in size."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preftune.methods.supply import cut_to_size


@dataclass(frozen=True)
class Item:
    id: str
    length: int


def test_items_fill_a_batch_to_its_size_and_no_further() -> None:
    items = [Item(str(number), length) for number, length in enumerate((2, 2, 3, 1, 9, 1))]
    batches = cut_to_size(items, 4, lambda item: item.length)
    assert [[item.length for item in batch] for batch in batches] == [[2, 2], [3, 1], [9], [1]]


@given(st.lists(st.integers(1, 20)), st.integers(1, 12))
def test_no_item_is_lost_or_moved_and_only_a_single_one_may_be_too_large(lengths: list[int], most: int) -> None:
    items = [Item(str(number), length) for number, length in enumerate(lengths)]
    batches = cut_to_size(items, most, lambda item: item.length)
    assert [item for batch in batches for item in batch] == items
    assert all(sum(item.length for item in batch) <= most or len(batch) == 1 for batch in batches)


@pytest.mark.parametrize("most", [1, 4])
def test_items_of_size_one_are_cut_as_the_plan_cut_them(most: int) -> None:
    items = [Item(str(number), 100) for number in range(most)]
    assert cut_to_size(items, most, lambda item: 1.0) == [items]
