"""What the page is given of a model's text: allowed elements and text, whatever the text tries."""

import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preftune.collect.people_texts import LONGEST_MARKDOWN, Rubric, shown_turns, tree_of, visible
from preftune.data.records import Message

ALLOWED = {"p", "ul", "ol", "li", "strong", "em", "del", "code", "pre", "blockquote", "hr", "br", "span", "table"}
ALLOWED |= {"thead", "tbody", "tr", "th", "td", "h3", "h4", "h5", "h6"}


def elements(tree: Any) -> list[list[Any]]:
    found = []
    for node in tree or ():
        if not isinstance(node, str):
            found += [node, *elements(node[2])]
    return found


def words(tree: Any) -> str:
    return "".join(node if isinstance(node, str) else words(node[2]) for node in tree)


def test_markdown_becomes_elements() -> None:
    tree = tree_of("# Title\n\n- a **b**\n- `c`\n\n```py\nx = 1\n```\n\n|h|\n|-|\n|d|\n\n3. three")
    names = [element[0] for element in elements(tree)]
    assert " ".join(names) == "h3 ul li strong li code pre table thead tr th tbody tr td ol li"
    assert elements(tree)[-2][1] == {"start": 3}
    assert ["pre", {}, ["x = 1\n"]] in elements(tree)


def test_a_line_break_of_the_model_is_kept() -> None:
    assert tree_of("one\ntwo") == (["p", {}, ["one", ["br", {}, []], "two"]],)


@pytest.mark.parametrize(
    "hostile",
    [
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "a <b onclick='x()'>b</b>",
        "<!-- hidden --> <style>*{display:none}</style>",
        "&lt;script&gt;alert(1)&lt;/script&gt;",
    ],
)
def test_html_stays_text(hostile: str) -> None:
    tree = tree_of(hostile)
    assert {element[0] for element in elements(tree)} <= {"p", "br"}
    assert "<" in words(tree)


@pytest.mark.parametrize("address", ["javascript:alert(1)", "https://a.example/?q=1", "data:text/html,x"])
def test_links_and_images_are_shown_and_lead_nowhere(address: str) -> None:
    tree = tree_of(f"[click]({address}) ![picture]({address})")
    assert {element[0] for element in elements(tree)} <= {"p", "span"}
    shown = words(tree) + json.dumps([element[1] for element in elements(tree)])
    assert address in shown and "click" in shown and "picture" in shown
    assert all(set(element[1]) <= {"class", "where"} for element in elements(tree))


def test_misleading_characters_are_made_visible() -> None:
    assert visible("a\u202eb\u202dc") == "a⟨right-to-left override⟩b⟨left-to-right override⟩c"
    assert visible("\x00\x1b[31m\x7f\x9b") == "␀␛[31m␡\ufffd"
    assert visible("a\r\nb\rc\u2028d") == "a\nb\nc\nd"
    assert visible("שלום 👩‍👩‍👧 é\t\n") == "שלום 👩‍👩‍👧 é\t\n"


def test_turns_keep_roles_and_what_stands_beside_the_content() -> None:
    turns = shown_turns((Message(role="user", content="hi"), Message.model_validate(TOOL_CALL)), "user")
    assert [turn["role"] for turn in turns] == ["user", "assistant"]
    assert "get_time" in turns[1]["written"]
    assert turns[0] == {"role": "user", "written": "hi", "tree": (["p", {}, ["hi"]],)}


TOOL_CALL = {"role": "assistant", "content": "", "tool_calls": [{"name": "get_time"}]}


@pytest.mark.parametrize(
    "text", ["x" * (LONGEST_MARKDOWN + 1), "*a_ " * 25_000, "[" * 100_000, "word " * 20_000], ids=len
)
def test_what_would_take_long_is_shown_as_written(text: str) -> None:
    assert tree_of(text) is None
    assert shown_turns(text, "user")[0]["written"] == text


def test_a_long_answer_of_many_paragraphs_is_still_formatted() -> None:
    tree = tree_of("\n\n".join(f"## Part {n}\n\n{'Leaves are green. ' * 60}" for n in range(90)))
    assert tree is not None and len(tree) == 180


def test_the_version_of_a_rubric_follows_its_text() -> None:
    assert Rubric("a").version == Rubric("a").version != Rubric("b").version
    assert re.fullmatch(r"sha256:[0-9a-f]{12}", Rubric("a").version)


MARKUP = st.text(alphabet="ab<>/[]()!*_`~#|-:\n \\&;\"'=\u202e\x00", max_size=200)


@settings(max_examples=150, deadline=None)
@given(MARKUP)
def test_any_text_gives_allowed_elements_only(text: str) -> None:
    turn = shown_turns(text, "user")[0]
    found = elements(turn["tree"])
    assert {element[0] for element in found} <= ALLOWED
    assert {name for element in found for name in element[1]} <= {"start", "class", "where"}
    json.dumps(turn)
