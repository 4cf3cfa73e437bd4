"""Comparisons with votes: the shapes they are found in, and what becomes of them as pairs, labels and prompts."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preftune.data.comparisons import comparison_from_row, majority, pair_of_comparison, pairs_of_comparisons
from preftune.data.kinds import kind_of_row
from preftune.data.read import read_comparisons, read_demonstrations, read_labels, read_pairs, read_prompts
from preftune.data.records import Comparison, Vote
from preftune.data.row_parts import RowProblem
from preftune.errors import PreftuneError

CHOICES = ("first", "second", "tie", "both_bad")


def row(*votes: Any, **more: Any) -> dict[str, Any]:
    return {"id": "c", "prompt": "q", "response_1": "one", "response_2": "two", "annotators": list(votes)} | more


def comparison(*choices: str, **more: Any) -> Comparison:
    votes = tuple(Vote(id=str(place), choice=choice) for place, choice in enumerate(choices))  # pyright: ignore
    values: Any = {"id": "c", "prompt": "q", "response_1": "one", "response_2": "two", "annotators": votes} | more
    return Comparison(**values)


@pytest.mark.parametrize(
    ("written", "choice"),
    [
        (0, "tie"),
        (1, "first"),
        (2.0, "second"),
        ("first", "first"),
        ("B", "second"),
        ("response_2", "second"),
        ("model_a", "first"),
        (" Tie ", "tie"),
        ("tie (bothbad)", "both_bad"),
        ("both-bad", "both_bad"),
        ("0", "tie"),
    ],
)
def test_votes_are_read_as_they_are_spelled(written: Any, choice: str) -> None:
    (vote,) = comparison_from_row(row(written)).annotators
    assert (vote.id, vote.choice, vote.seconds) == ("1", choice, None)


def test_votes_keep_who_voted_and_how_long_it_took() -> None:
    votes = [{"id": 7, "choice": 2, "seconds": 3, "reason": "shorter"}, None, {"annotator": "ann", "value": "a"}, 1]
    found = comparison_from_row(row(*votes)).annotators
    assert [vote.as_row() for vote in found] == [
        {"id": "7", "choice": "second", "seconds": 3.0, "reason": "shorter"},
        {"id": "ann", "choice": "first"},
        {"id": "4", "choice": "first"},  # the place, so that it is the same person in all rows
    ]


@pytest.mark.parametrize(
    "names", [("completion_a", "completion_b"), ("answer_1", "answer_2"), ("output_A", "output_B")]
)
def test_answers_are_found_under_their_names(names: tuple[str, str]) -> None:
    found = comparison_from_row({"prompt": "q", names[0]: "one", names[1]: "two", "winner": names[1], "topic": "x"})
    assert (found.response_1, found.response_2, found.meta) == ("one", "two", {"topic": "x"})
    assert [vote.choice for vote in found.annotators] == ["second"]


def test_messages_and_texts_are_made_of_one_kind() -> None:
    asked = [{"role": "user", "content": "q"}]
    found = comparison_from_row(row(1, prompt=asked))
    assert found.is_conversational and [turn.role for turn in (*found.prompt, *found.response_1)] == [
        "user",
        "assistant",
    ]


def test_an_answer_that_json_took_for_a_truth_is_its_text() -> None:
    assert comparison_from_row(row(1, response_1=True, response_2=3)).response_1 == "true"


def test_empty_and_equal_answers_were_voted_on_and_are_kept() -> None:
    reading = read_comparisons([row(1, response_2=""), row(0, 0, id="d", response_2="one")])
    assert len(reading.records) == 2 and reading.rejected == ()


@pytest.mark.parametrize(
    ("change", "reason", "field"),
    [
        ({"annotators": [1, 3]}, "bad-value", "annotators[1]"),
        ({"annotators": [True]}, "bad-value", "annotators[0]"),
        ({"annotators": ["left"]}, "bad-value", "annotators[0]"),
        ({"annotators": [{"id": "x"}]}, "missing-field", "annotators[0].choice"),
        ({"annotators": [{"id": "x", "choice": 1, "seconds": "long"}]}, "wrong-type", "annotators[0].seconds"),
        ({"annotators": [{"id": "x", "choice": 1, "seconds": -1}]}, "bad-value", "annotators[0].seconds"),
        ({"response_1": None}, "null-field", "response_1"),
        ({"response_1": float("nan")}, "null-field", "response_1"),
        ({"response_1": {}}, "wrong-type", "response_1"),
        ({"prompt": " "}, "empty-prompt", "prompt"),
        ({"prompt": None}, "null-field", "prompt"),
    ],
)
def test_a_row_that_is_no_comparison_says_why(change: dict[str, Any], reason: str, field: str) -> None:
    with pytest.raises(RowProblem) as caught:
        comparison_from_row(row(1) | change)
    assert (caught.value.reason, caught.value.field) == (reason, field)


def test_a_comparison_is_its_own_row() -> None:
    first = comparison("first", "tie", source="web", meta={"topic": "x"})
    assert read_comparisons([first.as_row()]).records == (first,)
    assert read_comparisons([first]).records == (first,)


def test_answers_without_votes_may_be_options_of_a_question() -> None:
    question = {"prompt": "q", "answer_a": "one", "answer_b": "two", "solution": "a"}
    assert kind_of_row(question) == "prompt"
    assert read_prompts([question]).records[0].columns == {"answer_a": "one", "answer_b": "two", "solution": "a"}
    assert kind_of_row(question | {"winner": "a"}) == "comparison"
    assert kind_of_row({"prompt": "q", "response_1": "one", "response_2": "two"}) == "comparison"


@given(st.lists(st.sampled_from(CHOICES), max_size=9))
def test_the_majority_is_the_choice_that_beats_every_other(choices: list[Any]) -> None:
    counts = Counter(choices)
    beats = [one for one in counts if all(counts[one] > counts[other] for other in counts if other != one)]
    assert majority(comparison(*choices).annotators) == (beats[0] if beats else None)


@pytest.mark.parametrize(
    ("choices", "chosen", "confidence", "order"),
    [
        (("first", "first", "first"), "one", 1.0, "chosen"),
        (("second", "second", "first"), "two", 2 / 3, "rejected"),
        (("second", "second", "tie"), "two", 2.5 / 3, "rejected"),
        (("first", "first", "both_bad", "second"), "one", 2.5 / 4, "chosen"),
        (("second",), "two", None, "rejected"),
    ],
)
def test_a_majority_makes_a_pair(choices: tuple[str, ...], chosen: str, confidence: float | None, order: str) -> None:
    pair = pair_of_comparison(comparison(*choices, source={"kind": "human"}))
    assert (pair.chosen, pair.id, pair.meta["order"]) == (chosen, "c", order)
    assert pair.confidence == (None if confidence is None else pytest.approx(confidence))
    assert pair.margin is None  # a share of votes is no distance between scores
    assert [vote.choice for vote in pair.annotators] == list(choices)  # as given, about the side shown first
    assert pair.source == {"kind": "human", "rule": "majority"}


def test_what_gives_no_pair_is_left_out_and_counted() -> None:
    undecided = [
        comparison("tie", "tie", id="tie"),
        comparison("first", "second", id="split"),
        comparison(id="none"),
        comparison("first", response_2="one", id="same"),
        comparison("first", response_2="", id="empty"),
    ]
    decided = pairs_of_comparisons([comparison("first"), *undecided])
    assert [pair.id for pair in decided.pairs] == ["c"]
    assert decided.left_out == {
        "tie": ("tie",),
        "no-majority": ("split",),
        "no-votes": ("none",),
        "identical-sides": ("same",),
        "empty-completion": ("empty",),
    }


def test_given_verdicts_decide_against_the_majority() -> None:
    compared = [comparison("first", "first"), comparison("first", id="d"), comparison("first", id="e")]
    decided = pairs_of_comparisons(compared, {"c": ("second", 0.9), "d": ("tie", 0.5)})
    (pair,) = decided.pairs
    assert (pair.chosen, pair.confidence, pair.margin) == ("two", 0.9, None)
    assert decided.left_out == {"tie": ("d",), "no-verdict": ("e",)}


def test_comparisons_are_read_as_pairs_by_the_majority_and_it_is_said() -> None:
    reading = read_pairs([row(1, 1, 2), row(0, 0, id="d"), row(1, 2, id="e"), row(id="f")])
    assert [pair.id for pair in reading.records] == ["c"]
    assert reading.reasons() == {"tie": 1, "no-majority": 1, "no-votes": 1}
    assert reading.read == 4 == len(reading.records) + len(reading.rejected)
    says = "Read 1 pair from 1 comparison by the majority of votes; left 3 without a majority out."
    assert reading.notes == (says,)


def test_comparisons_are_read_as_labels_demonstrations_and_prompts() -> None:
    rows = [row(2, 2), row(1, id="d")]
    assert [(each.completion, each.label) for each in read_labels(rows).records[:2]] == [("two", True), ("one", False)]
    assert [each.completion for each in read_demonstrations(rows).records] == ["two", "one"]
    reading = read_prompts(rows)
    assert [each.columns for each in reading.records] == [{}]
    assert reading.notes == ("Read 1 prompt from 2 comparisons: the same prompt is read once.",)


def test_other_records_are_no_comparisons() -> None:
    pair = {"prompt": "q", "chosen": "yes", "rejected": "no"}
    with pytest.raises(PreftuneError, match=r"These are pairs, not comparisons.*response_1 and response_2, with annot"):
        read_comparisons([pair, pair])


def test_comparisons_in_a_table_keep_empty_answers_and_votes(tmp_path: Path) -> None:
    path = tmp_path / "votes.csv"
    votes = json.dumps([1, {"id": "x", "choice": "tie"}]).replace('"', '""')
    path.write_text(f'prompt,response_1,response_2,annotators\nq,one,,"{votes}"\nq2,one,two,\n', encoding="utf-8")
    first, second = read_comparisons(path).records
    assert first.response_2 == "" and [vote.choice for vote in first.annotators] == ["first", "tie"]
    assert second.annotators == ()
