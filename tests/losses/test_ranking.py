"""The reward model's loss."""

from __future__ import annotations

import math

import pytest
import torch

from preftune.losses import bradley_terry, dpo
from tests.losses.closed_forms import LN_2, columns, softplus, stationary_point

CHOSEN, REJECTED = torch.tensor([2.0, -1.0, 0.5]), torch.tensor([0.5, 1.0, 0.5])


def test_equal_scores_cost_ln_2() -> None:
    assert bradley_terry(CHOSEN, CHOSEN).tolist() == pytest.approx([LN_2] * 3, abs=1e-6)


def test_loss_is_the_published_equation() -> None:
    assert bradley_terry(CHOSEN, REJECTED).tolist() == pytest.approx([softplus(-1.5), softplus(2), LN_2], rel=1e-6)


def test_a_margin_must_be_won_by() -> None:
    margins = torch.tensor([1.0, 2 / 3, 0.0])
    expected = [softplus(-0.5), softplus(2 + 2 / 3), LN_2]
    assert bradley_terry(CHOSEN, REJECTED, margins).tolist() == pytest.approx(expected, rel=1e-6)
    assert bradley_terry(CHOSEN, REJECTED, 0.0).tolist() == bradley_terry(CHOSEN, REJECTED).tolist()


def test_only_differences_count_until_scores_are_centred() -> None:
    plain, shifted = bradley_terry(CHOSEN, REJECTED), bradley_terry(CHOSEN + 64, REJECTED + 64)
    assert shifted.tolist() == pytest.approx(plain.tolist(), rel=1e-6)
    centred = bradley_terry(CHOSEN, REJECTED, center_rewards_coefficient=0.01)
    assert (centred - plain).tolist() == pytest.approx([0.0625, 0.0, 0.01], rel=1e-4, abs=1e-7)
    gap = torch.tensor([1.5], dtype=torch.float64)
    shift = stationary_point(lambda x: bradley_terry(x + gap, x, center_rewards_coefficient=0.01))
    assert shift == pytest.approx(-0.75, abs=1e-9)


def test_smoothed_labels_bound_the_difference() -> None:
    zero = torch.zeros(1, dtype=torch.float64)
    difference = stationary_point(lambda x: bradley_terry(x, zero, label_smoothing=0.1))
    assert difference == pytest.approx(math.log(9), abs=1e-9)


def test_dpo_is_bradley_terry_of_the_implicit_rewards() -> None:
    chosen, rejected, ref_chosen, ref_rejected = columns([(-10, -20, -12, -15), (-5, -5, -5, -5), (-9, -1, -3, -4)])
    rewards = (0.3 * (chosen - ref_chosen), 0.3 * (rejected - ref_rejected))
    expected = dpo(chosen, rejected, ref_chosen, ref_rejected, 0.3, 0.2)
    assert bradley_terry(*rewards, label_smoothing=0.2).tolist() == pytest.approx(expected.tolist(), rel=1e-12)
