import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preftune.audit.gram_index import gram_index, shared_grams
from preftune.audit.leakage import audit_leakage
from preftune.audit.shingles import word_grams
from preftune.data.records import Comparison, Label, Pair, PromptRecord
from preftune.data.split import split_by_prompt

VOCABULARY = [f"word{number}" for number in range(3000)]
TEXTS = st.lists(st.sampled_from(["a", "b", "A", " ", "é", "e\u0301", "longer words"]), min_size=1).map("".join)


def text_of(draw: random.Random, words: int = 60) -> str:
    return " ".join(draw.choices(VOCABULARY, k=words))


def pair(name: str, prompt: str, chosen: str = "yes", rejected: str = "no") -> Pair:
    return Pair(id=name, prompt=prompt, chosen=chosen, rejected=rejected)


def some_pairs(n: int, seed: int, prefix: str) -> list[Pair]:
    draw = random.Random(seed)
    return [pair(f"{prefix}{i}", text_of(draw), text_of(draw, 30), text_of(draw, 30)) for i in range(n)]


@settings(max_examples=60)
@given(st.lists(TEXTS, min_size=2, max_size=30), st.integers(0, 5), st.floats(0.1, 0.9))
def test_a_split_by_prompt_leaks_no_prompt(prompts: list[str], seed: int, share: float) -> None:
    rows = [pair(str(i), prompt) for i, prompt in enumerate([*prompts, "the first of two", "the second of two"])]
    train, evaluation = split_by_prompt(rows, share, seed)
    audit = audit_leakage(train, evaluation)
    assert audit.exact.value == 0.0 and audit.exact_prompts == ()
    assert (audit.training, audit.evaluated) == (len(train), len(evaluation))


def test_equal_prompts_are_found_in_any_form() -> None:
    train = [*some_pairs(20, 0, "t"), pair("t-chat", "Was ist ein Café?")]
    evaluation = [*some_pairs(5, 1, "e"), pair("e-1", "was ist ein  Cafe\u0301?"), pair("e-2", "Was ist ein Café?")]
    audit = audit_leakage(iter(train), evaluation)
    assert (audit.exact.value, audit.exact.n) == (pytest.approx(1 / 6), 6)
    (finding,) = audit.findings
    assert (finding.id, finding.severity, finding.rows) == ("leaked-prompts", "error", ("e-1", "e-2"))
    assert finding.examples[0]["why"] == "t-chat: the same prompt"


@pytest.mark.parametrize(
    ("copied", "share"),
    [
        ("Please answer this carefully now: {}", "holds 100%"),
        ("{} Thank you very much for your answer!", "holds 100%"),
        ("{}", "100% of 5-grams"),
    ],
    ids=["with a preface", "with an ending", "with other punctuation"],
)
def test_a_prompt_inside_a_longer_one_is_near(copied: str, share: str) -> None:
    evaluation = some_pairs(10, 1, "e")
    asked = evaluation[3].prompt
    assert isinstance(asked, str)
    train = [*some_pairs(50, 0, "t"), pair("t-near", copied.format(asked.replace(" ", ", ", 1)))]
    audit = audit_leakage(train, evaluation)
    (leak,) = audit.near_prompts
    assert (leak.rows, leak.training) == (("e3",), "t-near")
    assert audit.exact.value == 0.0 and audit.near.value == pytest.approx(0.1)
    (finding,) = audit.findings
    assert (finding.id, finding.severity) == ("near-leaked-prompts", "warning")
    assert "group near prompts" in finding.remedy


def test_one_word_of_sixty_is_near_and_every_tenth_is_not() -> None:
    evaluation = some_pairs(2, 1, "e")
    once, often = (str(record.prompt).split() for record in evaluation)
    once[30] = "other"
    often[::10] = ["other"] * 6
    audit = audit_leakage([pair("once", " ".join(once)), pair("often", " ".join(often))], evaluation)
    assert [(leak.rows, leak.how) for leak in audit.near_prompts] == [(("e0",), "84% of 5-grams")]  # 51 of 61


def test_a_shared_template_is_no_leak() -> None:
    draw = random.Random(0)
    template = text_of(draw, 200)
    train = [pair(f"t{i}", f"{template} {text_of(draw, 12)}") for i in range(60)]
    evaluation = [pair(f"e{i}", f"{template} {text_of(draw, 12)}") for i in range(40)]
    audit = audit_leakage([*train, pair("leak", f"{evaluation[7].prompt} now")], evaluation)
    assert [leak.rows for leak in audit.near_prompts] == [("e7",)]


def test_long_answers_under_another_prompt_are_found() -> None:
    train, evaluation = some_pairs(30, 0, "t"), some_pairs(10, 1, "e")
    stolen = str(evaluation[2].rejected)
    train.append(pair("t-answer", "Something else?", stolen.upper() + ".", "I do not know that."))
    evaluation.append(pair("e-short", "Anything else?", "What do you think?", "I do not know that."))
    audit = audit_leakage(train, evaluation)
    (leak,) = audit.same_answers
    assert (leak.rows, leak.training) == (("e2",), "t-answer")
    assert (audit.answers.value, audit.answers.n) == (pytest.approx(1 / 20), 20)


def test_answers_under_the_same_prompt_are_no_second_finding() -> None:
    evaluation = some_pairs(10, 1, "e")
    audit = audit_leakage(evaluation[:3], evaluation)
    assert [finding.id for finding in audit.findings] == ["leaked-prompts"]
    assert audit.near.value == 0.0


def test_records_of_any_kind_are_held_against_each_other() -> None:
    answer = "a long answer of twelve words at least so that it counts here"
    train = [
        Label(prompt="one", completion=answer, label=True, id="label"),
        Comparison(prompt="two", response_1=answer, response_2="b", id="comparison"),
        PromptRecord(prompt="three", id="prompt"),
    ]
    audit = audit_leakage(train, [pair("e1", "three"), pair("e2", "four", answer, "no")])
    assert [leak.rows for leak in audit.exact_prompts] == [("e1",)]
    assert [(leak.rows, leak.training) for leak in audit.same_answers] == [(("e2",), "label")]


def test_nothing_to_compare_gives_no_figures() -> None:
    audit = audit_leakage([], [])
    assert (audit.exact.value, audit.near.value, audit.findings) == (None, None, ())
    assert audit_leakage([pair("1", "a")], [pair("2", "b")]).findings == ()


@given(
    st.lists(st.lists(st.sampled_from("abc"), max_size=8).map(" ".join), max_size=6),
    st.lists(st.lists(st.sampled_from("abc"), max_size=8).map(" ".join), max_size=6),
)
def test_shared_grams_are_counted_as_sets(indexed: list[str], texts: list[str]) -> None:
    sets = [
        [set(grams.hashes[a:b].tolist()) for a, b in zip(grams.offsets, grams.offsets[1:], strict=False)]
        for grams in (word_grams(indexed, 2), word_grams(texts, 2))
    ]
    expected = {
        (t, i, len(mine & theirs), len(mine), len(theirs))
        for t, mine in enumerate(sets[1])
        for i, theirs in enumerate(sets[0])
        if mine & theirs
    }
    found = shared_grams(gram_index(indexed, 2), texts)
    columns = (found.text, found.indexed, found.shared, found.text_size, found.indexed_size)
    assert set(zip(*(column.tolist() for column in columns), strict=True)) == expected
