"""Labels, demonstrations and ranked groups in every shape in which they are found."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preftune.data.demonstration_shapes import demonstration_from_row
from preftune.data.label_shapes import label_from_row
from preftune.data.records import Demonstration, Label, Message, asked
from preftune.data.shapes import RowProblem, pair_from_row, pairs_from_group


def user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


def reply(content: str) -> dict[str, str]:
    return {"role": "assistant", "content": content}


SYSTEM = {"role": "system", "content": "Be brief."}
DIALOGUE = [user("hi"), reply("hello"), user("q")]
TRANSCRIPT = "\n\nHuman: hi\n\nAssistant: hello\n\nHuman: q\n\nAssistant:"
ANSWERS = [
    pytest.param({"prompt": "q", "completion": "a"}, ("q", "a"), id="text"),
    pytest.param({"prompt": [user("q")], "completion": [reply("a")]}, ([user("q")], [reply("a")]), id="messages"),
    pytest.param({"prompt": [user("q")], "completion": "a"}, ([user("q")], [reply("a")]), id="text answers messages"),
    pytest.param({"prompt": "q", "completion": [reply("a")]}, ([user("q")], [reply("a")]), id="messages answer text"),
    pytest.param(
        {"prompt": [user("q")], "completion": [user("q"), reply("a")]},
        ([user("q")], [reply("a")]),
        id="prompt repeated",
    ),
    pytest.param(
        {"prompt": "q", "completion": [SYSTEM, user("q"), reply("a")]},
        ([SYSTEM, user("q")], [reply("a")]),
        id="prompt repeated after a system message",
    ),
    pytest.param({"prompt": TRANSCRIPT, "completion": " a"}, (DIALOGUE, [reply("a")]), id="transcript as prompt"),
    pytest.param(
        {"prompt": TRANSCRIPT.removesuffix("\n\nAssistant:"), "completion": "\n\nAssistant: a"},
        (DIALOGUE, [reply("a")]),
        id="speaker in the answer",
    ),
    pytest.param(
        {"prompt": "hi", "completion": "\n\nHuman: hi\n\nAssistant: a"},
        ([user("hi")], [reply("a")]),
        id="text prompt opens the transcript",
    ),
    pytest.param(
        {"prompt": "Write a dialogue.", "completion": "Human: hi\n\nAssistant: a"},
        ("Write a dialogue.", "Human: hi\n\nAssistant: a"),
        id="a dialogue written as an answer",
    ),
]


@pytest.mark.parametrize(("row", "expected"), ANSWERS)
def test_an_answer_is_read_alike_as_label_and_as_demonstration(row: dict[str, Any], expected: tuple[Any, Any]) -> None:
    label, demonstration = label_from_row(row | {"label": True}).as_row(), demonstration_from_row(row).as_row()
    assert (label["prompt"], label["completion"], label["label"]) == (*expected, True)
    assert (demonstration["prompt"], demonstration["completion"]) == expected


def test_a_whole_dialogue_is_judged_by_its_last_answer_and_learned_from_its_first() -> None:
    for completion in (f"{TRANSCRIPT} a", [*DIALOGUE, reply("a")]):
        label = label_from_row({"completion": completion, "label": 1}).as_row()
        assert (label["prompt"], label["completion"]) == (DIALOGUE, [reply("a")])
        for row in ({"completion": completion}, {"messages": completion}):
            demonstration = demonstration_from_row(row)
            assert demonstration.as_row()["messages"] == [*DIALOGUE, reply("a")]
            assert len(demonstration.prompt) == 1 and len(demonstration.completion) == 3


def test_a_greeting_belongs_to_the_prompt_and_no_turn_is_lost() -> None:
    turns = [reply("hello"), reply("well"), user("q"), reply("a"), user("thanks")]
    demonstration = demonstration_from_row({"messages": turns})
    assert demonstration.as_row()["messages"] == turns
    assert len(demonstration.prompt) == 3


def test_plain_text_has_no_prompt_and_is_its_own_key() -> None:
    demonstration = demonstration_from_row({"text": "Once upon a time.\n", "id": 3})
    assert demonstration.is_plain_text and not demonstration.is_conversational
    assert demonstration.as_row() == {"text": "Once upon a time.\n", "id": "3"}
    assert asked(demonstration) == "Once upon a time.\n"
    assert demonstration_from_row({"text": f"{TRANSCRIPT} a"}).completion == f"{TRANSCRIPT} a"


def test_the_first_format_with_a_value_is_read_and_the_rest_kept_in_meta() -> None:
    row = {"prompt": "q", "messages": [user("q"), reply("a")], "text": "q a", "completion": None, "score": 3}
    demonstration = demonstration_from_row(row)
    assert demonstration.as_row()["prompt"] == [user("q")]
    assert demonstration.meta == {"prompt": "q", "text": "q a", "score": 3}
    assert demonstration_from_row(row | {"completion": "b"}).meta["messages"] == row["messages"]


def test_optional_fields_are_those_of_pairs_but_votes_and_margin() -> None:
    row = {"id": 7, "source": {"kind": "log"}, "confidence": 0.75, "margin": 2, "annotators": ["x"]}
    label = label_from_row(row | {"prompt": "q", "completion": "a", "label": False})
    demonstration = demonstration_from_row(row | {"prompt": "q", "completion": "a"})
    for record in (label, demonstration):
        assert (record.id, record.source, record.confidence) == ("7", {"kind": "log"}, 0.75)
        assert record.meta == {"margin": 2, "annotators": ["x"]}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        *((yes, True) for yes in (True, 1, 1.0, "true", "True", " TRUE ", "1", "+1", "1.0")),
        *((no, False) for no in (False, 0, 0.0, -1, -1.0, "false", "FALSE", "0", "-1")),
    ],
)
def test_labels_are_true_or_false_in_any_common_spelling(value: object, expected: bool) -> None:
    assert label_from_row({"prompt": "q", "completion": "a", "label": value}).label is expected


@pytest.mark.parametrize("value", [2, 0.5, -2, "yes", "", "nan", float("nan"), 10**400, [], {}, "good"])
def test_other_labels_are_refused(value: object) -> None:
    with pytest.raises(RowProblem, match=r"bad-value \(label\).*true or false"):
        label_from_row({"prompt": "q", "completion": "a", "label": value})


@pytest.mark.parametrize(
    ("row", "reason", "field"),
    [
        ([], "not-an-object", None),
        ({}, "missing-field", "completion"),
        ({"prompt": "q", "label": True}, "missing-field", "completion"),
        ({"prompt": "q", "completion": "a"}, "missing-field", "label"),
        ({"prompt": "q", "completion": "a", "label": None}, "null-field", "label"),
        ({"completion": "a", "label": True}, "missing-field", "prompt"),
        ({"prompt": None, "completion": "a", "label": True}, "null-field", "prompt"),
        ({"prompt": " ", "completion": "a", "label": True}, "empty-prompt", "prompt"),
        ({"prompt": "q", "completion": "", "label": True}, "empty-completion", "completion"),
        ({"completion": [user("q")], "label": True}, "no-answer", "completion"),
        ({"completion": [], "label": True}, "no-answer", "completion"),
        ({"completion": [reply("a")], "label": True}, "empty-prompt", "prompt"),
        ({"prompt": [user("q")], "completion": [user("q")], "label": True}, "empty-completion", "completion"),
        ({"prompt": "q", "completion": "a", "label": True, "confidence": 2}, "bad-value", "confidence"),
        ({"prompt": "q", "completion": "a\ud800", "label": True}, "not-utf-8", "completion"),
    ],
)
def test_a_row_that_is_no_label_is_refused(row: object, reason: str, field: str | None) -> None:
    with pytest.raises(RowProblem) as caught:
        label_from_row(row)
    assert (caught.value.reason, caught.value.field) == (reason, field)
    assert caught.value.mend


@pytest.mark.parametrize(
    ("row", "reason", "field"),
    [
        (5, "not-an-object", None),
        ({}, "missing-field", "completion"),
        ({"prompt": "q"}, "missing-field", "completion"),
        ({"question": "q"}, "missing-field", "completion"),
        ({"messages": None, "text": None}, "null-field", "messages"),
        ({"text": " "}, "empty-completion", "text"),
        ({"text": [user("q"), reply("a")]}, "wrong-type", "text"),
        ({"text": 3}, "wrong-type", "text"),
        ({"messages": "hello"}, "wrong-type", "messages"),
        ({"messages": {"role": "user"}}, "wrong-type", "messages"),
        ({"messages": [user("q")]}, "no-answer", "messages"),
        ({"messages": []}, "no-answer", "messages"),
        ({"messages": [reply("a")]}, "no-answer", "messages"),
        ({"messages": [user("q"), reply(" ")]}, "empty-completion", "messages"),
        ({"messages": [user(" "), reply("a")]}, "empty-prompt", "prompt"),
        ({"messages": [{"from": "human", "value": "q"}]}, "missing-field", "messages[0].role"),
        ({"prompt": "q", "completion": [user("a")]}, "no-answer", "completion"),
        ({"prompt": "", "completion": "a"}, "empty-prompt", "prompt"),
        ({"completion": "a"}, "missing-field", "prompt"),
    ],
)
def test_a_row_that_is_no_demonstration_is_refused(row: object, reason: str, field: str | None) -> None:
    with pytest.raises(RowProblem) as caught:
        demonstration_from_row(row)
    assert (caught.value.reason, caught.value.field) == (reason, field)
    assert caught.value.mend


# --- there and back -------------------------------------------------------------------------------------

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda text: text.strip())
MESSAGE = st.builds(lambda role, text: Message(role=role, content=text), st.sampled_from(["user", "assistant"]), TEXT)
OPTIONAL = st.fixed_dictionaries(
    {}, optional={"id": TEXT, "source": TEXT, "confidence": st.floats(0, 1), "meta": st.just({"topic": "x"})}
)


@st.composite
def contents(draw: st.DrawFn) -> tuple[Any, Any]:
    if draw(st.booleans()):
        return "Q " + draw(TEXT), "A " + draw(TEXT)  # an answer that repeats its prompt is read differently
    prompt = (*draw(st.lists(MESSAGE, max_size=3)), Message(role="user", content="Q " + draw(TEXT)))
    return prompt, (Message(role="assistant", content="A"), *draw(st.lists(MESSAGE, max_size=3)))


@given(contents(), OPTIONAL, st.booleans())
def test_labels_and_demonstrations_come_back_from_their_rows(
    content: tuple[Any, Any], optional: dict[str, Any], label: bool
) -> None:
    prompt, completion = content
    judged = Label(prompt=prompt, completion=completion, label=label, **optional)
    shown = Demonstration(prompt=prompt, completion=completion, **optional)
    written = Demonstration(prompt="", completion=str(completion), **optional)
    assert label_from_row(json.loads(json.dumps(judged.as_row()))) == judged == label_from_row(judged)
    for record in (shown, written):
        assert demonstration_from_row(json.loads(json.dumps(record.as_row()))) == record
        assert demonstration_from_row(record) == record


# --- groups of ranked answers ---------------------------------------------------------------------------


def pairs_of(row: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    return [(pair.id, pair.as_row()["chosen"], pair.as_row()["rejected"]) for pair in pairs_from_group(row)]


def test_ranked_answers_give_a_pair_for_every_two_of_different_rank() -> None:
    row = {"id": "g", "prompt": "q", "completions": ["c", "a", "b", "d"], "ranks": [2, 1, 2, 3]}
    assert pairs_of(row) == [
        ("g/2-1", "a", "c"),
        ("g/1-4", "c", "d"),
        ("g/2-3", "a", "b"),
        ("g/2-4", "a", "d"),
        ("g/3-4", "b", "d"),
    ]
    ordered = {"id": "g", "prompt": [user("q")], "completions": ["a", "b"], "ranked": True, "margin": 2, "x": 1}
    (pair,) = pairs_from_group(ordered)
    assert (pair.id, pair.margin, pair.meta) == ("g/1-2", 2.0, {"x": 1})
    assert pair.as_row()["chosen"] == [reply("a")]


def test_pairs_of_a_group_without_id_have_their_contents() -> None:
    (pair,) = pairs_from_group({"prompt": "q", "completions": ["a", "b"], "ranks": [1, 2]})
    assert pair.id == pair_from_row({"prompt": "q", "chosen": "a", "rejected": "b"}).id


@pytest.mark.parametrize(
    ("change", "reason", "field"),
    [
        ({"ranks": [1, 1]}, "no-preference", "ranks"),
        ({"ranks": [1]}, "wrong-type", "ranks"),
        ({"ranks": [1, None]}, "null-field", "ranks"),
        ({"ranks": [1, "second"]}, "wrong-type", "ranks[1]"),
        ({"ranks": None, "ranked": False}, "missing-field", "ranks"),
        ({"completions": ["a"]}, "wrong-type", "completions"),
        ({"completions": "ab"}, "wrong-type", "completions"),
        ({"completions": ["a", ""]}, "empty-completion", "completions"),
        ({"completions": ["a", "a "]}, "identical-sides", "completions"),
        ({"prompt": None}, "null-field", "prompt"),
    ],
)
def test_a_group_that_makes_no_sense_is_refused(change: dict[str, Any], reason: str, field: str) -> None:
    with pytest.raises(RowProblem) as caught:
        pairs_from_group({"prompt": "q", "completions": ["a", "b"], "ranks": [1, 2]} | change)
    assert (caught.value.reason, caught.value.field) == (reason, field)
