"""log p of an answer against closed forms and the plain sum over tokens."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch

from preftune.mini.log_probs import answer_log_probs, scored_by_length
from preftune.mini.tokenizer import Example, encode_answer
from tests.mini.tiny import gpt

EXAMPLES = [encode_answer(p, a, 48) for p, a in (("Why?", "Because."), ("", ""), ("A longer prompt", "x"), ("", "yes"))]


def _one_by_one(example: Example) -> float:
    logits = gpt()(torch.tensor([example.tokens]))[0].detach().double()
    places = range(example.start, example.length)
    return sum(float(logits[place - 1].log_softmax(-1)[example.tokens[place]]) for place in places)


def test_padded_rows_have_the_sum_over_their_own_tokens() -> None:
    found = answer_log_probs(gpt(), EXAMPLES)
    assert found.tolist() == pytest.approx([_one_by_one(example) for example in EXAMPLES], rel=1e-5)


def test_a_model_that_knows_nothing_gives_every_byte_and_the_end_the_same() -> None:
    model = gpt()
    torch.nn.init.zeros_(model.head.weight)
    expected = [-(len(answer) + 1) * math.log(256) for answer in ("Because.", "", "x", "yes")]
    assert answer_log_probs(model, EXAMPLES).tolist() == pytest.approx(expected, rel=1e-6)


def test_batches_by_length_keep_the_order() -> None:
    model = gpt()
    found = scored_by_length(partial(answer_log_probs, model), EXAMPLES, batch_size=2)
    assert found.tolist() == pytest.approx(answer_log_probs(model, EXAMPLES).tolist(), rel=1e-5)
    assert not found.requires_grad


def test_bfloat16_weights_are_scored_in_float32() -> None:
    assert answer_log_probs(gpt().bfloat16(), EXAMPLES).dtype == torch.float32
