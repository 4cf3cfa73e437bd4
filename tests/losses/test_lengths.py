"""R-DPO's length term and LD-DPO's token weights."""

from __future__ import annotations

import pytest
import torch

from preftune.losses import dpo, ld_token_weights, length_regularised
from tests.losses.closed_forms import columns, minimiser, softplus

FOUR = columns([(-10, -20, -12, -15), (-6, -4, -5, -8)])


def test_without_alpha_or_between_equal_lengths_r_dpo_is_dpo() -> None:
    long, short = torch.tensor([30, 5]), torch.tensor([10, 8])
    assert length_regularised(*FOUR, long, short, alpha=0).tolist() == dpo(*FOUR).tolist()
    assert length_regularised(*FOUR, long, long, alpha=0.3).tolist() == dpo(*FOUR).tolist()


def test_r_dpo_is_the_published_equation() -> None:
    values = length_regularised(*FOUR, torch.tensor([30, 5]), torch.tensor([10, 8]), beta=0.5, alpha=0.02)
    expected = [softplus(-(0.5 * 7 + 0.02 * 20)), softplus(-(0.5 * -5 + 0.02 * -3))]
    assert values.tolist() == pytest.approx(expected, rel=1e-12)


def test_a_longer_chosen_answer_teaches_less_than_a_shorter_one() -> None:
    policy = torch.zeros(2, requires_grad=True)
    zero = torch.zeros(2)
    values = length_regularised(policy, zero, zero, zero, torch.tensor([40, 10]), torch.tensor([10, 40]))
    (gradient,) = torch.autograd.grad(values.sum(), policy)
    assert abs(gradient[0]) < abs(gradient[1])


def test_r_dpo_finds_the_policy_that_is_best_when_tokens_cost_alpha() -> None:
    """Labels drawn from rewards r: the optimum is pi_ref exp((r - alpha |y|)/beta), as in the paper's derivation."""
    rewards, lengths = torch.tensor([0.0, 0.4, 1.5], dtype=torch.float64), torch.tensor([5, 20, 60])
    ref, beta, alpha = torch.log(torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)), 0.5, 0.02
    wins, loses = torch.tensor([0, 0, 1, 1, 2, 2]), torch.tensor([1, 2, 0, 2, 0, 1])
    chances = torch.sigmoid(rewards[wins] - rewards[loses])

    def expected_loss(logits: torch.Tensor) -> torch.Tensor:
        policy = torch.log_softmax(logits, dim=0)
        four = (policy[wins], policy[loses], ref[wins], ref[loses])
        return (chances * length_regularised(*four, lengths[wins], lengths[loses], beta, alpha)).sum()

    found = torch.softmax(minimiser(expected_loss, 3), dim=0)
    best = torch.softmax(ref + (rewards - alpha * lengths) / beta, dim=0)
    assert found.tolist() == pytest.approx(best.tolist(), abs=1e-5)


def test_tokens_beyond_the_shorter_side_weigh_alpha_and_padding_nothing() -> None:
    chosen, rejected = ld_token_weights(torch.tensor([4, 1, 2]), torch.tensor([2, 3, 2]), tokens=5, alpha=0.25)
    assert chosen.tolist() == [[1, 1, 0.25, 0.25, 0], [1, 0, 0, 0, 0], [1, 1, 0, 0, 0]]
    assert rejected.tolist() == [[1, 1, 0, 0, 0], [1, 0.25, 0.25, 0, 0], [1, 1, 0, 0, 0]]


def test_ld_weights_of_alpha_1_are_the_completion_mask() -> None:
    lengths, others = torch.tensor([4, 0, 2]), torch.tensor([1, 3, 0])
    weights = ld_token_weights(lengths, others, tokens=4, alpha=1.0)
    for side, own in zip(weights, (lengths, others), strict=True):
        assert side.tolist() == (torch.arange(4) < own[:, None]).float().tolist()


def test_ld_dpo_only_changes_the_tail_of_the_longer_side() -> None:
    tokens = -torch.rand(2, 3, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    chosen, rejected = ld_token_weights(torch.tensor([6, 2, 3]), torch.tensor([3, 5, 3]), tokens=6, alpha=0.0)
    assert (tokens[0] * chosen).sum(1).tolist() == pytest.approx(
        [tokens[0, 0, :3].sum().item(), tokens[0, 1, :2].sum().item(), tokens[0, 2, :3].sum().item()]
    )
    assert (tokens[1] * rejected).sum(1)[1].item() == pytest.approx(tokens[1, 1, :2].sum().item())
