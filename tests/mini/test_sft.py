"""Supervised fine-tuning by the loop: what the loss is, and that it falls."""

from __future__ import annotations

import math

import pytest
import torch

from preftune.errors import PreftuneError
from preftune.mini import generate, sft_train
from preftune.mini.log_probs import answer_log_probs
from preftune.mini.tokenizer import encode_answer
from tests.mini.tiny import PAIRS, gpt


def test_loss_is_the_mean_over_answer_tokens_not_over_rows() -> None:
    model = gpt()
    rows = ["a", "a much longer text"]
    examples = [encode_answer("", text, 48) for text in rows]
    expected = -float(answer_log_probs(model, examples).sum().detach()) / (2 + 19)
    _, losses = sft_train(model, rows, num_epochs=1, lr=1e-3)
    assert losses == pytest.approx([expected], rel=1e-5)


def test_one_step_over_all_is_the_same_however_long_the_rows() -> None:
    """The gradient of the token mean, taken by hand; AdamW's first step goes against its sign."""
    model, twin = gpt(), gpt()
    examples = [encode_answer("", text, 48) for text in ("a", "a much longer text")]
    (-answer_log_probs(twin, examples).sum() / 21).backward()
    sft_train(model, ["a", "a much longer text"], num_epochs=1, lr=1e-4)
    for moved, before in zip(model.parameters(), twin.parameters(), strict=True):
        assert before.grad is not None
        clear = before.grad.abs() > 1e-5
        step = (moved - before)[clear].detach()
        assert torch.allclose(step, -1e-4 * before.grad[clear].sign(), atol=2e-6)


def test_a_text_is_learned_by_heart_with_its_end() -> None:
    model, losses = sft_train(gpt(), [{"prompt": "Say yes.", "preferred": "yes"}], num_epochs=40, lr=1e-2)
    assert losses[0] == pytest.approx(math.log(256), abs=0.3)
    assert losses[-1] < 0.05
    assert generate(model, ["Say yes."], max_new_tokens=10, temperature=0) == ["yes"]


def test_training_is_the_same_again_and_is_told_step_by_step() -> None:
    heard: list[tuple[int, float]] = []
    runs = [
        sft_train(gpt(), PAIRS, 2, 1e-2, batch_size=3, seed=4, progress=lambda step, f: heard.append((step, f["loss"])))
        for _ in range(2)
    ]
    assert runs[0][1] == runs[1][1]
    assert [step for step, _ in heard] == [1, 2, 3, 4] * 2
    assert sft_train(gpt(), PAIRS, 2, 1e-2, batch_size=3, seed=5)[1] != runs[0][1]


@pytest.mark.parametrize(("name", "settings"), [("num_epochs", {"num_epochs": 0}), ("lr", {"lr": float("nan")})])
def test_settings_that_cannot_be_are_refused(name: str, settings: dict[str, float]) -> None:
    with pytest.raises(PreftuneError) as caught:
        sft_train(gpt(), PAIRS, **settings)  # type: ignore[arg-type]
    assert caught.value.where == name


def test_a_frozen_model_is_refused() -> None:
    with pytest.raises(PreftuneError, match="no weights to train"):
        sft_train(gpt().requires_grad_(False), PAIRS)
