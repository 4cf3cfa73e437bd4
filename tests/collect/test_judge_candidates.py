"""Candidates from rows of every shape, and every row that holds none with its reason."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from preftune.collect.judge_candidates import candidates_of_row, comparisons_of, read_candidates
from preftune.data.records import Comparison, Pair, Vote
from preftune.errors import PreftuneError


def test_two_responses_with_their_votes() -> None:
    row = {"id": "r", "prompt": "p", "response_1": "x", "response_2": "yy", "annotators": [1, 2, 0], "models": "m_n"}
    found = candidates_of_row(row)
    assert (found.id, found.prompt, found.answers, found.lengths()) == ("r", "p", ("x", "yy"), (1, 2))
    assert list(found.votes.values()) == ["first", "second", "tie"]
    assert found.writer == "m_n" and found.comparison_id((0, 1)) == "r"
    record = Comparison(prompt="p", response_1="x", response_2="yy", id="r")
    assert candidates_of_row(record).answers == ("x", "yy")


def test_a_list_of_completions_text_or_messages() -> None:
    found = candidates_of_row({"prompt": "p", "completions": ["x", "y", "z"], "meta": {"a": 1}})
    assert found.answers == ("x", "y", "z") and found.meta == {"a": 1} and len(found.id) == 16
    assert found.comparison_id((0, 2)) == f"{found.id}/1-3"
    assert comparisons_of(found, "all") == [(0, 1), (0, 2), (1, 2)]
    assert comparisons_of(found, "first") == [(0, 1), (0, 2)]
    chat = candidates_of_row({"prompt": "p", "completions": ["x", [{"role": "assistant", "content": "y"}]]})
    assert [answer[0].content for answer in chat.answers if not isinstance(answer, str)] == ["x", "y"]


def test_a_pair_is_judged_again_without_telling_which_was_chosen() -> None:
    places = []
    for number in range(60):
        pair = Pair(prompt=f"p{number}", chosen="good", rejected="bad")
        found = candidates_of_row(pair)
        places.append(found.answers.index("good"))
        assert found.votes == {"label": "first" if places[-1] == 0 else "second"}
        assert candidates_of_row(pair).answers == found.answers
    assert 15 < sum(places) < 45


def test_votes_on_a_pair_are_about_the_side_that_its_order_names() -> None:
    votes = (Vote(id="p1", choice="first"), Vote(id="p2", choice="tie"))
    for order, chosen_wins in (("chosen", True), ("rejected", False)):
        pair = Pair(prompt="p", chosen="good", rejected="bad", annotators=votes, meta={"order": order})
        found = candidates_of_row(pair)
        side = ("first", "second")[found.answers.index("good" if chosen_wins else "bad")]
        assert found.votes == {"p1": side, "p2": "tie"}


BAD = [
    "no object",
    {"prompt": "p"},
    {"prompt": "p", "completions": ["alone"]},
    {"prompt": "p", "completions": "text"},
    {"prompt": "p", "completions": ["x", ""]},
    {"prompt": "p", "completions": ["x", None]},
    {"prompt": "p", "completions": ["x"] * 27},
    {"prompt": " ", "completions": ["x", "y"]},
    {"prompt": "p", "response_1": "x", "response_2": ""},
    {"prompt": None, "response_1": "x", "response_2": "y"},
    {"prompt": "p", "chosen": "x", "rejected": "x"},
]


def test_rows_without_candidates_are_left_out_by_name(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    good = {"prompt": "p", "response_1": "x", "response_2": "y"}
    lines = [json.dumps(row) for row in [good, *BAD]]
    file.write_text("\n".join([*lines, "{half"]) + "\n")
    reading = read_candidates(str(file))
    assert reading.read == len(BAD) + 2 and len(reading.candidates) == 1 and len(reading.rejected) == len(BAD) + 1
    assert all(where.startswith("rows.jsonl:") and reason and mend for where, reason, mend in reading.rejected)
    with pytest.raises(PreftuneError, match=f"No row of {len(BAD)} can be judged"):
        read_candidates(BAD)
    with pytest.raises(PreftuneError, match="cannot be read"):
        read_candidates(3)


def test_rows_with_one_id_stay_apart() -> None:
    rows = [{"id": "same", "prompt": f"p{n}", "response_1": "x", "response_2": "y"} for n in range(3)]
    assert [one.id for one in read_candidates(rows).candidates] == ["same", "same#2", "same#3"]
    assert len(read_candidates(rows, limit=2).candidates) == 2
