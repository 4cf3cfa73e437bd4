import numpy as np
import pytest

from preftune.audit.pair_features import (
    FORMS,
    HASHES,
    embedding_differences,
    form_differences,
    is_refusal,
    length_differences,
    letter_differences,
    word_differences,
)
from preftune.data.records import Message, Pair
from preftune.errors import PreftuneError

LISTED = "# Plan\n\n- one\n- two\n3. three\n\n**Bold** `code` at http://x.y, is it 42? Yes!"
PAIRS = [
    Pair(prompt="q", chosen=LISTED, rejected="I'm sorry, I can't help with that."),
    Pair(prompt="q", chosen="Good good good", rejected="Something quite different, as long as that."),
]
SWAPPED = [pair.model_copy(update={"chosen": pair.rejected, "rejected": pair.chosen}) for pair in PAIRS]


def test_swapped_sides_change_every_sign() -> None:
    pytest.importorskip("sklearn")
    assert form_differences(SWAPPED) == pytest.approx(-form_differences(PAIRS))
    assert length_differences(SWAPPED) == pytest.approx(-length_differences(PAIRS))
    for differences in (word_differences, letter_differences):
        assert abs(differences(SWAPPED) + differences(PAIRS)).max() < 1e-6 < abs(differences(PAIRS)).max()
    embedded = embedding_differences(PAIRS, letters)
    assert embedding_differences(SWAPPED, letters) == pytest.approx(-embedded) and embedded.any()


def test_forms_are_counted() -> None:
    found = {name: round(float(np.expm1(form(LISTED)))) for name, form in FORMS.items() if name in _COUNTS}
    assert found == _COUNTS
    assert (
        FORMS["refusal"](LISTED) == 0
        and FORMS["finished ending"](LISTED) == 1
        and FORMS["finished ending"]("It stops in the") == 0
    )
    assert FORMS["repetition"]("good good bad") == pytest.approx(1 / 3)
    assert all(form("") == 0 for form in FORMS.values())


_COUNTS = {"list items": 3, "headings": 1, "bold": 1, "code": 2, "links": 1, "numbers": 2, "questions": 1}


@pytest.mark.parametrize(
    "text", ["I’m sorry, but no.", "I cannot help with that.", "As an AI language model, I", "Sorry!"]
)
def test_refusals_are_recognised(text: str) -> None:
    assert is_refusal(text)


@pytest.mark.parametrize("text", ["Sure, here it is.", "I can help with that.", "It is a sorry sight.", ""])
def test_answers_are_no_refusals(text: str) -> None:
    assert not is_refusal(text)


def test_length_of_a_side_does_not_weigh_its_words() -> None:
    pytest.importorskip("sklearn")
    pair = Pair(prompt="q", chosen="red " * 50, rejected="blue")
    assert word_differences([pair]).power(2).sum() == pytest.approx(2.0, rel=1e-5)
    assert word_differences([]).shape == (0, HASHES)


def test_messages_are_read_as_their_words() -> None:
    chat = Pair(
        prompt=(Message(role="user", content="q"),),
        chosen=(Message(role="assistant", content=LISTED),),
        rejected=(Message(role="assistant", content="no"),),
    )
    text = Pair(prompt="q", chosen=LISTED, rejected="no")
    assert form_differences([chat]) == pytest.approx(form_differences([text]))


@pytest.mark.parametrize("wrong", [lambda texts: np.zeros(len(texts)), lambda texts: np.full((len(texts), 2), np.nan)])
def test_an_embedding_that_is_none_is_refused(wrong) -> None:
    with pytest.raises(PreftuneError, match="embedding gave"):
        embedding_differences(PAIRS, wrong)


def letters(texts: list[str]) -> np.ndarray:
    return np.array([[text.count(letter) for letter in "aeiou"] for text in texts])
