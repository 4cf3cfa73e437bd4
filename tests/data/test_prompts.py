"""Prompts alone: read from rows of their own and from rows with answers, each once, and made tokens."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from preftune.data.read import fingerprint, read_prompts
from preftune.data.records import Demonstration, Message, Pair, PromptRecord
from preftune.data.split import leaked_prompts, split_by_prompt
from preftune.data.tokens import encode_prompt, fingerprint_tokens, tokenize_prompts
from preftune.errors import PreftuneError
from tests.tiny_world import BOS, CHAT_TEMPLATE, EOS, make_tokenizer

PLAIN = make_tokenizer()
REFUSAL = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system turns') }}{% endif %}"


def turn(content: str, role: str = "user") -> dict[str, Any]:
    return {"role": role, "content": content}


# --- rows of their own ----------------------------------------------------------------------------------


def test_other_columns_are_kept_for_reward_functions_and_meta_is_not_one() -> None:
    row = {"prompt": "2 + 2?", "answer": "4", "level": 1, "id": 7, "source": "sums", "meta": {"by": "us"}, "none": None}
    reading = read_prompts([row])
    (record,) = reading.records
    assert (record.prompt, record.id, record.source, record.meta) == ("2 + 2?", "7", "sums", {"by": "us"})
    assert record.columns == {"answer": "4", "level": 1}
    assert (reading.read, reading.rejected, reading.notes) == (1, (), ())


def test_a_prompt_comes_back_from_its_row_unchanged() -> None:
    record = PromptRecord(prompt=(Message(role="user", content="q"),), columns={"tests": [["a", 1]]}, meta={"a": 1})
    assert read_prompts([record.as_row()]).records == (record,) == read_prompts([record]).records
    assert record.is_conversational


def test_the_id_is_a_hash_of_prompt_and_columns() -> None:
    ids = [PromptRecord(prompt="q", columns=columns).id for columns in ({}, {"answer": "4"}, {"answer": "5"})]
    assert len(set(ids)) == 3
    assert ids[0] == PromptRecord(prompt="q", source="elsewhere", meta={"a": 1}).id


def test_a_field_of_the_record_is_no_column() -> None:
    with pytest.raises(ValidationError, match="meta cannot be columns"):
        PromptRecord(prompt="q", columns={"meta": 1, "answer": 2})


def test_transcripts_that_await_an_answer_become_messages() -> None:
    reading = read_prompts([{"prompt": "\n\nHuman: q\n\nAssistant:"}, {"prompt": "Human: no answer here"}])
    assert reading.records[0].prompt == (Message(role="user", content="q"),)
    assert reading.records[1].prompt == (Message(role="user", content="no answer here"),)


@pytest.mark.parametrize(
    ("row", "reason", "field"),
    [
        ({"prompt": None, "answer": "4"}, "null-field", "prompt"),
        ({"prompt": " \n"}, "empty-prompt", "prompt"),
        ({"prompt": []}, "empty-prompt", "prompt"),
        ({"prompt": 3}, "wrong-type", "prompt"),
        ({"prompt": [{"role": "user"}]}, "missing-field", "prompt[0].content"),
        ({"prompt": "q", "answer": "\ud83d"}, "not-utf-8", "answer"),
        ({"question": "q"}, "missing-field", "prompt"),
        ({"text": "plain"}, "empty-prompt", "text"),
        ({"prompt": "q", "completion": "a", "label": "maybe"}, "bad-value", "label"),
        ("q", "not-an-object", None),
    ],
)
def test_a_row_without_a_usable_prompt_is_reported(row: object, reason: str, field: str | None) -> None:
    reading = read_prompts([{"prompt": "good"}, row])
    assert [record.prompt for record in reading.records] == ["good"]
    (rejected,) = reading.rejected
    assert (rejected.reason, rejected.field, rejected.where) == (reason, field, "row 2")
    assert rejected.mend
    with pytest.raises(PreftuneError, match=reason):
        read_prompts([row])


def test_a_column_of_endless_nesting_is_reported() -> None:
    circle: dict[str, Any] = {"prompt": "q"}
    circle["self"] = circle
    assert read_prompts([{"prompt": "q"}, circle]).reasons() == {"bad-value": 1}


# --- rows with answers ----------------------------------------------------------------------------------


def test_pairs_labels_demonstrations_and_groups_give_their_prompts() -> None:
    implicit = {"chosen": [turn("a"), turn("b", "assistant")], "rejected": [turn("a"), turn("c", "assistant")]}
    talk = [turn("be kind", "system"), turn("d"), turn("e", "assistant"), turn("f"), turn("g", "assistant")]
    rows = [
        implicit | {"answer": "42", "margin": 2.0, "annotators": [{"id": "x", "choice": "first"}]},
        {"prompt": "h", "completion": "i", "label": False, "id": "named"},
        {"messages": talk},
        {"prompt": "j", "completions": ["k", "l"], "ranks": [1, 1]},
        {"prompt": "m", "text": "n"},
        Pair(prompt="o", chosen="p", rejected="q"),
        Demonstration(prompt="r", completion="s", id="kept"),
    ]
    reading = read_prompts(rows)
    messages = (Message(role="system", content="be kind"), Message(role="user", content="d"))
    assert [each.prompt for each in reading.records] == [
        (Message(role="user", content="a"),),
        "h",
        messages,
        "j",
        "m",
        "o",
        "r",
    ]
    assert [each.columns for each in reading.records[:4]] == [{"answer": "42"}, {}, {}, {}]
    assert reading.records[1].id == "named" and reading.records[6].id == "kept"
    assert reading.records[5].id == PromptRecord(prompt="o").id
    assert reading.notes == (
        "Read 2 prompts from 2 pairs: the same prompt is read once.",
        "Read 1 prompt from 1 label: the same prompt is read once.",
        "Read 3 prompts from 3 demonstrations: the same prompt is read once.",
        "Read 1 prompt from 1 group: the same prompt is read once.",
    )


def test_several_pairs_of_a_prompt_are_one_prompt_with_what_the_first_says() -> None:
    pairs = [{"prompt": "q", "chosen": f"yes {n}", "rejected": "no", "score": n} for n in range(4)]
    reading = read_prompts([*pairs, {"prompt": "other", "chosen": "a", "rejected": "b"}])
    assert [(each.prompt, each.columns) for each in reading.records] == [("q", {"score": 0}), ("other", {})]
    assert reading.notes == ("Read 2 prompts from 5 pairs: the same prompt is read once.",)
    assert (reading.read, reading.used_rows, reading.rejected) == (5, 5, ())


def test_a_prompt_with_another_right_answer_is_another_prompt() -> None:
    rows = [{"prompt": "q", "answer": answer} for answer in ("1", "2", "1")]
    reading = read_prompts([*rows, {"prompt": "q"}, {"prompt": "q", "chosen": "a", "rejected": "b"}])
    assert [each.columns for each in reading.records] == [{"answer": "1"}, {"answer": "2"}]
    assert reading.notes == (
        "Read 0 prompts from 1 pair: the same prompt is read once.",
        "2 rows repeat a prompt with the same columns, which is read once.",
    )
    assert reading.read == 5


def test_prompts_are_split_and_fingerprinted_with_their_columns() -> None:
    records = read_prompts([{"prompt": f"q{n % 10}", "answer": n} for n in range(20)]).records
    train, evaluation = split_by_prompt(records, 0.2, seed=1)
    assert (len(train), len(evaluation), leaked_prompts(train, evaluation)) == (16, 4, ())
    prints = {fingerprint([PromptRecord(prompt="q", columns=each)]) for each in ({}, {"a": 1}, {"a": 2}, {"b": 1})}
    assert len(prints) == 4
    assert fingerprint([PromptRecord(prompt="q", id="x", meta={"a": 1})]) in prints


# --- tokens ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("adds_bos", [True, False])
@pytest.mark.parametrize("adds_eos", [True, False])
def test_a_prompt_has_the_tokens_that_a_model_is_given_to_answer(adds_bos: bool, adds_eos: bool) -> None:
    tokenizer = make_tokenizer(adds_bos=adds_bos, adds_eos=adds_eos)
    chat = [turn("be kind", "system"), turn("find the river")]
    records = read_prompts([{"prompt": "find it", "answer": 4}, {"prompt": chat}, {"prompt": f"one{EOS}"}]).records
    seen: list[int] = []
    tokens = tokenize_prompts(records, tokenizer, progress=seen.append).records
    assert [each.prompt.tolist() for each in tokens] == [encode_prompt(record, tokenizer) for record in records]
    assert tokenizer.decode(tokens[0].prompt) == BOS * adds_bos + "find it"
    rendered = f"<|system|>\nbe kind{EOS}\n<|user|>\nfind the river{EOS}\n<|assistant|>\n"
    assert tokenizer.decode(tokens[1].prompt) == rendered
    assert tokens[2].prompt[-1] == tokenizer.eos_token_id
    assert (tokens[0].columns, tokens[0].content, tokens[1].content) == ({"answer": 4}, "find it", chat)
    assert (tokens[0].length, tokens[0].completions, sum(seen)) == (len(tokens[0].prompt), (), 3)


def test_an_assistants_last_turn_is_left_open_to_be_continued() -> None:
    (record,) = read_prompts([{"prompt": [turn("count"), turn("one, two,", "assistant")]}]).records
    (tokens,) = tokenize_prompts([record], PLAIN).records
    assert PLAIN.decode(tokens.prompt).endswith("<|assistant|>\none, two,")


def test_long_prompts_are_left_out_whole_and_counted() -> None:
    records = read_prompts([{"prompt": text} for text in ("ab", "x" * 40, "cd")]).records
    lengths = [len(encode_prompt(record, PLAIN)) for record in records]
    tokenized = tokenize_prompts(records, PLAIN, max_length=lengths[0])
    assert [each.id for each in tokenized.records] == [records[0].id, records[2].id]
    (dropped,) = tokenized.dropped
    assert (dropped.id, dropped.reason) == (records[1].id, "prompt-too-long")
    assert f"{lengths[1]} tokens, {lengths[0]} are allowed" in dropped.mend
    receipt = tokenized.receipt()
    assert (receipt["prompts"], receipt["prompts_cut"], receipt["left_out"]) == (2, 0, {"prompt-too-long": 1})
    assert receipt["lengths"]["prompt"]["max"] == lengths[0]


def test_what_no_model_can_answer_is_left_out_and_the_rest_is_used() -> None:
    tokenizer = make_tokenizer(adds_bos=False, chat_template=REFUSAL + CHAT_TEMPLATE)
    refused = PromptRecord(prompt=(Message(role="system", content="be kind"), Message(role="user", content="q")))
    records = [PromptRecord(prompt="ab"), refused, PromptRecord(prompt="")]
    tokenized = tokenize_prompts(records, tokenizer)
    assert [each.id for each in tokenized.records] == [records[0].id]
    assert [each.reason for each in tokenized.dropped] == ["template-refuses", "no-prompt-token"]
    with pytest.raises(PreftuneError, match=r"None of 1 prompts can be used \(template-refuses\).*no system turns"):
        tokenize_prompts([refused], tokenizer)
    with pytest.raises(PreftuneError, match="max_length is 0"):
        tokenize_prompts(records, tokenizer, max_length=0)
    assert tokenize_prompts([], tokenizer).records == ()


def test_the_fingerprint_of_tokens_follows_the_columns() -> None:
    def print_of(**columns: Any) -> str:
        return fingerprint_tokens(tokenize_prompts([PromptRecord(prompt="q", columns=columns)], PLAIN).records)

    assert len({print_of(), print_of(answer="4"), print_of(answer="5"), print_of(solution="4")}) == 4
    assert print_of(answer="4") == print_of(answer="4")
