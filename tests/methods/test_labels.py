"""Labels: each beside an answer to another prompt, and what a batch of them comes to."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from preftune.data.tokens import TokenLabel
from preftune.errors import PreftuneError
from preftune.methods.labels import LabelItem, mismatched, values_of


def _labels(prompts: list[int]) -> list[TokenLabel]:
    """Label ``i`` answers its prompt with token ``100 + i``."""
    return [
        TokenLabel(str(i), np.array([1, prompt], np.int32), np.array([100 + i], np.int32), i % 2 == 0)
        for i, prompt in enumerate(prompts)
    ]


@pytest.mark.parametrize("seed", range(20))
def test_every_mismatch_is_an_answer_to_another_prompt_and_serves_once(seed: int) -> None:
    draw = random.Random(seed)
    prompts = [p for p in range(draw.randint(3, 30)) for _ in range(draw.randint(1, 4))]
    draw.shuffle(prompts)
    items = mismatched(_labels(prompts), seed)
    if 2 * max(prompts.count(p) for p in prompts) <= len(prompts):
        assert all(prompts[int(item.mismatch[0]) - 100] != int(item.prompt[1]) for item in items)
    assert sorted(int(item.mismatch[0]) for item in items) == [100 + i for i in range(len(prompts))]
    assert [item.id for item in items] == [str(i) for i in range(len(prompts))]


def test_neighbours_of_one_prompt_do_not_serve_each_other() -> None:
    """Pairs read as labels stand in twos: the answer beside is one to the same prompt."""
    items = mismatched(_labels([p for p in range(10) for _ in range(2)]), 0)
    assert all((int(item.mismatch[0]) - 100) // 2 != int(item.id) // 2 for item in items)


def test_mismatches_follow_the_seed() -> None:
    labels = _labels(list(range(30)))
    first, again, other = ([int(item.mismatch[0]) for item in mismatched(labels, seed)] for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_one_prompt_for_all_is_refused() -> None:
    with pytest.raises(PreftuneError, match="same prompt"):
        mismatched(_labels([3, 3, 3]), 0)


def _items(labels: list[bool]) -> list[LabelItem]:
    ids = np.array([1], np.int32)
    return [LabelItem(str(i), ids, ids, ids, label) for i, label in enumerate(labels)]


def test_kl_is_the_mean_over_mismatches_and_not_below_zero() -> None:
    policy = torch.tensor([[-3.0, -5.0], [-2.0, -4.0]], requires_grad=True)
    for reference, expected in (([-6.0, -4.5], 0.75), ([-4.0, -4.0], 0.0)):
        table = torch.tensor([[-1.0, reference[0]], [-1.0, reference[1]]])
        values = values_of(policy, table, _items([True, False]))
        assert float(values.kl) == pytest.approx(expected)
        assert not values.kl.requires_grad
        assert values.labels.tolist() == [True, False]
        assert values.policy.tolist() == [-3.0, -2.0]
