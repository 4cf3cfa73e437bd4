"""Bytes in, bytes out, and what is cut where there is no room."""

from __future__ import annotations

import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preftune.mini.tokenizer import ANSWER, END, decode, encode, encode_answer, encode_answers


@given(st.text())
def test_text_comes_back(text: str) -> None:
    tokens = encode(text)
    assert decode(tokens) == text
    assert not {ANSWER, END} & set(tokens)


def test_half_a_character_is_a_token_row_like_any_other() -> None:
    assert len(encode("\ud83d")) == 3
    assert decode(encode("é")[:1]) == "\ufffd"


@given(st.text(max_size=30), st.text(max_size=30), st.integers(2, 40))
def test_answer_is_kept_before_prompt_and_what_is_cut_is_counted(prompt: str, answer: str, room: int) -> None:
    example = encode_answer(prompt, answer, room)
    whole = [*encode(prompt), ANSWER, *encode(answer), END]
    assert example.length + example.cut == len(whole)
    assert example.length == min(room, len(whole))
    assert example.tokens[example.start - 1] == ANSWER
    shown, kept = list(example.tokens[: example.start - 1]), list(example.answer)
    assert encode(prompt)[len(encode(prompt)) - len(shown) :] == shown
    assert [*encode(answer), END][: len(kept)] == kept
    assert not shown or kept[-1] == END  # the answer suffers only once the prompt is gone


def test_one_warning_tells_how_many_texts_were_cut() -> None:
    with pytest.warns(UserWarning, match="2 of 3 texts are longer than max_seq_len=8"):
        encode_answers([("a", "b"), ("a long prompt", "b"), ("", "a long answer")], 8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encode_answers([("a", "b")], 8)
