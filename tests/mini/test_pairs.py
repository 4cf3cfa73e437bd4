"""Rows as users write them: what is read, and what each mistake is told as."""

from __future__ import annotations

from typing import Any

import pytest

from preftune.errors import PreftuneError
from preftune.mini.pairs import TextPair, read_answers, read_pairs

GOOD = {"prompt": "p", "preferred": "a", "rejected": "b"}


def test_preferred_and_chosen_mean_the_same() -> None:
    rows = [GOOD, {"prompt": "p", "chosen": "a", "rejected": "b", "rule": "left aside"}]
    assert read_pairs(rows) == [TextPair("p", "a", "b")] * 2


def test_texts_are_answers_to_no_prompt() -> None:
    assert read_answers(["just text", GOOD, {"prompt": "q", "chosen": "c"}]) == [
        ("", "just text"),
        ("p", "a"),
        ("q", "c"),
    ]


@pytest.mark.parametrize(
    ("row", "where", "said"),
    [
        ({"preferred": "a", "rejected": "b"}, "row 2, field 'prompt'", "missing"),
        ({"prompt": "p", "rejected": "b"}, "row 2, field 'preferred'", "'preferred' or 'chosen'"),
        ({"prompt": "p", "preferred": "a"}, "row 2, field 'rejected'", "the row has 'prompt', 'preferred'"),
        ({**GOOD, "rejected": None}, "row 2, field 'rejected'", "missing"),
        ({**GOOD, "prompt": 3}, "row 2, field 'prompt'", "of type int"),
        ("a text", "row 2", "of type str"),
    ],
)
def test_a_faulty_row_is_named_with_its_field_and_the_mend(row: Any, where: str, said: str) -> None:
    with pytest.raises(PreftuneError) as caught:
        read_pairs([GOOD, row])
    assert caught.value.where == where
    assert said in str(caught.value)
    assert caught.value.mend


@pytest.mark.parametrize("rows", [[], "text", GOOD])
def test_no_list_of_rows_is_refused(rows: Any) -> None:
    with pytest.raises(PreftuneError):
        read_pairs(rows)
    with pytest.raises(PreftuneError):
        read_answers(rows)
