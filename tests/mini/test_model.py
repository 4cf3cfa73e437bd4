"""The model as a function: causal, drawn from its seed, copied whole or not at all."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from preftune.errors import PreftuneError
from preftune.mini import MiniGPT, copy_model_weights
from tests.mini.tiny import gpt, reward_model

TOKENS = torch.tensor([[7, 65, 254, 90, 255]])


def test_sizes_of_the_default_are_those_of_the_signature() -> None:
    model = MiniGPT()
    assert model.max_seq_len == 128
    assert sum(p.numel() for p in model.parameters()) == 875_520


def test_no_token_sees_a_later_one() -> None:
    model, changed = gpt(), TOKENS.clone()
    changed[0, 3:] = 1
    before, after = model(TOKENS), model(changed)
    assert torch.allclose(before[:, :3], after[:, :3], atol=1e-6)
    assert not torch.allclose(before[:, 3:], after[:, 3:], atol=1e-4)


def test_every_token_sees_the_earlier_ones() -> None:
    model, changed = gpt(), TOKENS.clone()
    changed[0, 0] = 8
    assert ((model(TOKENS) - model(changed)).abs().amax(-1) > 1e-4).all()


def test_weights_come_from_the_seed_and_nothing_else_is_drawn() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    one, same, other = gpt(3), gpt(3), gpt(4)
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(one(TOKENS), same(TOKENS))
    assert not torch.equal(one(TOKENS), other(TOKENS))


def test_copies_are_equal_and_share_nothing() -> None:
    source, target = gpt(1), gpt(2)
    copy_model_weights(source, target)
    assert torch.equal(source(TOKENS), target(TOKENS))
    with torch.no_grad():
        source.head.bias.add_(1)
    assert not torch.equal(source(TOKENS), target(TOKENS))


def test_unlike_models_are_refused_before_anything_is_copied() -> None:
    source, target = gpt(1, ff_dim=64), gpt(2)
    before = [weights.clone() for weights in target.state_dict().values()]
    with pytest.raises(PreftuneError, match="differ in"):
        copy_model_weights(source, target)
    assert all(map(torch.equal, before, target.state_dict().values()))


def test_a_reward_model_can_start_from_a_language_models_body() -> None:
    source, target = gpt(1), reward_model(2)
    copy_model_weights(source.body, target.body)
    assert torch.equal(source.body(TOKENS), target.body(TOKENS))


@pytest.mark.parametrize(
    "sizes", [{"vocab_size": 100}, {"num_heads": 3}, {"num_layers": 0}, {"max_seq_len": 1}, {"ff_dim": -1}]
)
def test_sizes_that_cannot_be_are_refused(sizes: dict[str, Any]) -> None:
    with pytest.raises(PreftuneError) as caught:
        gpt(**sizes)
    assert caught.value.where == next(iter(sizes))


def test_a_row_longer_than_the_model_is_refused() -> None:
    with pytest.raises(PreftuneError, match="49 tokens does not fit the model's 48"):
        gpt()(torch.zeros(1, 49, dtype=torch.long))


def test_score_is_read_at_the_last_token_whatever_is_behind_it() -> None:
    model = reward_model()
    padded = torch.cat([TOKENS, torch.tensor([[9, 9]])], dim=1)
    alone, beside = model(TOKENS, torch.tensor([5])), model(padded, torch.tensor([5]))
    assert torch.allclose(alone, beside, atol=1e-6)
    assert not torch.allclose(alone, model(padded, torch.tensor([7])), atol=1e-4)
