"""Rewards by name: what each gives on texts and tokens, and that a row without an answer has none."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from preftune.errors import PreftuneError
from preftune.rewards import functions
from preftune.rewards.functions import FUNCTIONS, TRL_NAMES, text_of

NEEDED: dict[str, dict[str, Any]] = {
    "length": {"max": 10},
    "target_length": {"target": 10},
    "cosine": {"max": 10},
}


def ask(function: Any, texts: list[Any], ids: list[list[int]] | None = None, **columns: list[Any]) -> Any:
    tokens = [[1, 2, 3]] * len(texts) if ids is None else ids
    return function(prompts=["p"] * len(texts), completions=texts, completion_ids=tokens, **columns)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_keeps_the_contract(name: str) -> None:
    """A number or None for each completion, text or chat, other columns passed over, the same twice."""
    function = FUNCTIONS[name](**NEEDED.get(name, {}))
    texts: list[Any] = ["The answer is 4", "", [{"role": "assistant", "content": "4"}], [], "x" * 1000]
    ids = [[1, 2], [], [3], [4] * 30, [5]]
    found = ask(function, texts, ids, answer=["4", "4", None, "4", "4"], other=[1, 2, 3, 4, 5])
    assert len(found) == 5
    assert all(value is None or (isinstance(value, float) and math.isfinite(value)) for value in found)
    assert ask(function, texts, ids, answer=["4", "4", None, "4", "4"]) == found
    assert function.__name__ == name
    assert ask(function, [], [], answer=[]) == []


def test_trls_names_are_known() -> None:
    assert set(TRL_NAMES.values()) <= set(FUNCTIONS)


# --- accuracy -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("column", functions.ANSWER_COLUMNS)
def test_accuracy_reads_the_usual_columns(column: str) -> None:
    found = ask(functions.accuracy(), ["It is 4", "It is 5", "It is 6"], **{column: ["4", "4", None]})
    assert found == [1.0, 0.0, None]


@pytest.mark.parametrize(
    ("answer", "text"),
    [(42, "42"), (0.1, "1/10"), (1e22, "10^22"), (True, "yes"), (["41", "42"], "42"), ((1, 2.5), "5/2"), ("42", "42")],
)
def test_answers_may_be_numbers_verdicts_or_several(answer: Any, text: str) -> None:
    assert ask(functions.accuracy(), [text, "never 17"], answer=[answer, answer]) == [1.0, 0.0]


@pytest.mark.parametrize("absent", [None, "", "  ", [], math.nan])
def test_a_row_without_an_answer_has_no_accuracy(absent: Any) -> None:
    assert ask(functions.accuracy(), ["4", "4"], answer=[absent, "4"]) == [None, 1.0]
    assert ask(functions.accuracy(), ["4"], answer=[absent], solution=["4"]) == [1.0]


def test_data_without_answers_is_refused_not_scored() -> None:
    with pytest.raises(PreftuneError, match=r"no column answer or solution .*other columns: source"):
        ask(functions.accuracy(), ["4"], source=["x"])
    with pytest.raises(PreftuneError, match="no column gold"):
        ask(functions.accuracy(column="gold"), ["4"], answer=["4"])


def test_accuracys_arguments_are_obeyed() -> None:
    assert ask(functions.accuracy(tolerance=0.01), ["0.333"], answer=["1/3"]) == [1.0]
    assert ask(functions.accuracy(tolerance=0.0001), ["0.333"], answer=["1/3"]) == [0.0]
    assert ask(functions.accuracy(column="gold"), ["4"], gold=["4"], answer=["5"]) == [1.0]
    assert ask(functions.accuracy(announced_only=True), ["so 4 it is"], answer=["4"]) == [0.0]


def test_the_words_of_a_conversation_are_the_assistants_last() -> None:
    parts = [{"type": "text", "text": "The answer "}, {"type": "text", "text": "is 4"}]
    turns = [
        {"role": "assistant", "content": "5"},
        {"role": "tool", "content": "6"},
        {"role": "assistant", "content": parts},
    ]
    assert text_of(turns) == "The answer is 4"
    assert text_of([{"role": "assistant", "content": None}]) == text_of([]) == ""


# --- layouts --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "reward"),
    [
        ("<think>a</think><answer>b</answer>", 1.0),
        ("\n<think>\na\n</think>\n\n<answer>\nb\n</answer>\n", 1.0),
        ("<think>1 < 2</think><answer>b</answer>", 1.0),
        ("", 0.0),
        ("b", 0.0),
        ("<think></think><answer>b</answer>", 0.0),
        ("<think>a</think><answer> </answer>", 0.0),
        ("<think>a</think>so<answer>b</answer>", 0.0),
        ("so <think>a</think><answer>b</answer>", 0.0),
        ("<think>a</think><answer>b</answer>.", 0.0),
        ("<think>a</think><answer>b", 0.0),
        ("<answer>b</answer><think>a</think>", 0.0),
        ("<think>a</think><think>a</think><answer>b</answer>", 0.0),
        ("<think>a</think><answer>b</answer><answer>b</answer>", 0.0),
        ("<think>a<think>a</think><answer>b</answer>", 0.0),
    ],
)
def test_the_layout_is_thinking_then_answer(text: str, reward: float) -> None:
    assert ask(functions.format(), [text]) == [reward]


@pytest.mark.parametrize(
    ("template", "good", "bad"),
    [
        ("<think>{}</think>{}", "<think>a</think>b", "<think>a</think>"),
        ("{}\n#### {}", "work\n#### 4", "work"),
        ("Answer: {}", "Answer: 4", "The Answer: 4"),
        ("{}done.", "all is done.", "done. not"),
        ("<a>{}</a> and <b>{}</b>", "<a>1</a> and <b>2</b>", "<a>1</a><b>2</b>"),
    ],
)
def test_a_layout_can_be_given(template: str, good: str, bad: str) -> None:
    assert ask(functions.format(template=template), [good, bad]) == [1.0, 0.0]


@pytest.mark.parametrize("template", ["", "{}", "{}{}", "<a>{}{}</a>", "no holes"])
def test_a_layout_without_text_around_its_holes_is_refused(template: str) -> None:
    with pytest.raises(PreftuneError, match="holes"):
        functions.format(template=template)


# --- lengths and repetition -----------------------------------------------------------------------------


def test_the_overlong_penalty_is_dapos() -> None:
    tokens = [0, 80, 81, 90, 99, 100, 101, 1000]
    found = ask(functions.length(max=100, cache=20), [""] * 8, [[1] * n for n in tokens])
    assert found == pytest.approx([0, 0, -0.05, -0.5, -0.95, -1, -1, -1])
    assert ask(functions.length(max=100), [""] * 2, [[1] * 80, [1] * 90]) == [0.0, -0.5]
    assert ask(functions.length(max=100, cache=0), [""] * 2, [[1] * 100, [1] * 101]) == [0.0, -1.0]


def test_a_target_length_is_best_at_the_target() -> None:
    found = ask(functions.target_length(target=10, width=5), [""] * 5, [[1] * n for n in (10, 12, 8, 15, 100)])
    assert found == pytest.approx([0, -0.4, -0.4, -1, -1])


@given(st.lists(st.integers(0, 5), max_size=30), st.integers(1, 4))
def test_repetition_is_the_share_of_n_grams_seen_before(ids: list[int], n: int) -> None:
    (found,) = ask(functions.repetition(n=n), [""], [ids])
    seen: set[tuple[int, ...]] = set()
    again = 0
    for end in range(n, len(ids) + 1):
        gram = tuple(ids[end - n : end])
        again += gram in seen
        seen.add(gram)
    assert found == pytest.approx(-again / max(1, len(ids) - n + 1))


def test_a_right_answer_earns_more_when_short_and_a_wrong_one_when_long() -> None:
    ids = [[1] * n for n in (0, 50, 100, 200)]
    right = ask(functions.cosine(max=100), ["4"] * 4, ids, answer=["4"] * 4)
    wrong = ask(functions.cosine(max=100), ["5"] * 4, ids, answer=["4"] * 4)
    assert right == pytest.approx([1, 0.75, 0.5, 0.5])
    assert wrong == pytest.approx([-1, -0.75, -0.5, -0.5])
    assert ask(functions.cosine(max=100), ["4"], [[1]], answer=[None]) == [None]


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("length", {}),
        ("length", {"max": 0}),
        ("length", {"max": "many"}),
        ("length", {"max": 10, "cash": 2}),
        ("repetition", {"worst": 1}),
        ("accuracy", {"tolerance": 2}),
        ("cosine", {"max": 10, "right_short": math.inf}),
    ],
)
def test_wrong_arguments_are_refused(name: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        FUNCTIONS[name](**arguments)


# --- parity ---------------------------------------------------------------------------------------------


@pytest.mark.parity
@pytest.mark.parametrize("n", [1, 2, 3])
def test_repetition_and_length_are_trls(n: int) -> None:
    trl = pytest.importorskip("trl.rewards")
    ids = [[1, 2, 3, 4], [5, 5, 5, 5, 5], [1, 2, 1, 2, 1], [], [7] * 90, list(range(97)), [1] * 150]
    theirs = trl.get_repetition_penalty_reward(ngram_size=n, max_penalty=-2.0)(ids)
    assert ask(functions.repetition(n=n, worst=-2.0), [""] * 7, ids) == pytest.approx(theirs)
    theirs = trl.get_soft_overlong_punishment(max_completion_len=100, soft_punish_cache=20)(ids)
    assert ask(functions.length(max=100, cache=20), [""] * 7, ids) == pytest.approx(theirs)


@pytest.mark.parity
def test_the_thinking_layout_is_trls() -> None:
    trl = pytest.importorskip("trl.rewards")
    texts = [
        "<think>\na\n</think>\nb",
        "<think>a</think>",
        "<think>a",
        "a</think>b",
        " <think>a</think>b",
        "<think>a<think>b</think>c",
        "<think>a</think>b<think>c</think>",
        "",
    ]
    theirs = trl.think_format_reward([[{"content": text}] for text in texts])
    assert ask(functions.think_format(), texts) == theirs
