"""Demonstrations as tokens: which tokens are learned, whatever the chat template, and how masks are cut."""

from __future__ import annotations

from itertools import groupby
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from preftune.data.records import Demonstration, Label, Message, Pair
from preftune.data.tokens import (
    TokenDemonstration,
    TokenLabel,
    TokenPair,
    encode_prompt,
    fingerprint_tokens,
    render_prompt,
    tokenize_demonstrations,
    tokenize_labels,
    tokenize_pairs,
)
from preftune.errors import PreftuneError
from tests.tiny_world import BOS, CHAT_TEMPLATE, EOS, make_tokenizer

HEADER = "<|{{ m['role'] }}|>\n"
OPENING = "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
# Closes turns with nothing, and its headers are plain text.
UNCLOSED = (
    "{% for m in messages %}# {{ m['role'] }}\n{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}# assistant\n{% endif %}"
)
# As Qwen3: a thought, here an empty one, stands before the last answer only.
THINKING = (
    f"{{% for m in messages %}}{HEADER}{{% if m['role'] == 'assistant' and loop.last %}}<think></think>{{% endif %}}"
    f"{{{{ m['content'] }}}}</s>\n{{% endfor %}}{OPENING}"
)
# As Mistral's: the system message stands in the last turn of the user.
MOVING_SYSTEM = (
    "{% set system = messages[0]['content'] if messages[0]['role'] == 'system' else '' %}"
    "{% set users = messages | selectattr('role', 'equalto', 'user') | list %}"
    "{% for m in messages if m['role'] != 'system' %}"
    f"{HEADER}{{% if m == users[-1] and system %}}{{{{ system }}}}: {{% endif %}}{{{{ m['content'] }}}}</s>\n"
    f"{{% endfor %}}{OPENING}"
)
# As gpt-oss: the last answer is closed by another token than the earlier ones.
RETURNING = (
    f"{{% for m in messages %}}{HEADER}{{{{ m['content'] }}}}"
    "{{ '</s>' if m['role'] == 'assistant' and loop.last else '<pad>' }}{% endfor %}" + OPENING
)
# As DeepSeek's: a model asked for an answer gets a thought opened that the conversation does not show.
OPENED_THOUGHT = CHAT_TEMPLATE.replace("<|assistant|>\n{% endif %}", "<|assistant|>\n<think>{% endif %}")
# As Qwen3.5's: a model is asked with an opened thought, and what it did not think is written as a closed one.
CLOSED_THOUGHT = OPENED_THOUGHT.replace("<think>{%", "<think>\n{%").replace(
    "\n{{ message", "\n{{ '<think></think>' * (message['role'] == 'assistant') }}{{ message"
)
# Every answer is written after a count of all turns, so nothing stays when turns are added.
COUNTING = "{{ messages | length }}" + CHAT_TEMPLATE
# The same with the length of what was said, so nothing stays when a turn is changed either.
MEASURING = "{{ messages | map(attribute='content') | join | length }}" + CHAT_TEMPLATE
# The same with other openings for all answers but the first.
REOPENING = COUNTING.replace(
    "<|{{ message['role'] }}|>", "{{ '#' if loop.index > 2 else '<|' + message['role'] + '|>' }}"
)
# Says the answers twice, once in front.
REPEATING = "{% for m in messages %}{{ m['content'] }};{% endfor %}" + CHAT_TEMPLATE
WITH_TOOLS = (
    f"{{% for m in messages %}}{HEADER}{{{{ m['content'] }}}}{{% for call in m.get('tool_calls') or [] %}}"
    f"[{{{{ call['name'] }}}}]{{% endfor %}}</s>\n{{% endfor %}}{OPENING}"
)

PLAIN = make_tokenizer()
LETTERS = make_tokenizer(merges_letters=False)
MERGING = make_tokenizer(merges_spaces=True)
TALK = ("user: find it", "assistant: certainly", "user: and then", "assistant: open the river")


# --- conversations --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "learned"),
    [
        pytest.param(CHAT_TEMPLATE, [f"certainly{EOS}", f"open the river{EOS}"], id="closed"),
        pytest.param(UNCLOSED, ["certainly\n", f"open the river\n{EOS}"], id="unclosed"),
        pytest.param(THINKING, [f"certainly{EOS}", f"<think></think>open the river{EOS}"], id="thinking"),
        pytest.param(RETURNING, ["certainly<pad>", f"open the river{EOS}"], id="returning"),
        pytest.param(OPENED_THOUGHT, [f"certainly{EOS}", f"open the river{EOS}"], id="opened thought"),
        pytest.param(
            CLOSED_THOUGHT, [f"</think>{text}{EOS}" for text in ("certainly", "open the river")], id="closed thought"
        ),
        pytest.param(REOPENING, [f"certainly{EOS}", f"open the river{EOS}"], id="reopening"),
        pytest.param(MOVING_SYSTEM, [f"certainly{EOS}", f"open the river{EOS}"], id="moving system"),
        pytest.param(COUNTING, [f"certainly{EOS}", f"open the river{EOS}"], id="counting"),
    ],
)
@pytest.mark.parametrize("has_system", [False, True])
def test_every_answer_is_learned_with_its_end_and_nothing_else(
    template: str, learned: list[str], has_system: bool
) -> None:
    tokenizer = make_tokenizer(chat_template=template)
    record = _talk(*["system: be kind"] * has_system, *TALK)
    (tokens,) = tokenize_demonstrations([record], tokenizer).records
    assert _learned(tokens, tokenizer) == learned
    messages = [message.as_row() for message in (*record.prompt, *record.completion)]
    whole = tokenizer.apply_chat_template(messages, tokenize=False).removesuffix("\n" * (template != UNCLOSED))
    assert tokenizer.decode([*tokens.prompt, *tokens.completion]) == whole + EOS * (template == UNCLOSED)


def test_a_conversation_with_one_answer_needs_no_mask_and_begins_as_a_pair_does() -> None:
    (tokens,) = tokenize_demonstrations([_talk(*TALK[:2])], PLAIN).records
    assert tokens.mask is None and tokens.learned == len(tokens.completion)
    assert PLAIN.decode(tokens.completion) == f"certainly{EOS}"
    pair = Pair(prompt=_messages(TALK[0]), chosen=_messages(TALK[1]), rejected=_messages(TALK[3]))
    assert tokens.prompt.tolist() == tokenize_pairs([pair], PLAIN).pairs[0].prompt.tolist()
    assert tokens.prompt.tolist() == encode_prompt(_talk(*TALK[:2]), PLAIN)
    assert render_prompt(_talk(*TALK[:2]), PLAIN) == f"<|user|>\nfind it{EOS}\n<|assistant|>\n"


def test_answers_in_a_prompt_are_not_learned() -> None:
    record = Demonstration(prompt=_messages(*TALK[:3]), completion=_messages(TALK[3]))
    (tokens,) = tokenize_demonstrations([record], PLAIN).records
    assert _learned(tokens, PLAIN) == [f"open the river{EOS}"] and tokens.mask is None
    assert "certainly" in PLAIN.decode(tokens.prompt)


def test_what_follows_the_last_answer_is_left_out() -> None:
    (tokens,) = tokenize_demonstrations([_talk(*TALK, "user: thanks")], PLAIN).records
    assert PLAIN.decode(tokens.completion).endswith(f"river{EOS}")


def test_answers_in_a_row_and_calls_of_tools_are_learned_whole() -> None:
    call = Message(role="assistant", content="", tool_calls=[{"name": "open"}])
    completion = (call, *_messages("tool: done", "assistant: it is open", "assistant: and so on"))
    for template in (WITH_TOOLS, RETURNING.replace("m['content'] }}", "m['content'] }}{{ m.get('tool_calls', '') }}")):
        tokenizer = make_tokenizer(chat_template=template)
        record = Demonstration(prompt=_messages("user: open it"), completion=completion)
        (tokens,) = tokenize_demonstrations([record], tokenizer).records
        first, *rest = _learned(tokens, tokenizer)
        assert "open" in first
        end = EOS if template == WITH_TOOLS else "<pad>"
        assert rest == [f"it is open{end}", f"and so on{EOS}"]


def test_what_the_template_writes_before_an_answer_is_learned_with_it() -> None:
    tokenizer = make_tokenizer(chat_template=THINKING)
    (tokens,) = tokenize_demonstrations([_talk(*TALK[:2], "assistant: and so on")], tokenizer).records
    assert _learned(tokens, tokenizer) == [f"certainly{EOS}", f"<think></think>and so on{EOS}"]


def test_a_turn_that_cannot_be_found_again_is_left_out_with_a_reason() -> None:
    blank = _talk(*TALK[:2], "user: ", TALK[3])
    reopened = tokenize_demonstrations([blank, _text("a", "b")], make_tokenizer(chat_template=REOPENING))
    assert [one.reason for one in reopened.dropped] == ["template-rewrites-turns"]
    measured = tokenize_demonstrations([_talk(*TALK), _text("a", "b")], make_tokenizer(chat_template=MEASURING))
    assert [one.reason for one in measured.dropped] == ["template-rewrites-turns"]
    tokenizer = make_tokenizer(chat_template=REPEATING)
    result = tokenize_demonstrations([_talk(*TALK), _text("find it", " now")], tokenizer)
    assert [(one.id, one.reason) for one in result.dropped] == [(_talk(*TALK).id, "template-rewrites-turns")]
    assert '"certainly" differently' in result.dropped[0].mend
    assert len(result.records) == 1
    with pytest.raises(PreftuneError, match=r"None of 1 demonstrations.*template-rewrites-turns.*chat_template_path"):
        tokenize_demonstrations([_talk(*TALK)], tokenizer)


def test_turns_the_template_refuses_are_left_out() -> None:
    refusal = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system turns') }}{% endif %}"
    tokenizer = make_tokenizer(chat_template=refusal + CHAT_TEMPLATE)
    result = tokenize_demonstrations([_talk("system: x", *TALK), _talk(*TALK)], tokenizer)
    assert [one.reason for one in result.dropped] == ["template-refuses"] and len(result.records) == 1
    with pytest.raises(PreftuneError, match="no chat template"):
        tokenize_demonstrations([_talk(*TALK)], make_tokenizer(chat_template=None))


def test_a_completion_without_an_answer_teaches_nothing() -> None:
    record = Demonstration(prompt=_messages(TALK[0]), completion=_messages(TALK[2]))
    result = tokenize_demonstrations([record, _talk(*TALK)], PLAIN)
    assert [one.reason for one in result.dropped] == ["nothing-learned"]


CONTENT = st.text(alphabet="ab cé\n?", max_size=12)
TURNS = st.lists(st.tuples(st.sampled_from(["user", "assistant", "tool"]), CONTENT), max_size=6)


@given(
    opening=CONTENT,
    turns=TURNS,
    answer=CONTENT,
    template=st.sampled_from([CHAT_TEMPLATE, UNCLOSED, THINKING, RETURNING, OPENED_THOUGHT]),
    merges=st.booleans(),
)
def test_learned_tokens_say_what_the_assistant_says(
    opening: str, turns: list[tuple[str, str]], answer: str, template: str, merges: bool
) -> None:
    tokenizer = TOKENIZERS[template, merges]
    messages = [("user", opening), *turns, ("assistant", answer)]
    record = _record([Message(role=role, content=content) for role, content in messages])
    (tokens,) = tokenize_demonstrations([record], tokenizer).records
    said = [content for role, content in messages if role == "assistant"]
    ids = [*tokens.prompt, *tokens.completion]
    whole = tokenizer.apply_chat_template([m.as_row() for m in (*record.prompt, *record.completion)], tokenize=False)
    if template != UNCLOSED:
        whole = whole.rstrip("\n").removesuffix(EOS)
    assert tokenizer.decode(ids) == whole + EOS
    learned = "".join(_learned(tokens, tokenizer))
    if not merges:
        ends = {UNCLOSED: "\n", RETURNING: "<pad>"}
        end = ends.get(template, EOS)
        last = ("<think></think>" if template == THINKING else "") + said[-1] + ("\n" if template == UNCLOSED else "")
        assert learned == "".join(f"{text}{end}" for text in said[:-1]) + last + EOS
    else:  # tokens that reach over a turn's edge may take one end of it along, never a word of another turn
        assert sum(map(len, said[:-1])) - 2 * len(said) <= len(learned)


# --- text -----------------------------------------------------------------------------------------------


def test_prompt_and_completion_are_cut_where_a_pair_is() -> None:
    for tokenizer in (PLAIN, MERGING, make_tokenizer(adds_eos=True)):
        (tokens,) = tokenize_demonstrations([_text("the river", " certainly")], tokenizer).records
        pair = Pair(prompt="the river", chosen=" certainly", rejected=" certainly not")
        (expected,) = tokenize_pairs([pair], tokenizer).pairs
        assert tokens.prompt.tolist() == expected.prompt.tolist()
        assert tokens.completion.tolist() == expected.chosen.tolist()
        assert tokens.mask is None
    assert tokenize_demonstrations([_text("the river", " certainly")], MERGING).boundaries_moved == 1


@pytest.mark.parametrize("adds_bos", [True, False])
@pytest.mark.parametrize("adds_eos", [True, False])
def test_of_plain_text_everything_after_its_first_token_is_learned(adds_bos: bool, adds_eos: bool) -> None:
    tokenizer = make_tokenizer(adds_bos=adds_bos, adds_eos=adds_eos, merges_letters=False)
    (tokens,) = tokenize_demonstrations([_text("", "find it")], tokenizer).records
    assert tokenizer.decode(tokens.prompt) == (BOS if adds_bos else "f")
    assert tokenizer.decode(tokens.completion) == ("find it" if adds_bos else "ind it") + EOS
    assert tokens.mask is None


def test_with_completion_only_loss_off_everything_after_the_first_token_is_learned() -> None:
    records = [_text("ab", "cd"), _talk(*TALK), _text("", "ab")]
    result = tokenize_demonstrations(records, PLAIN, completion_only_loss=False)
    assert [len(tokens.prompt) for tokens in result.records] == [1, 1, 1]
    assert all(tokens.mask is None for tokens in result.records)
    assert PLAIN.decode([*result.records[0].prompt, *result.records[0].completion]) == f"{BOS}abcd{EOS}"
    assert result.boundaries_moved == 0


def test_a_single_token_teaches_nothing() -> None:
    tokenizer = make_tokenizer(adds_bos=False, merges_letters=False)
    tokenizer.eos_token = None
    result = tokenize_demonstrations([_text("", "a"), _text("", "ab")], tokenizer)
    assert [one.reason for one in result.dropped] == ["no-completion-token"]


# --- truncation -----------------------------------------------------------------------------------------


@given(
    lengths=st.lists(st.integers(1, 8), min_size=4, max_size=4),
    max_length=st.integers(2, 60),
    keeps_start=st.booleans(),
)
def test_masks_are_cut_with_their_tokens(lengths: list[int], max_length: int, keeps_start: bool) -> None:
    roles = ("user", "assistant", "user", "assistant")
    record = _talk(*(f"{role}: {letter * n}" for role, letter, n in zip(roles, "wxyz", lengths, strict=True)))
    mode = "keep_start" if keeps_start else "keep_completion"
    (raw,) = tokenize_demonstrations([record], LETTERS).records
    try:
        result = tokenize_demonstrations([record], LETTERS, max_length=max_length, truncation_mode=mode)
    except PreftuneError:
        assert keeps_start and len(raw.prompt) >= max_length
        return
    (cut,) = result.records
    assert cut.length == min(raw.length, max_length)
    n = len(cut.completion)
    assert raw.mask is not None
    assert cut.completion.tolist() == raw.completion[:n].tolist()
    mask = np.ones(n, dtype=bool) if cut.mask is None else cut.mask
    assert mask.tolist() == raw.mask[:n].tolist()
    assert cut.mask is None or not cut.mask.all()
    assert cut.learned == mask.sum() > 0
    assert result.tokens_cut == raw.length - cut.length


def test_labels_are_the_sides_of_a_pair() -> None:
    labels = [Label(prompt="ab", completion="yes", label=True), Label(prompt="ab", completion="no", label=False)]
    chats = [
        Label(prompt=_messages(TALK[0]), completion=_messages(answer), label=not number)
        for number, answer in enumerate((TALK[1], TALK[3]))
    ]
    for good, bad in (labels, chats):
        tokens = tokenize_labels([good, bad], PLAIN).records
        pair = Pair(prompt=good.prompt, chosen=good.completion, rejected=bad.completion)
        (expected,) = tokenize_pairs([pair], PLAIN).pairs
        assert [each.label for each in tokens] == [True, False]
        assert [each.id for each in tokens] == [good.id, bad.id]
        for each, completion in zip(tokens, expected.completions, strict=True):
            assert each.prompt.tolist() == expected.prompt.tolist()
            assert each.completion.tolist() == completion.tolist()


def test_labels_are_cut_and_left_out_as_pairs_are() -> None:
    labels = [Label(prompt="a" * n, completion="y" * 6, label=True) for n in (2, 20)]
    result = tokenize_labels(labels, LETTERS, max_length=8, truncation_mode="keep_start")
    assert [one.reason for one in result.dropped] == ["prompt-too-long"]
    assert LETTERS.decode([*result.records[0].prompt, *result.records[0].completion]) == f"{BOS}aayyyyy"
    counted: list[int] = []
    kept = tokenize_labels(labels, LETTERS, max_length=8, progress=counted.append).records
    assert [each.length for each in kept] == [8, 8] and counted == [2]
    with pytest.raises(PreftuneError, match=r"None of 1 labels can be used"):
        tokenize_labels(labels[1:], LETTERS, max_length=8, truncation_mode="keep_start")


# --- records of tokens ----------------------------------------------------------------------------------


def test_completions_and_lengths_are_there_for_all_kinds() -> None:
    a, b, c = (np.arange(n, dtype=np.int32) for n in (2, 3, 4))
    for record, completions in (
        (TokenPair("x", a, b, c), (b, c)),
        (TokenLabel("x", a, b, True), (b,)),
        (TokenDemonstration("x", a, b, np.array([True, False, True])), (b,)),
    ):
        assert record.completions == completions
        assert record.length == 2 + sum(map(len, completions))


def test_receipts_count_by_kind() -> None:
    demonstrations = tokenize_demonstrations([_talk(*TALK), _text("ab", "cd")], PLAIN)
    receipt = demonstrations.receipt()
    assert receipt["demonstrations"] == 2 and set(receipt["lengths"]) == {"prompt", "completion"}
    assert receipt["total"] == sum(each.length for each in demonstrations.records)
    assert receipt["learned"] == sum(each.learned for each in demonstrations.records) < receipt["total"]
    labels = tokenize_labels([Label(prompt="ab", completion="c", label=True)], PLAIN).receipt()
    assert labels["labels"] == 1 and "learned" not in labels
    assert tokenize_demonstrations([], PLAIN).receipt()["lengths"]["completion"] == {"n": 0}


def test_fingerprints_change_with_label_and_mask() -> None:
    ids = np.arange(3, dtype=np.int32)
    masks = [None, np.array([True, False, True]), np.array([True, True, False])]
    prints = [
        *(fingerprint_tokens([TokenLabel("x", ids, ids, label)]) for label in (True, False)),
        *(fingerprint_tokens([TokenDemonstration("x", ids, ids, mask)]) for mask in masks),
    ]
    assert len(set(prints)) == 5


def test_the_fingerprint_of_pairs_is_the_one_of_earlier_runs() -> None:
    ids = [np.array(numbers, dtype=np.int32) for numbers in ([1, 5], [6, 2], [7, 8, 2])]
    expected = "f592d11cdb695f3f7ab3247e5af6bf8754cdbc4d004f054757ea40793a985d5d"
    assert fingerprint_tokens([TokenPair("x", *ids)]) == expected


# --- making things --------------------------------------------------------------------------------------

TOKENIZERS = {
    (template, merges): make_tokenizer(chat_template=template, merges_spaces=merges)
    for template in (CHAT_TEMPLATE, UNCLOSED, THINKING, RETURNING, OPENED_THOUGHT)
    for merges in (False, True)
}


def _messages(*turns: str) -> tuple[Message, ...]:
    return tuple(Message(role=role, content=content) for role, _, content in (turn.partition(": ") for turn in turns))


def _talk(*turns: str) -> Demonstration:
    return _record(_messages(*turns))


def _record(messages: Any) -> Demonstration:
    first = next(place for place, message in enumerate(messages) if message.role == "assistant")
    return Demonstration(prompt=tuple(messages[:first]), completion=tuple(messages[first:]))


def _text(prompt: str, completion: str) -> Demonstration:
    return Demonstration(prompt=prompt, completion=completion)


def _learned(tokens: TokenDemonstration, tokenizer: Any) -> list[str]:
    """The learned tokens as texts, one for each run of them."""
    mask = np.ones(len(tokens.completion), dtype=bool) if tokens.mask is None else tokens.mask
    places = zip(mask.tolist(), tokens.completion.tolist(), strict=True)
    runs = [(is_learned, [token for _, token in run]) for is_learned, run in groupby(places, key=lambda each: each[0])]
    return [tokenizer.decode(ids) for is_learned, ids in runs if is_learned]
