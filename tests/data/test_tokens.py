"""Pairs as tokens: where the completion begins, one BOS, one EOS, what is cut, and what is left out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from preftune.data import tokens as tokens_module
from preftune.data.records import Message, Pair
from preftune.data.tokens import (
    TemplateRefusal,
    Tokenized,
    TokenPair,
    encode_prompt,
    fingerprint_tokens,
    render_prompt,
    tokenize_pairs,
)
from preftune.errors import PreftuneError
from tests.tiny_world import BOS, CHAT_TEMPLATE, EOS, make_tokenizer

PLAIN = make_tokenizer()
REFUSAL = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system turns') }}{% endif %}"
STRICT_TEMPLATE = REFUSAL + CHAT_TEMPLATE
WORDS = st.text(alphabet="ab cé ?", min_size=1, max_size=30)


# --- boundary -------------------------------------------------------------------------------------------


def test_completion_begins_after_the_prompts_own_tokens() -> None:
    (pair,) = _tokenize([_text("Could you find the river?", " certainly", " never")]).pairs
    assert pair.prompt.tolist() == PLAIN("Could you find the river?")["input_ids"]
    assert PLAIN.decode(pair.chosen) == f" certainly{EOS}"
    assert PLAIN.decode(pair.rejected) == f" never{EOS}"


def test_token_that_merges_across_the_boundary_belongs_to_the_completions() -> None:
    """Alone the prompt ends in "ver"; before a space that token becomes "ver ", so it is the completions'."""
    tokenizer = make_tokenizer(merges_spaces=True)
    prompt, chosen, rejected = "the river", " certainly", " number"
    alone, whole = tokenizer(prompt)["input_ids"], tokenizer(prompt + chosen)["input_ids"]
    assert whole[: len(alone)] != alone, "this tokenizer was to merge across the boundary"
    result = _tokenize([_text(prompt, chosen, rejected)], tokenizer)
    (pair,) = result.pairs
    assert [*pair.prompt, *pair.chosen] == [*whole, tokenizer.eos_token_id]
    assert [*pair.prompt, *pair.rejected] == [*tokenizer(prompt + rejected)["input_ids"], tokenizer.eos_token_id]
    assert len(pair.prompt) < len(alone)
    assert result.boundaries_moved == 1


def test_boundary_is_where_both_sides_still_agree_with_the_prompt() -> None:
    """A merge on one side only moves the boundary of both: they share the prompt."""
    tokenizer = make_tokenizer(merges_spaces=True)
    (pair,) = _tokenize([_text("the river", " certainly", "x")], tokenizer).pairs
    assert tokenizer.decode([*pair.prompt, *pair.chosen]) == f"{BOS}the river certainly{EOS}"
    assert tokenizer.decode([*pair.prompt, *pair.rejected]) == f"{BOS}the riverx{EOS}"


@given(prompt=WORDS, chosen=WORDS, rejected=WORDS, merges=st.booleans())
def test_prompt_and_completion_together_are_the_tokens_of_the_whole_text(
    prompt: str, chosen: str, rejected: str, merges: bool
) -> None:
    tokenizer = MERGING if merges else PLAIN
    if chosen == rejected:
        return
    (pair,) = _tokenize([_text(prompt, chosen, rejected)], tokenizer).pairs
    for side, text in ((pair.chosen, chosen), (pair.rejected, rejected)):
        assert [*pair.prompt, *side] == [*tokenizer(prompt + text)["input_ids"], tokenizer.eos_token_id]


def test_ids_follow_their_pairs_and_text_and_chat_keep_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens_module, "_BLOCK", 3)
    pairs = [_text(f"p{i}", f" c{i}", f" r{i}") if i % 3 else _chat(f"p{i}", f"c{i}", f"r{i}") for i in range(8)]
    counted: list[int] = []
    result = tokenize_pairs(pairs, PLAIN, progress=counted.append)
    assert [pair.id for pair in result.pairs] == [pair.id for pair in pairs]
    for number, pair in enumerate(result.pairs):
        assert f"p{number}" in PLAIN.decode(pair.prompt)
        assert f"c{number}" in PLAIN.decode(pair.chosen)
    assert counted == [3, 3, 2]


# --- one BOS, one EOS -----------------------------------------------------------------------------------


@pytest.mark.parametrize("adds_bos", [True, False])
@pytest.mark.parametrize("adds_eos", [True, False])
@pytest.mark.parametrize("written", ["", EOS])
def test_text_has_one_eos_and_at_most_one_bos(adds_bos: bool, adds_eos: bool, written: str) -> None:
    """Whether the tokenizer puts them, and whether the data has them written out."""
    tokenizer = make_tokenizer(adds_bos=adds_bos, adds_eos=adds_eos)
    result = _tokenize([_text("find it", f" certainly{written}", f" never{written}")], tokenizer)
    (pair,) = result.pairs
    assert pair.prompt.tolist().count(1) == adds_bos
    assert 2 not in pair.prompt
    for side in (pair.chosen, pair.rejected):
        assert side.tolist().count(2) == 1
        assert side[-1] == 2
    assert result.boundaries_moved == 0
    assert encode_prompt(_text("find it", "", ""), tokenizer) == pair.prompt.tolist()


def test_text_that_writes_bos_itself_has_one() -> None:
    pair = _text(f"{BOS}find it", " certainly", " never")
    (tokenized,) = _tokenize([pair]).pairs
    assert tokenized.prompt.tolist() == PLAIN("find it")["input_ids"]
    assert encode_prompt(pair, PLAIN) == tokenized.prompt.tolist()


def test_prompt_that_ends_with_eos_keeps_it_for_training_and_for_sampling() -> None:
    """Earlier turns may be written out as text; only what the tokenizer itself appends is taken off."""
    pair = _text(f"one{EOS}", " certainly", " never")
    (tokenized,) = _tokenize([pair]).pairs
    assert tokenized.prompt[-1] == 2
    assert encode_prompt(pair, PLAIN) == tokenized.prompt.tolist()


@pytest.mark.parametrize("adds_bos", [True, False])
@pytest.mark.parametrize("writes", [True, False])
def test_chat_has_the_bos_of_its_template(adds_bos: bool, writes: bool) -> None:
    template = "{{ bos_token }}" * writes + CHAT_TEMPLATE
    tokenizer = make_tokenizer(adds_bos=adds_bos, chat_template=template)
    (pair,) = _tokenize([_chat("find it", "certainly", "never")], tokenizer).pairs
    assert pair.prompt.tolist().count(1) == writes


def test_chat_ends_with_the_token_that_closes_the_turn() -> None:
    """What the template writes after it is no part of the answer."""
    (pair,) = _tokenize([_chat("find it", "certainly", "never")]).pairs
    assert PLAIN.decode(pair.prompt) == f"<|user|>\nfind it{EOS}\n<|assistant|>\n"
    assert PLAIN.decode(pair.chosen) == f"certainly{EOS}"
    assert PLAIN.decode(pair.rejected) == f"never{EOS}"


def test_chat_template_that_closes_with_nothing_gets_eos() -> None:
    turns = "{% for m in messages %}# {{ m['role'] }}\n{{ m['content'] }}\n{% endfor %}"
    template = turns + "{% if add_generation_prompt %}# assistant\n{% endif %}"
    tokenizer = make_tokenizer(chat_template=template)
    (pair,) = _tokenize([_chat("find it", "certainly", "never")], tokenizer).pairs
    assert tokenizer.decode(pair.chosen) == f"certainly\n{EOS}"


def test_prompt_that_ends_in_an_unfinished_answer_is_continued() -> None:
    messages = (Message(role="user", content="find it"), Message(role="assistant", content="Well,"))
    pair = Pair(prompt=messages, chosen=_says(" certainly"), rejected=_says(" never"))
    assert render_prompt(pair, PLAIN).endswith("<|assistant|>\nWell,")


def test_tokenizer_without_eos_appends_none() -> None:
    tokenizer = make_tokenizer()
    tokenizer.eos_token = None
    (pair,) = _tokenize([_text("find it", " certainly", " never")], tokenizer).pairs
    assert tokenizer.decode(pair.chosen) == " certainly"


# --- truncation -----------------------------------------------------------------------------------------


@given(
    lengths=st.tuples(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40)),
    max_length=st.integers(2, 50),
    keeps_start=st.booleans(),
)
def test_truncation_is_bounded_and_counted(lengths: tuple[int, int, int], max_length: int, keeps_start: bool) -> None:
    mode = "keep_start" if keeps_start else "keep_completion"
    texts = ["".join(letter * length) for letter, length in zip("xyz", lengths, strict=True)]
    # Letters one by one, so that lengths are known: BOS, the letters, EOS.
    raw = tokenize_pairs([_text(*texts)], LETTERS).pairs[0]
    assert [len(raw.prompt), len(raw.chosen), len(raw.rejected)] == [1 + lengths[0], 1 + lengths[1], 1 + lengths[2]]
    try:
        result = tokenize_pairs([_text(*texts)], LETTERS, max_length=max_length, truncation_mode=mode)
    except PreftuneError:
        assert keeps_start
        assert len(raw.prompt) >= max_length
        return
    (pair,) = result.pairs
    sides = (pair.chosen, pair.rejected)
    assert len(pair.prompt) >= 1
    assert all(len(side) >= 1 and len(pair.prompt) + len(side) <= max_length for side in sides)
    assert all(
        np.array_equal(side, whole[: len(side)]) for side, whole in zip(sides, (raw.chosen, raw.rejected), strict=True)
    )
    assert result.prompts_cut == (len(pair.prompt) < len(raw.prompt))
    assert result.completions_cut == any(
        len(a) < len(b) for a, b in zip(sides, (raw.chosen, raw.rejected), strict=True)
    )
    assert result.tokens_cut == raw.length - pair.length
    needed = len(raw.prompt) + max(len(raw.chosen), len(raw.rejected))
    if needed <= max_length:
        assert result.tokens_cut == 0
    else:
        assert len(pair.prompt) + max(len(side) for side in sides) == max_length


def test_keep_completion_cuts_the_prompts_beginning_but_for_its_bos() -> None:
    pair = _text("abcdefghij", "yyyy", "zz")
    (cut,) = tokenize_pairs([pair], LETTERS, max_length=11, truncation_mode="keep_completion").pairs
    assert LETTERS.decode(cut.prompt) == f"{BOS}fghij"
    assert LETTERS.decode(cut.chosen) == f"yyyy{EOS}"


def test_keep_completion_without_bos_keeps_the_prompts_end() -> None:
    tokenizer = make_tokenizer(adds_bos=False)
    pair = _text("abcdefghij", "yyyy", "zz")
    (cut,) = tokenize_pairs([pair], tokenizer, max_length=11, truncation_mode="keep_completion").pairs
    assert tokenizer.decode(cut.prompt) == "efghij"


def test_keep_completion_leaves_the_prompt_half_of_the_room() -> None:
    pair = _text("abcdefghij", "y" * 50, "z" * 20)
    (cut,) = tokenize_pairs([pair], LETTERS, max_length=10, truncation_mode="keep_completion").pairs
    assert [len(cut.prompt), len(cut.chosen), len(cut.rejected)] == [5, 5, 5]
    assert LETTERS.decode(cut.prompt) == f"{BOS}ghij"
    assert 2 not in cut.chosen


def test_keep_start_keeps_the_first_tokens() -> None:
    pair = _text("abcde", "yyyyy", "zzzzz")
    (cut,) = tokenize_pairs([pair], LETTERS, max_length=8, truncation_mode="keep_start").pairs
    assert LETTERS.decode([*cut.prompt, *cut.chosen]) == f"{BOS}abcdeyy"


def test_counts_of_cut_pairs_are_in_the_receipt() -> None:
    pairs = [_text("ab", "yy", "zz"), _text("abcdefghij", "yy", "zz"), _text("ab", "y" * 30, "zz")]
    receipt = tokenize_pairs(pairs, LETTERS, max_length=8).receipt()
    assert receipt["pairs"] == 3
    assert (receipt["prompts_cut"], receipt["completions_cut"]) == (1, 1)
    assert receipt["tokens_cut"] == 6 + 26
    assert receipt["lengths"]["prompt"] == {"n": 3, "min": 3, "p5": 3.0, "median": 3.0, "p95": 4.8, "max": 5}
    assert receipt["total"] == (3 + 3 + 3) + (5 + 3 + 3) + (3 + 5 + 3)


def test_max_length_of_one_is_refused() -> None:
    with pytest.raises(PreftuneError, match="max_length is 1"):
        tokenize_pairs([_text("a", "b", "c")], PLAIN, max_length=1)


# --- what is left out -----------------------------------------------------------------------------------


def test_sides_that_are_identical_once_cut_are_dropped_and_counted() -> None:
    pairs = [_text("ab", "y" * 20 + "1", "y" * 20 + "2"), _text("ab", "yy", "zz")]
    result = tokenize_pairs(pairs, LETTERS, max_length=10)
    assert [pair.id for pair in result.pairs] == [pairs[1].id]
    assert [(dropped.id, dropped.reason) for dropped in result.dropped] == [(pairs[0].id, "identical-after-truncation")]
    assert result.receipt()["left_out"] == {"identical-after-truncation": 1}


def test_prompts_that_fill_max_length_are_dropped_when_the_start_is_kept() -> None:
    pairs = [_text("a" * 20, "yy", "zz"), _text("ab", "yy", "zz")]
    result = tokenize_pairs(pairs, LETTERS, max_length=10, truncation_mode="keep_start")
    assert [dropped.reason for dropped in result.dropped] == ["prompt-too-long"]


def test_pair_without_a_prompt_token_is_dropped() -> None:
    tokenizer = make_tokenizer(adds_bos=False)
    result = tokenize_pairs([_text("", "yy", "zz"), _text("ab", "yy", "zz")], tokenizer)
    assert [dropped.reason for dropped in result.dropped] == ["no-prompt-token"]
    assert len(tokenize_pairs([_text("", "yy", "zz")], PLAIN).pairs) == 1  # BOS is a prompt


def test_no_usable_pair_is_an_error_that_says_why() -> None:
    with pytest.raises(
        PreftuneError, match=r"None of 2 pairs can be used \(prompt-too-long\).*keep_completion"
    ) as raised:
        tokenize_pairs([_text("a" * 20, "y", "z")] * 2, LETTERS, max_length=5, truncation_mode="keep_start")
    assert raised.value.where is not None


def test_no_pairs_at_all_are_no_error() -> None:
    result = tokenize_pairs([], PLAIN)
    assert result.pairs == ()
    assert result.receipt()["lengths"]["prompt"] == {"n": 0}


def test_chat_without_a_template_is_an_error_that_names_the_mend() -> None:
    tokenizer = make_tokenizer(chat_template=None)
    with pytest.raises(PreftuneError, match=r"no chat template.*--chat_template_path"):
        tokenize_pairs([_chat("a", "b", "c")], tokenizer)
    assert len(tokenize_pairs([_text("a", "b", "c")], tokenizer).pairs) == 1


def test_turns_the_template_refuses_are_left_out_and_the_rest_is_used() -> None:
    tokenizer = make_tokenizer(chat_template=STRICT_TEMPLATE)
    pairs = [_chat("a", "b", "c"), _chat("a", "b", "c", system="be kind"), _text("a", "b", "c")]
    result = tokenize_pairs(pairs, tokenizer)
    assert [pair.id for pair in result.pairs] == [pairs[0].id, pairs[2].id]
    (dropped,) = result.dropped
    assert (dropped.id, dropped.reason) == (pairs[1].id, "template-refuses")
    assert "no system turns" in dropped.mend
    with pytest.raises(TemplateRefusal, match=r"roles system, user.*no system turns"):
        encode_prompt(pairs[1], tokenizer)


def test_template_that_refuses_everything_is_an_error_with_its_words() -> None:
    tokenizer = make_tokenizer(chat_template=STRICT_TEMPLATE)
    with pytest.raises(PreftuneError, match=r"None of 1 pairs.*template-refuses.*no system turns"):
        tokenize_pairs([_chat("a", "b", "c", system="be kind")], tokenizer)


# --- fingerprint ----------------------------------------------------------------------------------------


def test_fingerprint_changes_with_data_tokenizer_template_and_truncation() -> None:
    texts, chats = [_text("abc", "yyy", "zzz")], [_chat("abc", "yyy", "zzz")]
    other_template = CHAT_TEMPLATE.replace("\n", " ")
    prints = [
        _print(_tokenize(texts)),
        _print(_tokenize([_text("abd", "yyy", "zzz")])),
        _print(_tokenize([_text("abc", "zzz", "yyy")])),
        _print(_tokenize(texts, make_tokenizer(adds_bos=False))),
        _print(tokenize_pairs(texts, PLAIN, max_length=6)),
        _print(_tokenize(chats)),
        _print(_tokenize(chats, make_tokenizer(chat_template=other_template))),
        _print(_tokenize(texts * 2)),
    ]
    assert len(set(prints)) == len(prints)
    assert _print(_tokenize(texts)) == prints[0]


def test_fingerprint_tells_where_a_field_ends() -> None:
    def pair(*lengths: int) -> TokenPair:
        fields = np.split(np.arange(6, dtype=np.int32), np.cumsum(lengths)[:-1])
        return TokenPair("x", *fields)

    assert fingerprint_tokens([pair(2, 2, 2)]) != fingerprint_tokens([pair(3, 1, 2)])
    assert fingerprint_tokens([pair(2, 2, 2)]) != fingerprint_tokens([pair(2, 3, 1)])


# --- making things --------------------------------------------------------------------------------------


MERGING = make_tokenizer(merges_spaces=True)
LETTERS = make_tokenizer(merges_letters=False)


def _tokenize(pairs: list[Pair], tokenizer: Any = None) -> Tokenized:
    return tokenize_pairs(pairs, tokenizer or PLAIN)


def _text(prompt: str, chosen: str, rejected: str) -> Pair:
    return Pair(prompt=prompt, chosen=chosen, rejected=rejected)


def _chat(prompt: str, chosen: str, rejected: str, system: str | None = None) -> Pair:
    opening = () if system is None else (Message(role="system", content=system),)
    user = Message(role="user", content=prompt)
    return Pair(prompt=(*opening, user), chosen=_says(chosen), rejected=_says(rejected))


def _says(text: str) -> tuple[Message, ...]:
    return (Message(role="assistant", content=text),)


def _print(tokenized: Tokenized) -> str:
    return fingerprint_tokens(tokenized.pairs)
