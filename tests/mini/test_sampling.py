"""Answers drawn, and the divergence of two models whose tokens are known to be independent."""

from __future__ import annotations

import pytest
import torch

from preftune.errors import PreftuneError
from preftune.mini import MiniGPT, generate, kl_from_reference
from preftune.mini.sampling import draw_answers
from preftune.mini.tokenizer import END
from tests.mini.tiny import gpt

PROMPTS = ["a", "another prompt", "", "x" * 100]


def _coin(odds_of_end: float) -> MiniGPT:
    """A model that gives "a" or the end, whatever came before."""
    model = gpt()
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.fill_(-1e4)
        model.head.bias[ord("a")], model.head.bias[END] = torch.tensor([1 - odds_of_end, odds_of_end]).log()
    return model


def test_answers_end_with_the_end_or_where_they_must() -> None:
    answers = draw_answers(_coin(0.3), PROMPTS * 50, max_new_tokens=8)
    lengths = [len(answer.answer) for answer in answers]
    assert all(1 <= length <= 8 for length in lengths)
    assert all(a.answer[-1] == END for a, length in zip(answers, lengths, strict=True) if length < 8)
    assert all(END not in answer.answer[:-1] for answer in answers)
    expected = (1 - 0.7**8) / 0.3  # of a geometric length cut at eight
    assert sum(lengths) / len(lengths) == pytest.approx(expected, abs=0.5)


def test_the_seed_draws_and_temperature_zero_does_not() -> None:
    model = gpt()
    assert generate(model, PROMPTS, 8, seed=1) == generate(model, PROMPTS, 8, seed=1)
    assert generate(model, PROMPTS, 8, seed=1) != generate(model, PROMPTS, 8, seed=2)
    assert generate(model, PROMPTS, 8, 0, seed=1) == generate(model, PROMPTS, 8, 0, seed=2)


def test_greedy_answers_take_the_likeliest_token_in_any_company() -> None:
    model = gpt()
    alone = [draw_answers(model, [prompt], 8, 0)[0] for prompt in PROMPTS]
    assert draw_answers(model, PROMPTS, 8, 0) == alone
    (example,) = draw_answers(model, ["a"], 3, 0)
    logits = model(torch.tensor([example.tokens]))[0]
    assert list(example.answer) == logits[example.start - 1 : example.length - 1].argmax(-1).tolist()


def test_divergence_from_itself_is_none() -> None:
    measure = kl_from_reference(gpt(1), gpt(1), PROMPTS, 8)
    assert (measure.value, measure.n, measure.unit) == (0.0, 4, "nats")


def test_divergence_is_that_of_a_token_times_the_tokens() -> None:
    policy, reference = _coin(0.3), _coin(0.6)
    prompts = [str(number) for number in range(60)]
    per_token = 0.3 * torch.tensor(0.3 / 0.6).log() + 0.7 * torch.tensor(0.7 / 0.4).log()
    tokens = sum(len(answer.answer) for answer in draw_answers(policy, prompts, 8, seed=3)) / len(prompts)
    measure = kl_from_reference(policy, reference, prompts, 8, seed=3)
    assert measure.value == pytest.approx(float(per_token) * tokens, rel=1e-4)
    assert measure.low < measure.value < measure.high


@pytest.mark.parametrize("most", [0, 48, 100])
def test_more_tokens_than_the_model_has_room_for_are_refused(most: int) -> None:
    with pytest.raises(PreftuneError, match="max_new_tokens"):
        generate(gpt(), PROMPTS, most)
