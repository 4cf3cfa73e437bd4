import math

import numpy as np
import pytest

from preftune.audit.votes import (
    CHOICES,
    NOBODY,
    SECOND,
    leading_choice,
    lengths_of,
    votes_from_table,
    votes_of,
)
from preftune.data.records import Comparison, Pair, Vote
from preftune.errors import PreftuneError


def pair(number: int, *votes: Vote, **meta: object) -> Pair:
    return Pair(prompt=f"q{number}", chosen="good", rejected="bad", id=f"r{number}", annotators=votes, meta=dict(meta))


def vote(who: str, choice: str, **more: object) -> Vote:
    return Vote.model_validate({"id": who, "choice": choice, **more})


def choices(votes: object) -> list[tuple[str, str, str]]:
    columns = (votes.item, votes.annotator, votes.choice)
    return [(votes.items[i], votes.annotators[a], CHOICES[c]) for i, a, c in zip(*columns, strict=True)]


def test_votes_of_pairs_and_comparisons_are_columns_in_the_order_of_the_records() -> None:
    comparison = Comparison(
        prompt="q", response_1="a", response_2="b", id="c", annotators=(vote("ann", "both_bad", seconds=2.5),)
    )
    votes = votes_of([pair(1, vote("ann", "first"), vote("bob", "tie")), pair(2), comparison])
    assert choices(votes) == [("r1", "ann", "first"), ("r1", "bob", "tie"), ("c", "ann", "both_bad")]
    assert (len(votes), votes.unvoted, votes.repeated) == (3, 1, 0)
    assert math.isnan(votes.seconds[0]) and votes.seconds[2] == 2.5
    assert votes.counts().tolist() == [[1, 0, 1, 0], [0, 0, 0, 1]]


def test_votes_that_call_the_rejected_side_first_are_turned() -> None:
    votes = votes_of([pair(1, vote("ann", "first"), vote("bob", "tie"), order="rejected")])
    assert choices(votes) == [("r1", "ann", "second"), ("r1", "bob", "tie")]
    assert votes.is_swapped.all()


def test_the_side_shown_first_is_the_votes_own() -> None:
    votes = votes_of(
        [
            pair(1, vote("ann", "first", shown_first="second"), vote("bob", "first", shown_first="first")),
            pair(2, vote("ann", "first", shown_first="second"), order="rejected"),
        ]
    )
    assert [choice for _, _, choice in choices(votes)] == ["first", "first", "second"]
    assert votes.is_swapped.tolist() == [True, False, False]


def test_the_last_of_a_persons_votes_on_an_item_counts() -> None:
    votes = votes_from_table([("x", "ann", "first"), ("x", "bob", "tie"), ("y", "ann", "tie"), ("x", "ann", "second")])
    assert sorted(choices(votes)) == [("x", "ann", "second"), ("x", "bob", "tie"), ("y", "ann", "tie")]
    assert votes.repeated == 1


def test_votes_are_ordered_by_item_however_they_come() -> None:
    votes = votes_from_table([("x", 1, "first"), ("y", 1, "first"), ("x", 2, "second", 3.0)])
    assert votes.item.tolist() == [0, 0, 1] and votes.annotators == ("1", "2")
    assert votes.seconds[1] == 3.0


def test_a_choice_that_is_none_is_named_with_its_place() -> None:
    with pytest.raises(PreftuneError, match=r"vote 2: The choice is '1'\. Use one of first, second, tie, both_bad\."):
        votes_from_table([("x", "ann", "first"), ("x", "bob", 1)])


def test_without_somebody_the_others_stay_as_they_are() -> None:
    votes = votes_from_table([("x", "ann", "first"), ("x", "bob", "tie"), ("y", "ann", "tie")])
    others = votes.without(["ann"])
    assert choices(others) == [("x", "bob", "tie")]
    assert (others.items, others.annotators) == (votes.items, votes.annotators)
    assert others.counts().sum() == 1


def test_no_votes_are_no_error() -> None:
    votes = votes_of([pair(1), pair(2)])
    assert (len(votes), votes.items, votes.unvoted) == (0, (), 2)
    assert votes.counts().shape == (0, 4)


def test_the_lead_is_nobodys_where_it_is_shared() -> None:
    shares = np.array([[0.1 + 0.2, 0.3, 0.4, 0.0], [0.1 + 0.2, 0.3, 0.0, 0.0], [-1e9, -3.0, -5.0, -1e9]])
    assert leading_choice(shares).tolist() == [2, NOBODY, SECOND]


def test_a_reader_reads_prompt_and_both_answers() -> None:
    comparison = Comparison(prompt="1234", response_1="12", response_2="", id="c")
    assert lengths_of([pair(1), comparison]) == {"r1": len("q1goodbad"), "c": 6}
