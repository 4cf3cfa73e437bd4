import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preftune.data.records import Demonstration, Label, Message, Pair
from preftune.data.split import leaked_prompts, prompt_key, split_by_prompt
from preftune.errors import PreftuneError


def pair(prompt: str, answer: str = "a") -> Pair:
    return Pair(prompt=prompt, chosen=answer, rejected=f"not {answer}")


GROUPS = st.lists(st.integers(1, 6), min_size=2, max_size=12)


def pairs_of(sizes: list[int]) -> list[Pair]:
    return [pair(f"prompt {group}", f"a{row}") for group, size in enumerate(sizes) for row in range(size)]


@given(GROUPS, st.floats(0.001, 0.999), st.integers())
def test_whole_prompts_go_to_one_side_and_nothing_is_lost(sizes: list[int], fraction: float, seed: int) -> None:
    pairs = pairs_of(sizes)
    train, evaluation = split_by_prompt(pairs, fraction, seed)
    assert train and evaluation
    assert leaked_prompts(train, evaluation) == ()
    assert Counter(each.id for each in (*train, *evaluation)) == Counter(each.id for each in pairs)
    left = Counter(prompt_key(each) for each in train).values()
    held = Counter(prompt_key(each) for each in evaluation)
    is_forced = len(left) == 1 or len(held) == 1
    assert is_forced or abs(len(evaluation) - fraction * len(pairs)) <= min(left) / 2 + 1e-9


@given(GROUPS, st.floats(0.01, 0.99), st.integers(), st.randoms())
def test_the_order_of_rows_does_not_matter(sizes: list[int], fraction: float, seed: int, rng: random.Random) -> None:
    pairs = pairs_of(sizes)
    shuffled = rng.sample(pairs, len(pairs))
    first, second = (split_by_prompt(rows, fraction, seed)[1] for rows in (pairs, shuffled))
    assert {each.id for each in first} == {each.id for each in second}
    assert list(first) == [each for each in pairs if each in first]


def test_single_row_prompts_are_split_exactly_and_by_the_seed() -> None:
    pairs = pairs_of([1] * 200)
    splits = [split_by_prompt(pairs, 0.1, seed)[1] for seed in (0, 0, 1)]
    assert [len(split) for split in splits] == [20, 20, 20]
    assert splits[0] == splits[1] != splits[2]


def test_added_rows_move_few_prompts_to_another_side() -> None:
    before = split_by_prompt(pairs_of([1] * 200), 0.1, 0)[1]
    after = split_by_prompt(pairs_of([1] * 220), 0.1, 0)[1]
    assert len({each.id for each in before} & {each.id for each in after}) >= 15


def test_no_fraction_means_no_evaluation_set() -> None:
    pairs = pairs_of([2, 1])
    assert split_by_prompt(pairs, 0, 0) == (tuple(pairs), ())
    assert split_by_prompt([], 0, 0) == ((), ())


@pytest.mark.parametrize("fraction", [-0.1, 1, 1.5, float("nan")])
def test_a_fraction_that_is_none_is_refused(fraction: float) -> None:
    with pytest.raises(PreftuneError, match="eval_fraction is"):
        split_by_prompt(pairs_of([1, 1]), fraction, 0)


def test_one_prompt_cannot_be_split() -> None:
    with pytest.raises(PreftuneError, match="two different prompts; the data has 1"):
        split_by_prompt([pair("Same"), pair("same "), pair("SAME")], 0.5, 0)


def test_prompts_that_differ_in_form_only_are_one_prompt() -> None:
    spoken = Message(role="user", content="caf\u00e9 au lait")
    answers = {
        "chosen": (Message(role="assistant", content="a"),),
        "rejected": (Message(role="assistant", content="b"),),
    }
    chat = Pair(prompt=(spoken,), **answers)
    system = Pair(prompt=(Message(role="system", content="Be brief."), spoken), **answers)
    assert prompt_key(chat) == prompt_key(pair(" CAFE\u0301  au\nlait")) != prompt_key(system)
    assert leaked_prompts([pair("Cafe\u0301 au Lait")], [chat, system]) == (chat,)


def test_labels_and_demonstrations_are_split_by_their_prompts_too() -> None:
    labels = [Label(prompt=f"q{n // 2}", completion=f"a{n}", label=n % 2 == 0) for n in range(40)]
    texts = [Demonstration(prompt="", completion=f"text {n}") for n in range(20)]
    for records, size in ((labels, 4), (texts, 2)):
        train, evaluation = split_by_prompt(records, 0.1, 0)
        assert len(evaluation) == size and len(train) == len(records) - size
        assert leaked_prompts(train, evaluation) == ()
    assert leaked_prompts(texts[:1], [Demonstration(prompt="", completion=" TEXT  0")]) != ()


def test_conversations_that_begin_alike_share_a_prompt() -> None:
    roles = ("user", "assistant", "user", "assistant")
    turns = tuple(Message(role=role, content=f"{role} {n}") for n, role in enumerate(roles))
    short, long = (Demonstration(prompt=turns[:1], completion=turns[1:end]) for end in (2, 4))
    judged = Label(prompt=turns[:1], completion=turns[1:2], label=False)
    assert prompt_key(short) == prompt_key(long) == prompt_key(judged) == prompt_key(pair("user 0"))
