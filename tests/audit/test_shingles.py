import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from preftune.audit import shingles
from preftune.audit.shingles import distinct, jaccards, word_grams

WORDS = st.lists(st.sampled_from(["a", "b", "cc", "Éa", "7"]), max_size=12)


def grams_of(text: str, n: int) -> set[tuple[str, ...]]:
    """The n-grams by their definition, of a text whose words stand between spaces."""
    words = text.casefold().split()
    if not words:
        return set()
    return {tuple(words[i : i + n]) for i in range(max(len(words) - n + 1, 1))}


@given(st.lists(WORDS, min_size=1, max_size=6), st.integers(1, 5))
def test_grams_are_equal_exactly_where_their_words_are(rows: list[list[str]], n: int) -> None:
    texts = [" ".join(words) for words in rows]
    grams = word_grams(texts, n)
    owners, numbers, _ = distinct(grams)
    found = [set(numbers[owners == i].tolist()) for i in range(len(texts))]
    expected = [grams_of(text, n) for text in texts]
    assert grams.words.tolist() == [len(words) for words in rows]
    for i in range(len(texts)):
        assert len(found[i]) == len(expected[i])
        for j in range(len(texts)):
            assert len(found[i] & found[j]) == len(expected[i] & expected[j])
    same = np.equal.outer(grams.whole, grams.whole)
    assert same.tolist() == [[a == b for b in rows] for a in rows]


@given(WORDS, WORDS, st.integers(1, 3))
def test_jaccard_is_shared_over_all(left: list[str], right: list[str], n: int) -> None:
    texts = [" ".join(left), " ".join(right)]
    one, other = (grams_of(text, n) for text in texts)
    expected = len(one & other) / len(one | other) if one | other else 0.0
    places = np.array([0, 1, 0]), np.array([1, 0, 0])
    found = jaccards(word_grams(texts, n), *places)
    assert found == pytest.approx([expected, expected, 1.0 if one else 0.0])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Hello, world!", "hello  WORLD"),
        ("l'été — déjà", "L E\u0301te\u0301 de\u0301ja\u0300"),
        ("Straße", "STRASSE"),
        ("(a)\n\n**b**", "a b"),
    ],
    ids=["case and punctuation", "Unicode form", "case folding", "markdown"],
)
def test_texts_of_the_same_words_are_one(one: str, other: str) -> None:
    first, second = word_grams([one, other], 5).whole
    assert first == second


@pytest.mark.parametrize(
    ("one", "other"),
    [("a b", "ab"), ("a b", "b a"), ("2 + 3", "2 - 3"), ("👍", "👎"), ("a", "á"), ("", "a"), ("7", "٧")],
)
def test_texts_of_other_words_are_two(one: str, other: str) -> None:
    first, second = word_grams([one, other], 5).whole
    assert first != second


def test_a_script_without_spaces_has_a_word_a_sign() -> None:
    grams = word_grams(["今天天气很好,我们去公园", "안녕 하세요", "ภาษาไทย"], 5)
    assert grams.words.tolist() == [11, 2, 7]
    assert grams.counts.tolist() == [7, 1, 3]


def test_no_text_and_no_word_have_no_grams() -> None:
    assert len(word_grams([], 5).hashes) == 0
    grams = word_grams(["", " \n", "!?"], 5)
    assert (grams.counts.tolist(), grams.words.tolist()) == ([0, 0, 0], [0, 0, 0])


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(0)
    texts = [" ".join(draw.choices("abcdefgh", k=draw.randrange(30))) for _ in range(50)]
    together = word_grams(texts, 3)
    monkeypatch.setattr(shingles, "BLOCK_CHARACTERS", 40)
    apart = word_grams(texts, 3)
    assert (apart.hashes == together.hashes).all() and (apart.whole == together.whole).all()


def test_lone_surrogates_are_read() -> None:
    assert word_grams(["a \ud800 b"], 2).words.tolist() == [2]
