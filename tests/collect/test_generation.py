"""A model in this process as a writer: what it is asked, how it chooses, and what it cannot take."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from preftune.collect.generation import LocalModel, chat_of, choose_by_reply, chosen_reply, open_local, require_sampling
from preftune.collect.generation import seed_of as seed_for
from preftune.errors import PreftuneError
from preftune.models.settings import ModelConfig
from preftune.rollout.protocol import Sampling
from tests.collect.scripted import Scripted
from tests.tiny_world import World

SAMPLING = Sampling(8)
CHAT = [{"role": "user", "content": "Could you find the river number 3?"}]


@pytest.fixture(scope="module")
def model(world: World) -> LocalModel:
    return open_local(ModelConfig(model=str(world.model), dtype="float32"))


def test_draws_follow_from_the_seed_and_the_place(model: LocalModel) -> None:
    told: list[int] = []
    prompts: list[Any] = ["open it", CHAT]
    first = model.generate(prompts, 3, SAMPLING, 5, told.append)
    assert [len(several) for several in first] == [3, 3] and sum(told) == 6
    assert first == model.generate(prompts, 3, SAMPLING, 5) != model.generate(prompts, 3, SAMPLING, 6)
    assert len({one.text for one in first[0]}) == 3
    for one in (one for several in first for one in several):
        assert one.tokens is not None and 1 <= len(one.tokens) <= 8
        assert one.text == model.tokenizer.decode(one.tokens, skip_special_tokens=True)
        assert one.finished is (one.tokens[-1] == 2)


def test_a_prompt_that_cannot_be_taken_is_a_failure_of_its_own(model: LocalModel) -> None:
    prompts: list[Any] = ["river " * 400, "open it", [{"role": "user", "content": "river " * 400}]]
    found = model.generate(prompts, 2, SAMPLING, 0)
    assert [[one.text is None for one in several] for several in found] == [[True] * 2, [False] * 2, [True] * 2]
    assert "the model has 256 positions" in str(found[0][0].failure) and found[0][0].is_lasting
    assert model.choose(prompts, ("A", "B"))[0] is None and model.choose(prompts, ("A", "B"))[1] is not None
    assert model.generate([prompts[0]], 1, SAMPLING, 0)[0][0].failure


def test_what_the_template_refuses_is_named(model: LocalModel) -> None:
    before = model.tokenizer.chat_template
    try:
        model.tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
        (found,) = model.generate([CHAT], 1, SAMPLING, 0)
    finally:
        model.tokenizer.chat_template = before
    assert "roles must alternate" in str(found[0].failure)


def test_choices_are_the_models_own_probabilities(model: LocalModel) -> None:
    chats = [CHAT, [{"role": "user", "content": "Could you open the door, and then count every stone?"}]]
    found = model.choose(chats, ("A", "B"))
    for chat, choice in zip(chats, found, strict=True):
        text = model.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        ids = model.tokenizer(text, add_special_tokens=False)["input_ids"]
        options = [model.tokenizer(option, add_special_tokens=False)["input_ids"] for option in "AB"]
        assert [len(option) for option in options] == [1, 1]
        with torch.no_grad():
            shares = model.model(torch.tensor([ids])).logits[0, -1].double().softmax(-1)
        a, b = (float(shares[option[0]]) for option in options)
        assert choice is not None and choice.mass == pytest.approx(a + b, rel=1e-4)
        assert choice.probabilities == (pytest.approx(a / (a + b), rel=1e-4), pytest.approx(b / (a + b), rel=1e-4))


def test_many_choices_are_those_of_each_alone(model: LocalModel) -> None:
    chats = [[{"role": "user", "content": "count " * n}] for n in (9, 2, 30, 5, 1, 7, 3, 20, 4, 6, 8)]
    told: list[int] = []
    together = model.choose(chats, ("A", "B"), told.append)
    assert sum(told) == len(chats)
    for chat, choice in zip(chats, together, strict=True):
        (alone,) = model.choose([chat], ("A", "B"))
        assert alone is not None and choice is not None
        assert choice.probabilities == pytest.approx(alone.probabilities, rel=1e-4)


@pytest.mark.parametrize(
    ("reply", "chosen"),
    [("A", 0), (" b.", None), ("(B)", 1), ('"A"', 0), ("A or B", None), ("Answer A", None), ("", None), (None, None)],
)
def test_a_reply_is_an_option_or_none(reply: str | None, chosen: int | None) -> None:
    found = chosen_reply(reply, ("A", "B"))
    assert found is None if chosen is None else found is not None and found.probabilities[chosen] == 1.0


def test_a_writer_without_probabilities_chooses_by_its_reply() -> None:
    found = choose_by_reply(Scripted(lambda prompt, number, seed: prompt), ["A", "B", "neither"], ("A", "B"))
    assert [one and one.probabilities for one in found] == [(1.0, 0.0), (0.0, 1.0), None]


def test_a_text_is_what_a_user_says() -> None:
    assert chat_of("Hi.") == [{"role": "user", "content": "Hi."}] and chat_of(CHAT) == CHAT


def test_no_two_steps_have_one_seed() -> None:
    places = [(block, step) for block in range(20) for step in range(5)]
    assert len({seed_for(1, *place) for place in places} | {seed_for(2, *place) for place in places}) == 200


@pytest.mark.parametrize("sampling", [Sampling(0), Sampling(5, temperature=-1), Sampling(5, top_p=0)])
def test_settings_that_cannot_be_are_refused(sampling: Sampling) -> None:
    with pytest.raises(PreftuneError, match="cannot be drawn"):
        require_sampling(sampling)
