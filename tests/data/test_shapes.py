import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preftune.data.records import Pair
from preftune.data.shapes import RowProblem, pair_from_row, row_from_cells, row_from_texts


def user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


def reply(content: str) -> dict[str, str]:
    return {"role": "assistant", "content": content}


SYSTEM = {"role": "system", "content": "Be brief."}


def content(pair: Pair) -> tuple[Any, Any, Any]:
    row = pair.as_row()
    return row["prompt"], row["chosen"], row["rejected"]


CONVERSATION = ([user("q")], [reply("yes")], [reply("no")])
TRANSCRIPT = "\n\nHuman: hi\n\nAssistant: hello\n\nHuman: q\n\nAssistant:"
DIALOGUE = [user("hi"), reply("hello"), user("q")]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        pytest.param({"prompt": "q", "chosen": "yes", "rejected": "no"}, ("q", "yes", "no"), id="text"),
        pytest.param(
            {"prompt": [user("q")], "chosen": [reply("yes")], "rejected": [reply("no")]},
            CONVERSATION,
            id="messages",
        ),
        pytest.param({"prompt": [user("q")], "chosen": "yes", "rejected": "no"}, CONVERSATION, id="mixed"),
        pytest.param(
            {"chosen": [user("q"), reply("yes")], "rejected": [user("q"), reply("no")]},
            CONVERSATION,
            id="implicit messages",
        ),
        pytest.param(
            {"prompt": "q", "chosen": [reply("yes")], "rejected": [reply("no")]},
            CONVERSATION,
            id="text prompt",
        ),
        pytest.param(
            {"prompt": "q", "chosen": [user("q"), reply("yes")], "rejected": [user("q"), reply("no")]},
            CONVERSATION,
            id="text prompt repeated in the sides",
        ),
        pytest.param(
            {"prompt": [user("q")], "chosen": [user("q"), reply("yes")], "rejected": [reply("no")]},
            CONVERSATION,
            id="prompt repeated in one side",
        ),
        pytest.param(
            {
                "prompt": "q",
                "chosen": [SYSTEM, user("q"), reply("yes")],
                "rejected": [SYSTEM, user("q"), reply("no")],
            },
            ([SYSTEM, user("q")], [reply("yes")], [reply("no")]),
            id="system message only in the sides",
        ),
        pytest.param(
            {"chosen": "Q: is it?\nA: yes", "rejected": "Q: is it?\nA: yellow"},
            ("Q: is it?\nA:", " yes", " yellow"),
            id="implicit text, no word split, space to the completion",
        ),
        pytest.param(
            {"chosen": "Is it?\nyes", "rejected": "Is it?\nyellow"},
            ("Is it?\n", "yes", "yellow"),
            id="implicit text, line break to the prompt",
        ),
        pytest.param(
            {"chosen": f"{TRANSCRIPT} yes", "rejected": f"{TRANSCRIPT} no"},
            (DIALOGUE, [reply("yes")], [reply("no")]),
            id="transcripts",
        ),
        pytest.param(
            {"prompt": TRANSCRIPT, "chosen": " yes", "rejected": " no"},
            (DIALOGUE, [reply("yes")], [reply("no")]),
            id="transcript as prompt",
        ),
        pytest.param(
            {
                "prompt": TRANSCRIPT.removesuffix("\n\nAssistant:"),
                "chosen": "\n\nAssistant: yes",
                "rejected": "\n\nAssistant: no",
            },
            (DIALOGUE, [reply("yes")], [reply("no")]),
            id="transcript as prompt, speaker in the answers",
        ),
        pytest.param(
            {"prompt": TRANSCRIPT, "chosen": f"{TRANSCRIPT} yes", "rejected": f"{TRANSCRIPT} no"},
            (DIALOGUE, [reply("yes")], [reply("no")]),
            id="transcript everywhere",
        ),
        pytest.param(
            {
                "prompt": "hi",
                "chosen": f"{TRANSCRIPT} yes",
                "rejected": "\n\nHuman: hi\n\nAssistant: go away",
            },
            (
                [user("hi")],
                [reply("hello"), user("q"), reply("yes")],
                [reply("go away")],
            ),
            id="text prompt opens the transcripts",
        ),
    ],
)
def test_every_known_shape_is_read(row: dict[str, Any], expected: tuple[Any, Any, Any]) -> None:
    assert content(pair_from_row(row)) == expected


def test_a_dialogue_written_as_an_answer_stays_text() -> None:
    row = {
        "prompt": "Write a dialogue.",
        "chosen": "Human: hi\n\nAssistant: hello",
        "rejected": "Human: hi\n\nAssistant: no",
    }
    assert content(pair_from_row(row)) == tuple(row.values())


def test_dialogues_that_part_at_the_users_turn_go_back_to_the_shared_answer() -> None:
    chosen = [user("q"), reply("a"), user("thanks"), reply("welcome")]
    rejected = [user("q"), reply("a"), user("no"), reply("sorry")]
    expected = ([user("q")], chosen[1:], rejected[1:])
    assert content(pair_from_row({"chosen": chosen, "rejected": rejected})) == expected
    # One dialogue goes on where the other ends: neither completion may be left empty.
    assert content(pair_from_row({"chosen": chosen[:2], "rejected": rejected})) == (
        [user("q")],
        chosen[1:2],
        rejected[1:],
    )


@given(st.text("ab \n", min_size=1), st.text("ab \n"), st.text("ab \n"))
def test_an_implicit_text_prompt_loses_no_character_and_splits_no_word(start: str, left: str, right: str) -> None:
    chosen, rejected = f"{start}{left}", f"{start}{right}"
    try:
        prompt, first, second = content(pair_from_row({"chosen": chosen, "rejected": rejected}))
    except RowProblem as problem:
        assert problem.reason in ("identical-sides", "empty-prompt", "empty-completion")
        return
    assert prompt + first == chosen and prompt + second == rejected
    for completion in (first, second):
        assert prompt.endswith("\n") or completion[0].isspace()


def test_extra_keys_of_messages_are_kept_and_nulls_of_tables_are_not() -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [{"name": "add", "arguments": {"a": 1}}]}
    answer = {"role": "assistant", "content": "3", "tool_calls": None}
    pair = pair_from_row({"prompt": [user("1+2")], "chosen": [call], "rejected": [answer]})
    assert pair.as_row()["chosen"] == [{**call, "content": ""}]
    assert pair.as_row()["rejected"] == [reply("3")]


def test_columns_that_are_not_ours_are_kept_in_meta() -> None:
    row = {
        "prompt": "q",
        "chosen": "a",
        "rejected": "b",
        "score": 3,
        "when": None,
        "meta": {"x": float("nan")},
    }
    assert pair_from_row(row).meta == {"score": 3, "x": None}


@pytest.mark.parametrize(
    ("change", "reason", "field", "says"),
    [
        ({"chosen": None}, "null-field", "chosen", "Give chosen a value"),
        ({"prompt": None}, "null-field", "prompt", "Give prompt a value"),
        ({"prompt": 3}, "wrong-type", "prompt", "it is a number"),
        ({"rejected": {"role": "assistant"}}, "wrong-type", "rejected", "it is an object"),
        ({"rejected": [reply("a")]}, "wrong-type", "rejected", "both text or both lists"),
        ({"chosen": ["a"]}, "wrong-type", "chosen[0]", "not text"),
        (
            {"chosen": [{"from": "gpt", "value": "a"}]},
            "missing-field",
            "chosen[0].role",
            "it has from, value",
        ),
        ({"chosen": [{"role": "assistant", "content": None}]}, "null-field", "chosen[0].content", "content"),
        ({"chosen": [{"role": "assistant", "content": ["a"]}]}, "wrong-type", "chosen[0].content", "a list"),
        ({"chosen": [{"role": " ", "content": "a"}]}, "bad-value", "chosen[0].role", "Name the role"),
        ({"prompt": " \n"}, "empty-prompt", "prompt", "Give the row a prompt"),
        ({"prompt": []}, "empty-prompt", "prompt", "Give the row a prompt"),
        ({"chosen": "\t"}, "empty-completion", "chosen", "Give chosen some text"),
        ({"rejected": "caf\u00e9 ", "chosen": "cafe\u0301"}, "identical-sides", "rejected", "say the same"),
        ({"chosen": "a\ud800"}, "not-utf-8", "chosen", "UTF-8"),
        ({"note": {"deep": ["\udfff"]}}, "not-utf-8", "meta", "UTF-8"),
        ({"id": [1]}, "wrong-type", "id", "whole number"),
        ({"source": 5}, "wrong-type", "source", "text or an object"),
        ({"confidence": 1.5}, "bad-value", "confidence", "less than or equal to 1"),
        ({"confidence": "high"}, "wrong-type", "confidence", "a number"),
        ({"margin": float("inf")}, "bad-value", "margin", "finite"),
        ({"margin": 10**400}, "bad-value", "margin", "finite"),
        ({"margin": True}, "wrong-type", "margin", "true or false"),
        ({"annotators": "Ann"}, "wrong-type", "annotators", "list of votes"),
        ({"annotators": [2, 1]}, "wrong-type", "annotators[0]", "id and choice"),
        ({"annotators": [{"choice": "tie"}]}, "missing-field", "annotators[0].id", "required"),
        ({"annotators": [{"id": 1, "choice": "left"}]}, "bad-value", "annotators[0].choice", "'first'"),
    ],
)
def test_a_bad_field_is_named_with_its_reason_and_mend(
    change: dict[str, Any], reason: str, field: str, says: str
) -> None:
    with pytest.raises(RowProblem) as caught:
        pair_from_row({"prompt": "q", "chosen": "a", "rejected": "b"} | change)
    assert (caught.value.reason, caught.value.field) == (reason, field)
    assert says in caught.value.mend


def test_columns_with_other_names_are_not_guessed() -> None:
    with pytest.raises(RowProblem) as caught:
        pair_from_row({"question": "q", "response_chosen": "a", "response_rejected": "b"})
    assert (caught.value.reason, caught.value.field) == ("missing-field", "chosen")
    assert "question, response_chosen, response_rejected" in caught.value.mend


@pytest.mark.parametrize(
    ("row", "reason", "field"),
    [
        ([], "not-an-object", None),
        ("text", "not-an-object", None),
        (None, "not-an-object", None),
        ({}, "missing-field", "chosen"),
        ({"chosen": "yes", "rejected": "no"}, "empty-prompt", "prompt"),
        ({"chosen": [reply("yes")], "rejected": [reply("no")]}, "empty-prompt", "prompt"),
        ({"chosen": [user("q")], "rejected": [user("q"), reply("no")]}, "empty-completion", "chosen"),
        ({"chosen": f"{TRANSCRIPT}", "rejected": f"{TRANSCRIPT} no"}, "empty-completion", "chosen"),
        (
            {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: c\n\nAssistant: b"},
            "empty-prompt",
            "prompt",
        ),
    ],
)
def test_a_row_of_no_known_shape_is_refused(row: object, reason: str, field: str | None) -> None:
    with pytest.raises(RowProblem) as caught:
        pair_from_row(row)
    assert (caught.value.reason, caught.value.field) == (reason, field)


def test_a_value_nested_without_end_is_refused() -> None:
    deep: list[Any] = []
    for _ in range(5000):
        deep = [deep]
    with pytest.raises(RowProblem, match="bad-value"):
        pair_from_row({"prompt": "q", "chosen": "a", "rejected": "b", "note": deep})


def test_cells_with_messages_are_decoded_and_json_answers_are_not() -> None:
    turns = [reply("yes")]
    cells = {
        "chosen": json.dumps(turns),
        "rejected": '{"a": 1}',
        "prompt": "[1, 2]",
        "meta": '{"k": 1}',
        "x": "[1]",
    }
    decoded = cells | {"chosen": turns, "meta": {"k": 1}}
    assert row_from_cells(cells) == decoded


def test_text_cells_give_numbers_and_drop_empty_options() -> None:
    cells = {"prompt": "", "chosen": "1", "confidence": "0.5", "margin": "wide", "source": ""}
    assert row_from_texts(cells) == {"prompt": "", "chosen": "1", "confidence": 0.5, "margin": "wide"}
