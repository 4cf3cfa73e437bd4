import hashlib
import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from preftune.data.records import Message, Pair, character_count, normal_text
from preftune.data.shapes import pair_from_row

WORDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda text: text.strip())
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=6,
)


def messages(role: str) -> st.SearchStrategy[tuple[Message, ...]]:
    extra = st.dictionaries(st.sampled_from(["name", "tool_calls"]), JSON_VALUES.filter(lambda v: v is not None))
    one = st.builds(lambda text, more: Message(role=role, content=text, **more), WORDS, extra)
    return st.lists(one, min_size=1, max_size=3).map(tuple)


@st.composite
def pairs(draw: st.DrawFn) -> Pair:
    # Sides that cannot be equal, and do not begin with the prompt: those are read differently on purpose.
    if draw(st.booleans()):
        prompt, chosen = "Q " + draw(WORDS), "A " + draw(WORDS)
        rejected = "B " + draw(WORDS)
    else:
        prompt = draw(messages("user"))
        chosen = (*draw(messages("assistant")), Message(role="assistant", content="first"))
        rejected = (*draw(messages("assistant")), Message(role="assistant", content="second"))
    vote = st.fixed_dictionaries(
        {"id": WORDS, "choice": st.sampled_from(["first", "second", "tie", "both_bad"])},
        optional={"seconds": st.floats(0, 1e6)},
    )
    optional = st.fixed_dictionaries(
        {},
        optional={
            "id": WORDS,
            "source": WORDS | st.dictionaries(WORDS, JSON_VALUES, min_size=1, max_size=3),
            "annotators": st.lists(vote, max_size=3),
            "confidence": st.floats(0, 1),
            "margin": st.floats(allow_nan=False, allow_infinity=False),
            "meta": st.dictionaries(st.sampled_from("xyz"), JSON_VALUES, max_size=3),
        },
    )
    return Pair(prompt=prompt, chosen=chosen, rejected=rejected, **draw(optional))


@given(pairs())
def test_a_pair_comes_back_from_its_row_unchanged(pair: Pair) -> None:
    row = json.loads(json.dumps(pair.as_row(), ensure_ascii=False).encode())
    assert pair_from_row(row) == pair
    assert pair_from_row(pair) == pair


def test_the_row_is_trls_with_absent_fields_left_out() -> None:
    text = Pair(prompt="p", chosen="c", rejected="r", id="1")
    chat = pair_from_row({"prompt": "p", "chosen": [turn("c")], "rejected": [turn("r")], "margin": 2, "id": 7})
    assert text.as_row() == {"prompt": "p", "chosen": "c", "rejected": "r", "id": "1"}
    assert chat.as_row() == {
        "prompt": [{"role": "user", "content": "p"}],
        "chosen": [turn("c")],
        "rejected": [turn("r")],
        "margin": 2.0,
        "id": "7",
    }
    assert chat.is_conversational and not text.is_conversational


def test_the_id_is_a_hash_of_the_content_and_nothing_else() -> None:
    plain = Pair(prompt="p", chosen="c", rejected="r")
    assert plain.id == hashlib.sha256(b'["p", "c", "r"]').hexdigest()[:16]
    assert plain.id == Pair(prompt="p", chosen="c", rejected="r", margin=1.0, source="x").id
    assert plain.id != Pair(prompt="p", chosen="r", rejected="c").id


@pytest.mark.parametrize(
    "wrong",
    [
        {"chosen": (Message(role="assistant", content="c"),)},
        {"confidence": 1.5},
        {"margin": float("nan")},
        {"rejected": 3},
        {"unknown": 1},
    ],
)
def test_a_pair_that_makes_no_sense_cannot_be_built(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Pair(**({"prompt": "p", "chosen": "c", "rejected": "r"} | wrong))


def test_a_pair_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        Pair(prompt="p", chosen="c", rejected="r").prompt = "other"


def test_texts_are_compared_without_unicode_form_and_white_space() -> None:
    assert normal_text("cafe\u0301\n  au lait ") == normal_text("caf\u00e9 au\tlait")
    assert normal_text((Message(role="user", content=" hi"),)) == "hi"
    two = (Message(role="user", content="a"), Message(role="assistant", content="b"))
    swapped = (Message(role="assistant", content="a"), Message(role="user", content="b"))
    assert normal_text(two) != normal_text(swapped)
    assert character_count(two) == 2 and character_count("abc") == 3


def turn(content: str, role: str = "assistant") -> dict[str, str]:
    return {"role": role, "content": content}


@given(
    st.text(st.sampled_from(" \t\n\r\x0b\x1c\x85\xa0\u2003\u3000\u200babé") | st.characters(exclude_categories=["Cs"]))
)
def test_normal_text_has_single_spaces_between_words_and_no_other_white_space(text: str) -> None:
    assert normal_text(text) == " ".join(unicodedata.normalize("NFC", text).split())


def test_only_the_plain_space_is_white_and_printable() -> None:
    white = [character for character in map(chr, range(0x110000)) if character.isspace()]
    assert len(white) > 20 and [character for character in white if character.isprintable()] == [" "]
