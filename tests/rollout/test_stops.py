"""Stop strings in a text that comes token by token."""

from __future__ import annotations

from typing import Any

import pytest

from preftune.rollout.stops import StopText
from tests.tiny_world import make_tokenizer

LETTERS = make_tokenizer(adds_bos=False, merges_letters=False)
WORDS = make_tokenizer(adds_bos=False)


def _place(tokenizer: Any, text: str, *stops: str) -> int | None:
    """The number of tokens of ``text`` after which a stop was seen, where one was."""
    tokens = tokenizer(text)["input_ids"]
    reader = StopText(tokenizer, stops)
    return next((end for end in range(1, len(tokens) + 1) if reader.is_complete(tokens[:end])), None)


@pytest.mark.parametrize(
    ("text", "stops", "place"),
    [
        ("abc\n\nd", ("\n\n",), 5),
        ("abc", ("c",), 3),
        ("abc", ("abc",), 3),
        ("abcabd", ("abd",), 6),
        ("aaab", ("aab",), 4),
        ("abc", ("x", "b"), 2),
        ("abc", ("bcd",), None),
        ("abc", (), None),
        ("abc", ("",), None),
    ],
)
def test_stop_is_seen_with_the_token_that_completes_it(text: str, stops: tuple[str, ...], place: int | None) -> None:
    assert _place(LETTERS, text, *stops) == place


def test_stop_may_begin_and_end_inside_tokens() -> None:
    text = "certainly the river can be done"
    pieces = [WORDS.decode([token]) for token in WORDS(text)["input_ids"]]
    assert len(pieces) < len(text)
    for begin in range(len(text) - 6):
        place = _place(WORDS, text, text[begin : begin + 6])
        assert place is not None
        assert text[begin : begin + 6] in "".join(pieces[:place])
        assert text[begin : begin + 6] not in "".join(pieces[: place - 1])


def test_letters_of_several_bytes_are_read_when_complete() -> None:
    assert len(LETTERS("é€")["input_ids"]) == 5
    assert _place(LETTERS, "aé€b", "é") == 3
    assert _place(LETTERS, "aé€b", "é€") == 6
    assert _place(LETTERS, "aé€b", "€b") == 7


def test_bytes_that_never_make_a_letter_do_not_hide_what_follows() -> None:
    broken = LETTERS("€")["input_ids"][:1]
    tokens = broken * 3 + LETTERS("stop")["input_ids"]
    reader = StopText(LETTERS, ["stop"])
    assert [reader.is_complete(tokens[:end]) for end in range(1, 8)] == [False] * 6 + [True]


def test_stop_may_be_a_special_token() -> None:
    assert _place(WORDS, "open it</s>now", "</s>") == len(WORDS("open it</s>")["input_ids"])
