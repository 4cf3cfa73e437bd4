"""Who gets which item: the wanted number of different people, nobody twice, everybody with everybody."""

from collections import Counter
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preftune.collect.people_queue import Queue

NAMES = "abcdefghij"


def new_queue(items: int, people: int, *, shuffle: bool = True) -> Queue:
    return Queue(range(items), people, seed=3, shuffle=shuffle)


def work_through(queue: Queue, names: str) -> dict[str, list[int]]:
    """Everybody takes one item after the other, in turns, until nothing is left."""
    taken: dict[str, list[int]] = {name: [] for name in names}
    active = list(names)
    while active:
        for name in list(active):
            item = queue.next_for(name)
            if item is None:
                active.remove(name)
                continue
            queue.hold(item, name)
            taken[name].append(item)
    return taken


@pytest.mark.parametrize(("people", "annotators"), [(1, 1), (1, 5), (2, 2), (3, 3), (3, 7)])
def test_every_item_gets_its_votes_from_different_people(people: int, annotators: int) -> None:
    taken = work_through(new_queue(120, people), NAMES[:annotators])
    assert all(len(set(items)) == len(items) for items in taken.values())
    assert Counter(item for items in taken.values() for item in items) == dict.fromkeys(range(120), people)


def test_fewer_people_than_votes_do_what_they_can() -> None:
    taken = work_through(new_queue(50, 3), "ab")
    assert all(sorted(items) == list(range(50)) for items in taken.values())


def test_everybody_shares_items_with_everybody() -> None:
    taken = work_through(new_queue(600, 2), NAMES[:6])
    shared = {pair: len(set(taken[pair[0]]) & set(taken[pair[1]])) for pair in combinations(NAMES[:6], 2)}
    assert sum(shared.values()) == 600
    assert min(shared.values()) >= 35  # 40 each where it is perfectly even
    assert max(shared.values()) <= 45


def test_the_work_is_shared_evenly_by_equal_workers() -> None:
    taken = work_through(new_queue(300, 3), NAMES[:5])
    assert {len(items) for items in taken.values()} <= {179, 180, 181}


def test_begun_items_are_finished_first() -> None:
    queue = new_queue(1000, 2)
    for _ in range(40):
        for name in "ab":
            item = queue.next_for(name)
            assert item is not None
            queue.hold(item, name)
    assert queue.next_for("c") is not None
    done = [item for item in range(1000) if not queue.has_room(item, "c")]
    assert len(done) >= 39


def test_without_shuffling_items_come_in_the_order_of_the_data() -> None:
    assert work_through(new_queue(30, 1, shuffle=False), "a")["a"] == list(range(30))
    shuffled = work_through(new_queue(30, 1), "a")["a"]
    assert shuffled != list(range(30))
    assert shuffled == work_through(new_queue(30, 1), "a")["a"]


def test_a_released_item_goes_to_another_and_not_back() -> None:
    queue = new_queue(1, 1)
    queue.hold(0, "a")
    assert queue.next_for("b") is None
    queue.release(0, "a")
    assert queue.next_for("a") is None
    assert queue.next_for("b") == 0


def test_an_item_skipped_by_all_is_handed_to_none() -> None:
    queue = new_queue(1, 2)
    for name in "abc":
        assert queue.next_for(name) == 0
        queue.hold(0, name)
        queue.release(0, name)
    assert [queue.next_for(name) for name in "abc"] == [None, None, None]
    assert queue.next_for("d") == 0


def test_one_person_alone_takes_many_items_in_linear_time() -> None:
    # 20,000 items of one person, each a place that others may still fill: a scan from the start would take minutes.
    assert len(work_through(new_queue(20_000, 3), "a")["a"]) == 20_000


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_history_overfills_an_item_or_repeats_one(data: st.DataObject) -> None:
    people = data.draw(st.integers(1, 3))
    queue = new_queue(8, people)
    held: dict[int, set[str]] = {item: set() for item in range(8)}
    skipped: set[tuple[int, str]] = set()
    for _ in range(60):
        name = data.draw(st.sampled_from("abcd"))
        item = queue.next_for(name)
        if item is None:
            continue
        assert name not in held[item] and (item, name) not in skipped
        assert len(held[item]) < people
        queue.hold(item, name)
        if data.draw(st.booleans()):
            held[item].add(name)
        else:
            queue.release(item, name)
            skipped.add((item, name))
    for name in "abcd":
        if queue.next_for(name) is None:
            assert all(name in held[item] or (item, name) in skipped or len(held[item]) == people for item in range(8))
