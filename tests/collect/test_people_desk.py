"""What annotators ask of the desk: sides, gold, leases, changes of mind, and the going on after a restart."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from preftune.collect.people_desk import Desk, Given, OnPage, Refused, Rules, Shown
from preftune.collect.people_export import comparison_rows
from preftune.collect.people_items import Item
from preftune.collect.people_store import open_store
from preftune.data.records import Comparison


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def items(n: int, *, gold: int = 0) -> list[Item]:
    plain = [Comparison(prompt=f"q {k}", response_1="good", response_2="bad", id=f"q{k}") for k in range(n)]
    known = [Comparison(prompt=f"g {k}", response_1="good", response_2="bad", id=f"g{k}") for k in range(gold)]
    return [Item(each, "first") for each in plain] + [Item(each, "first", is_gold=True) for each in known]


@contextmanager
def open_desk(folder: Path, rules: Rules, n: int = 5, *, gold: int = 0, clock: Clock | None = None) -> Iterator[Desk]:
    with open_store(folder / "v.sqlite", seed=0) as store:
        store.take_in(items(n, gold=gold))
        yield Desk(store, rules, clock or Clock())


def given(shown: Shown, choice: OnPage = "1", request: str = "", seconds: float = 1.0) -> Given:
    return Given(shown.number, choice, seconds, request or f"request {shown.number} {choice}")


def next_item(desk: Desk, name: str) -> Shown:
    shown = desk.next_for(name)
    assert shown is not None
    return shown


def choices(folder: Path) -> dict[str, list[tuple[str, str]]]:
    rows = [row for row, _ in comparison_rows(folder / "v.sqlite")]
    return {row["id"]: [(vote["id"], vote["choice"]) for vote in row["annotators"]] for row in rows}


ONE = Rules(people_per_item=1)


def test_the_side_is_drawn_and_the_vote_is_about_the_record(tmp_path: Path) -> None:
    sides: Counter[str] = Counter()
    with open_desk(tmp_path, Rules(people_per_item=2), 100) as desk:
        for name in ("ann", "bob"):
            desk.join(name, may_return=True)
            for _ in range(100):
                shown = next_item(desk, name)
                sides[shown.shown_first] += 1
                desk.answer(name, given(shown, "1" if shown.shown_first == "first" else "2"))
    votes = choices(tmp_path)
    assert len(votes) == 100
    assert all(vote == [("ann", "first"), ("bob", "first")] for vote in map(sorted, votes.values()))
    assert 79 <= sides["first"] <= 121  # three standard deviations about 100


def test_asking_again_gives_the_same_item(tmp_path: Path) -> None:
    with open_desk(tmp_path, ONE) as desk:
        desk.join("ann", may_return=True)
        assert next_item(desk, "ann") == next_item(desk, "ann")


def test_an_answer_sent_twice_counts_once(tmp_path: Path) -> None:
    with open_desk(tmp_path, ONE) as desk:
        desk.join("ann", may_return=True)
        shown = next_item(desk, "ann")
        for _ in range(3):
            desk.answer("ann", given(shown, "tie"))
        desk.answer("ann", given(shown, "both_bad", "request two"))
        desk.answer("ann", given(shown, "tie"))  # the first once more, late
        assert desk.standing("ann").answered == 1
    assert list(choices(tmp_path).values()) == [[("ann", "both_bad")]]


def test_going_back_shows_the_last_answers_one_by_one(tmp_path: Path) -> None:
    with open_desk(tmp_path, ONE) as desk:
        desk.join("ann", may_return=True)
        answered = []
        for choice in ("1", "tie", "2"):
            shown = next_item(desk, "ann")
            desk.answer("ann", given(shown, choice))
            answered.append(shown.number)
        open_item = next_item(desk, "ann").number
        seen, before = [], None
        while (shown := desk.before("ann", before)) is not None:
            assert shown.answer is not None
            seen.append(shown.number)
            before = shown.number
        assert seen == answered[::-1]
        assert next_item(desk, "ann").number == open_item


def test_a_change_of_mind_takes_the_place_of_the_answer(tmp_path: Path) -> None:
    with open_desk(tmp_path, ONE, 1) as desk:
        desk.join("ann", may_return=True)
        shown = next_item(desk, "ann")
        desk.answer("ann", given(shown, "skip"))
        assert choices(tmp_path) == {}
        desk.answer("ann", given(shown, "tie"))
        assert desk.is_complete
        desk.answer("ann", given(shown, "both_bad"))
        assert (desk.standing("ann").answered, desk.standing("ann").share) == (1, 1.0)
        desk.answer("ann", given(shown, "skip", "changed again"))
        assert desk.standing("ann").share == 0.0
    assert choices(tmp_path) == {}


def test_a_skipped_item_goes_to_another(tmp_path: Path) -> None:
    with open_desk(tmp_path, ONE, 1) as desk:
        for name in ("ann", "bob"):
            desk.join(name, may_return=True)
        shown = next_item(desk, "ann")
        assert desk.next_for("bob") is None
        desk.answer("ann", given(shown, "skip"))
        assert next_item(desk, "bob").number == shown.number
        assert desk.next_for("ann") is None


def test_an_item_left_lying_goes_to_another_and_a_late_answer_is_told_so(tmp_path: Path) -> None:
    clock = Clock()
    with open_desk(tmp_path, replace(ONE, lease_seconds=60), 1, clock=clock) as desk:
        for name in ("ann", "bob"):
            desk.join(name, may_return=True)
        lying = next_item(desk, "ann")
        clock.now += 59
        assert desk.next_for("bob") is None
        clock.now += 2
        taken = next_item(desk, "bob")
        assert taken.number == lying.number
        desk.answer("bob", given(taken))
        with pytest.raises(Refused, match="all its votes from others"):
            desk.answer("ann", given(lying))
        assert desk.next_for("ann") is None
    assert [vote for votes in choices(tmp_path).values() for vote, _ in votes] == ["bob"]


def test_a_late_answer_counts_where_there_is_room(tmp_path: Path) -> None:
    clock = Clock()
    with open_desk(tmp_path, replace(ONE, lease_seconds=60), 1, clock=clock) as desk:
        desk.join("ann", may_return=True)
        lying = next_item(desk, "ann")
        clock.now += 3600
        desk.answer("ann", given(lying, seconds=3000))
    assert len(choices(tmp_path)) == 1


def test_an_item_that_was_not_handed_out_cannot_be_answered(tmp_path: Path) -> None:
    with open_desk(tmp_path, ONE) as desk:
        for name in ("ann", "bob"):
            desk.join(name, may_return=True)
        shown = next_item(desk, "ann")
        with pytest.raises(Refused, match="not handed to you"):
            desk.answer("bob", given(shown))


def test_time_is_no_longer_than_it_can_have_been(tmp_path: Path) -> None:
    clock = Clock()
    with open_desk(tmp_path, ONE, clock=clock) as desk:
        desk.join("ann", may_return=True)
        shown = next_item(desk, "ann")
        clock.now += 20
        desk.answer("ann", given(shown, seconds=9.0, request="request one"))
        desk.answer("ann", given(shown, seconds=5.0, request="request two"))  # looked at again
        answer = desk.before("ann", None)
        assert answer is not None and answer.answer is not None and answer.answer.seconds == 14.0
        other = next_item(desk, "ann")
        clock.now += 3
        desk.answer("ann", given(other, seconds=1e6))
        answer = desk.before("ann", None)
        assert answer is not None and answer.answer is not None and answer.answer.seconds == 3.0


def test_gold_comes_once_in_ten_and_is_no_data(tmp_path: Path) -> None:
    with open_desk(tmp_path, Rules(people_per_item=2), 60, gold=4) as desk:
        for name in ("ann", "bob"):
            desk.join(name, may_return=True)
            was_gold = []
            while (shown := desk.next_for(name)) is not None:
                was_gold.append(shown.item.is_gold)
                desk.answer(name, given(shown))
            assert len(was_gold) == 64 and sum(was_gold) == 4
            assert [sum(was_gold[begin : begin + 10]) for begin in (0, 10, 20, 30)] == [1, 1, 1, 1]
        assert desk.is_complete
        assert desk.standing("ann").share == 1.0
    assert set(choices(tmp_path)) == {f"q{k}" for k in range(60)}


def test_not_blind_tells_the_label_and_makes_answers_final(tmp_path: Path) -> None:
    with open_desk(tmp_path, replace(ONE, blind=False)) as desk:
        desk.join("ann", may_return=True)
        shown = next_item(desk, "ann")
        told = desk.answer("ann", given(shown))
        assert told == ("1" if shown.shown_first == "first" else "2")
        with pytest.raises(Refused, match="final"):
            desk.answer("ann", given(shown, "2"))
        with pytest.raises(Refused, match="final"):
            desk.before("ann", None)


def test_blind_tells_nothing(tmp_path: Path) -> None:
    with open_desk(tmp_path, ONE) as desk:
        desk.join("ann", may_return=True)
        assert desk.answer("ann", given(next_item(desk, "ann"))) is None


def test_a_restart_changes_nothing(tmp_path: Path) -> None:
    rules = Rules(people_per_item=2, shuffle=False)
    clock = Clock()
    with open_desk(tmp_path, rules, 6, gold=2, clock=clock) as desk:
        for name in ("ann", "bob"):
            desk.join(name, may_return=True)
            for choice in ("1", "skip"):
                desk.answer(name, given(next_item(desk, name), choice))
        before = [next_item(desk, name) for name in ("ann", "bob")]
        standing = [desk.standing(name) for name in ("ann", "bob")]
    with open_desk(tmp_path, rules, 6, gold=2, clock=clock) as desk:
        assert [next_item(desk, name) for name in ("ann", "bob")] == before
        assert [desk.standing(name) for name in ("ann", "bob")] == standing
        assert desk.names == ["ann", "bob"]


@pytest.mark.parametrize("name", ["", "  ", "x" * 61, "a\u202eb", "a\nb\x00"])
def test_names_that_cannot_be_shown_are_refused(tmp_path: Path, name: str) -> None:
    with open_desk(tmp_path, ONE) as desk, pytest.raises(Refused):
        desk.join(name, may_return=True)


def test_a_name_is_one_person_however_it_is_written(tmp_path: Path) -> None:
    with open_desk(tmp_path, ONE) as desk:
        assert desk.join("  Ann  Lee ", may_return=True) == "Ann Lee"
        assert desk.join("ANN LEE", may_return=True) == "Ann Lee"
        with pytest.raises(Refused, match="joined under this name"):
            desk.join("ann lee", may_return=False)
        assert desk.names == ["Ann Lee"]
