"""The reward model: Bradley and Terry's loss, and an accuracy with its interval."""

from __future__ import annotations

import math

import pytest

from preftune.errors import PreftuneError
from preftune.mini import evaluate_reward_accuracy, score_answers, train_reward_model
from tests.mini.tiny import PAIRS, reward_model


def test_loss_is_bradley_and_terrys_of_the_scores() -> None:
    model = reward_model()
    texts = [(row["prompt"], row[side]) for row in PAIRS for side in row if side != "prompt"]
    scores = score_answers(model, texts)
    gaps = [chosen - rejected for chosen, rejected in zip(scores[::2], scores[1::2], strict=True)]
    _, losses, _ = train_reward_model(model, PAIRS, num_epochs=1)
    assert losses == pytest.approx([sum(math.log1p(math.exp(-gap)) for gap in gaps) / len(gaps)], rel=1e-5)


def test_preferred_answers_come_to_score_higher() -> None:
    model, losses, accuracies = train_reward_model(reward_model(), PAIRS, num_epochs=10, lr=3e-3)
    assert len(losses) == len(accuracies) == 10
    assert losses[-1] < losses[0]
    assert accuracies[-1].value == 1.0 and accuracies[-1].n == len(PAIRS) and accuracies[-1].low < 1.0
    assert evaluate_reward_accuracy(model, PAIRS) == accuracies[-1]
    high, low = score_answers(model, [("Say yes.", "yes"), ("Say yes.", "no")])
    assert high > low


def test_scores_that_are_equal_count_one_half() -> None:
    same = [{"prompt": "p", "preferred": "a", "rejected": "a"}]
    assert evaluate_reward_accuracy(reward_model(), same).value == 0.5


def test_training_is_the_same_again() -> None:
    runs = [train_reward_model(reward_model(), PAIRS, 2, batch_size=2, seed=1)[1:] for _ in range(2)]
    assert runs[0] == runs[1]


def test_a_pair_without_a_field_is_named() -> None:
    with pytest.raises(PreftuneError, match="row 1, field 'preferred'"):
        train_reward_model(reward_model(), [{"prompt": "p", "rejected": "b"}])
