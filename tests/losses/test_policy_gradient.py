"""Losses of PPO, GRPO and their descendants: the policy gradient at the start, clips, weights, any cut of a step."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from preftune.losses import (
    cispo,
    clip_fractions,
    clipped_surrogate,
    divisor,
    gspo_token_log_ratio,
    importance_weights,
    is_clipped,
    sapo,
    sequence_log_ratio,
    sequence_sum_log_ratio,
    token_weights,
)
from preftune.losses.policy_gradient import LossType

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]  # log-probs, old log-probs, advantages

BY_TOKEN: dict[str, Loss] = {
    "clipped_surrogate": lambda new, old, a: clipped_surrogate(new - old, a),
    "clip-higher": lambda new, old, a: clipped_surrogate(new - old, a, 0.2, 0.28),
    "two-sided": lambda new, old, a: clipped_surrogate(new - old, a, delta=4.0),
    "cispo": lambda new, old, a: cispo(new, new - old, a),
    "sapo": lambda new, old, a: sapo(new - old, a),
    "gspo-token": lambda new, old, a: clipped_surrogate(
        gspo_token_log_ratio(new - old, torch.zeros(len(a), dtype=torch.long), 1), a, 3e-4, 4e-4
    ),
}
EVERY = BY_TOKEN | {
    "gspo": lambda new, old, a: clipped_surrogate(
        sequence_log_ratio(new - old, torch.zeros(len(a), dtype=torch.long), 1), a, 3e-4, 4e-4
    ),
}
LOSS_TYPES: tuple[Any, ...] = get_args(LossType)
LOG_RATIOS = st.floats(-50, 50, width=32)
ADVANTAGES = st.floats(-10, 10, width=32)
TOKENS = st.lists(st.tuples(LOG_RATIOS, ADVANTAGES), min_size=1, max_size=5)
SEQUENCE = torch.tensor([0, 0, 0, 2, 2, 3])  # sequence 1 has no tokens
FOUR = torch.tensor([3.0, 0.0, 2.0, 1.0])


@pytest.mark.parametrize("name", BY_TOKEN)
@settings(max_examples=10)
@given(advantages=st.lists(ADVANTAGES, min_size=1, max_size=5))
def test_where_policies_agree_the_gradient_is_the_policy_gradient(name: str, advantages: list[float]) -> None:
    new = torch.linspace(-5, -0.1, len(advantages)).requires_grad_()
    a = torch.tensor(advantages)
    (gradient,) = torch.autograd.grad(BY_TOKEN[name](new, new.detach(), a).sum(), new)
    assert gradient.tolist() == pytest.approx((-a).tolist(), rel=1e-6)


@pytest.mark.parametrize("name", EVERY)
@settings(max_examples=20)
@given(tokens=TOKENS)
def test_loss_and_gradient_are_finite_for_any_log_ratio(name: str, tokens: list[tuple[float, float]]) -> None:
    log_ratio, a = torch.tensor(tokens).unbind(1)
    for factor in (1, 20):
        new = (log_ratio * factor - 100).requires_grad_()
        values = EVERY[name](new, torch.full_like(new, -100.0).detach(), a)
        (gradient,) = torch.autograd.grad(values.sum(), new)
        assert torch.isfinite(values).all()
        assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("name", EVERY)
@settings(max_examples=10)
@given(tokens=TOKENS)
def test_no_advantage_is_no_gradient(name: str, tokens: list[tuple[float, float]]) -> None:
    new = torch.tensor([one for one, _ in tokens]).requires_grad_()
    (gradient,) = torch.autograd.grad(EVERY[name](new, torch.zeros(len(tokens)), torch.zeros(len(tokens))).sum(), new)
    assert gradient.tolist() == [0.0] * len(tokens)


def test_surrogate_is_the_published_equation_in_each_of_its_corners() -> None:
    ratios = torch.tensor([0.5, 0.5, 1.1, 1.1, 1.5, 1.5, 9.0], dtype=torch.float64)
    a = torch.tensor([2.0, -2.0, 2.0, -2.0, 2.0, -2.0, -2.0], dtype=torch.float64)
    assert clipped_surrogate(ratios.log(), a).tolist() == pytest.approx([-1.0, 1.6, -2.2, 2.2, -2.4, 3.0, 18.0])
    higher = clipped_surrogate(ratios.log(), a, 0.3, 0.4)
    assert higher.tolist() == pytest.approx([-1.0, 1.4, -2.2, 2.2, -2.8, 3.0, 18.0])
    assert clipped_surrogate(ratios.log(), a, delta=4.0)[-1].item() == pytest.approx(8.0)


@settings(max_examples=20)
@given(tokens=TOKENS)
def test_tokens_called_clipped_are_those_without_a_gradient(tokens: list[tuple[float, float]]) -> None:
    log_ratio, a = torch.tensor([one for one in tokens if abs(one[1]) > 1e-3] or [(1.0, 1.0)]).unbind(1)
    log_ratio.requires_grad_()
    (gradient,) = torch.autograd.grad(clipped_surrogate(log_ratio, a, 0.1, 0.3).sum(), log_ratio)
    low, high = is_clipped(log_ratio, a, 0.1, 0.3)
    assert (low | high).tolist() == (gradient == 0).tolist()
    assert not (low & high).any()


def test_clip_fractions_count_bad_tokens_that_fell_and_good_ones_that_rose() -> None:
    log_ratio = torch.tensor([0.5, 0.5, 1.5, 1.5, 1.0, 1.25, 0.5, 0.5]).log()
    a = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0, 1.0, -1.0, 0.0])
    assert [share.item() for share in clip_fractions(log_ratio, a, 0.2, 0.3)] == [2 / 8, 1 / 8]


def test_two_sided_clip_stops_a_bad_token_whose_ratio_ran_away() -> None:
    log_ratio = torch.tensor([math.log(3), math.log(9), 1000.0], requires_grad=True)
    values = clipped_surrogate(log_ratio, -torch.ones(3), delta=4.0)
    (gradient,) = torch.autograd.grad(values.sum(), log_ratio)
    assert values.tolist() == pytest.approx([3, 4, 4])
    assert gradient.tolist() == pytest.approx([3, 0, 0])


def test_cispo_keeps_the_gradient_of_tokens_that_ppo_drops() -> None:
    new = torch.tensor([-1.0, -1.0, -1.0], requires_grad=True)
    old, a = torch.tensor([-1.5, -4.0, 0.0]), torch.tensor([1.0, 2.0, -1.0])
    (weighted,) = torch.autograd.grad(cispo(new, new - old, a, epsilon_high=5.0).sum(), new)
    (dropped,) = torch.autograd.grad(clipped_surrogate(new - old, a).sum(), new)
    assert weighted.tolist() == pytest.approx([-math.exp(0.5), -2 * 5, math.exp(-1)])
    assert dropped.tolist() == [0, 0, 0]


def test_sapo_lets_go_smoothly_and_sooner_of_bad_tokens() -> None:
    log_ratio = torch.tensor([0.0, 0.0, math.log(3), math.log(3)], dtype=torch.float64, requires_grad=True)
    a = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64)
    values = sapo(log_ratio, a, 1.0, 2.0)
    (gradient,) = torch.autograd.grad(values.sum(), log_ratio)
    gates = [1 / (1 + math.exp(-2)), 1 / (1 + math.exp(-4))]
    assert values.tolist() == pytest.approx([-2, 1, -4 * gates[0], 2 * gates[1]], rel=1e-6)
    assert gradient.tolist() == pytest.approx(
        [-1, 1, -12 * gates[0] * (1 - gates[0]), 12 * gates[1] * (1 - gates[1])], rel=1e-6
    )


def test_gspo_gives_every_token_the_mean_of_its_sequence() -> None:
    log_ratio = torch.tensor([1.0, 2.0, 6.0, -1.0, 0.0, 5.0])
    for function in (sequence_log_ratio, gspo_token_log_ratio):
        assert function(log_ratio, SEQUENCE, 4).tolist() == [3.0, 3.0, 3.0, -0.5, -0.5, 5.0]


@settings(max_examples=15)
@given(seed=st.integers(0, 99))
def test_both_forms_of_gspo_agree_where_a_sequence_has_one_advantage(seed: int) -> None:
    log_ratio, a = torch.randn(2, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 0.2
    whole, by_token = (_gspo_gradient(function, log_ratio, a[SEQUENCE]) for function in _GSPO)
    assert whole.tolist() == pytest.approx(by_token.tolist(), rel=1e-9, abs=1e-12)
    whole, by_token = (_gspo_gradient(function, log_ratio, a) for function in _GSPO)
    assert (whole - by_token).abs().max() > 1e-3


def test_gspo_token_keeps_each_tokens_own_advantage() -> None:
    log_ratio = torch.zeros(6, dtype=torch.float64)
    a = torch.tensor([1.0, 0.0, -4.0, 2.0, 0.0, 3.0], dtype=torch.float64)
    weights = token_weights("grpo", SEQUENCE, FOUR).double()
    whole, by_token = (_gspo_gradient(function, log_ratio, a) for function in _GSPO)
    assert by_token.tolist() == pytest.approx((-weights * a).tolist())
    assert whole.tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3, -0.5, -0.5, -3.0])


def test_sequence_sums_are_of_whole_sequences_and_zero_for_an_empty_one() -> None:
    log_ratio = torch.tensor([1.0, 2.0, 6.0, -1.0, 0.25, 5.0])
    assert sequence_sum_log_ratio(log_ratio, SEQUENCE, 4).tolist() == [9.0, 0.0, -0.75, 5.0]


def test_rloo_clips_whole_sequences() -> None:
    log_ratio = torch.tensor([0.1, 0.1, 0.1, 0.1, 0.0, -0.1], requires_grad=True)
    a = torch.tensor([1.0, 1.0, 1.0, 1.0])
    values = clipped_surrogate(sequence_sum_log_ratio(log_ratio, SEQUENCE, 4), a)
    (gradient,) = torch.autograd.grad(values.sum(), log_ratio)
    assert values.tolist() == pytest.approx([-1.2, -1, -math.exp(0.1), -math.exp(-0.1)])
    assert gradient.tolist() == pytest.approx([0, 0, 0, -math.exp(0.1), -math.exp(0.1), -math.exp(-0.1)])


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("token_truncate", [0.5, 2.0, 3.0, 0.25, 1.0, 1.0]),
        ("token_mask", [0.5, 2.0, 0.0, 0.0, 1.0, 1.0]),
        ("sequence_truncate", [3.0, 3.0, 3.0, 0.25, 0.25, 1.0]),
        ("sequence_mask", [0.0, 0.0, 0.0, 0.0, 0.0, 1.0]),
    ],
)
def test_importance_weights_of_each_mode(mode: Any, expected: list[float]) -> None:
    ratios = torch.tensor([0.5, 2.0, 6.0, 0.125, 1.0, 1.0])
    found = importance_weights(ratios.log() - 3, torch.full((6,), -3.0), SEQUENCE, 4, mode, cap=3.0, floor=0.25)
    assert found.tolist() == pytest.approx(expected)


def test_default_weights_leave_out_sequences_that_the_sampler_saw_otherwise() -> None:
    train = torch.tensor([-1.0, -1.0, -1.0, -2.0, -2.0, -1.0])
    sampler = train - torch.tensor([0.2, 0.2, 0.2, 0.9, 0.9, -5.0])
    kept = [math.exp(0.6)] * 3 + [0.0] * 2 + [math.exp(-5)]
    assert importance_weights(train, sampler, SEQUENCE, 4).tolist() == pytest.approx(kept)
    assert importance_weights(train, train, SEQUENCE, 4).tolist() == [1.0] * 6


@pytest.mark.parametrize("mode", ["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"])
def test_weights_are_constants_and_an_untold_log_prob_counts_as_equal(mode: Any) -> None:
    train = torch.full((6,), -1.0, requires_grad=True)
    sampler = torch.tensor([-1.0, math.nan, -1.0, math.nan, math.nan, -1e4])
    found = importance_weights(train, sampler, SEQUENCE, 4, mode)
    assert not found.requires_grad
    assert found[:5].tolist() == [1.0] * 5
    assert found[5].item() == (3.0 if mode.endswith("truncate") else 0.0)
    assert torch.isfinite(importance_weights(train, sampler, SEQUENCE, 4, mode, cap=math.inf)).all()


@pytest.mark.parametrize(
    ("loss_type", "expected"),
    [
        ("grpo", (2.0 + 4.5 + 6.0) / 4),  # the mean of each sequence's mean, an empty one counting as 0
        ("sapo", (2.0 + 4.5 + 6.0) / 4),
        ("bnpo", 21.0 / 6),
        ("dapo", 21.0 / 6),
        ("cispo", 21.0 / 6),
        ("dr_grpo", 21.0 / (4 * 10)),
        ("luspo", (6.0 + 9.0 + 6.0) / 4),
    ],
)
def test_a_steps_loss_is_the_mean_its_name_says(loss_type: Any, expected: float) -> None:
    tokens = torch.arange(1.0, 7.0)
    total = (token_weights(loss_type, SEQUENCE, FOUR) * tokens).sum() / divisor(loss_type, FOUR, 10)
    assert total.item() == pytest.approx(expected)


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
@settings(max_examples=15)
@given(lengths=st.lists(st.integers(0, 5), min_size=1, max_size=6).filter(any), cuts=st.sets(st.integers(0, 6)))
def test_any_cut_into_micro_batches_gives_the_same_gradient(loss_type: Any, lengths: list[int], cuts: set[int]) -> None:
    generator = torch.Generator().manual_seed(len(lengths))
    log_ratio, a = torch.randn(2, sum(lengths), generator=generator, dtype=torch.float64) * 0.3
    step_divisor = divisor(loss_type, torch.tensor(lengths), 8)
    edges = sorted({0, len(lengths)} | {cut for cut in cuts if cut < len(lengths)})
    whole = _step_gradient(loss_type, log_ratio, a, lengths, [0, len(lengths)], step_divisor)
    parts = _step_gradient(loss_type, log_ratio, a, lengths, edges, step_divisor)
    assert parts.tolist() == pytest.approx(whole.tolist(), rel=1e-12)


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_a_step_without_tokens_divides_by_no_zero(loss_type: Any) -> None:
    assert divisor(loss_type, torch.zeros(2), 8) > 0
    assert token_weights(loss_type, torch.empty(0, dtype=torch.long), torch.zeros(2)).tolist() == []


def test_an_unknown_loss_type_is_no_silent_default() -> None:
    unknown: Any = "gpro"
    with pytest.raises(KeyError):
        divisor(unknown, FOUR, 8)
    with pytest.raises(KeyError):
        token_weights(unknown, SEQUENCE, FOUR)


_GSPO = (sequence_log_ratio, gspo_token_log_ratio)


def _gspo_gradient(log_ratio_of: Callable[..., Tensor], log_ratio: Tensor, advantages: Tensor) -> Tensor:
    """Gradient of the sum over sequences of each one's mean loss."""
    log_ratio = log_ratio.clone().requires_grad_()
    losses = clipped_surrogate(log_ratio_of(log_ratio, SEQUENCE, 4), advantages, 0.2, 0.3)
    weights = token_weights("grpo", SEQUENCE, FOUR)
    (gradient,) = torch.autograd.grad((weights * losses).sum(), log_ratio)
    return gradient


def _step_gradient(
    loss_type: Any, log_ratio: Tensor, a: Tensor, lengths: list[int], edges: list[int], step_divisor: float
) -> Tensor:
    """Gradient of a step's loss on sequences ``lengths``, in micro-batches from edge to edge."""
    log_ratio = log_ratio.clone().requires_grad_()
    for begin, end in pairwise(edges):
        part = torch.tensor(lengths[begin:end])
        tokens = slice(sum(lengths[:begin]), sum(lengths[:end]))
        sequence = torch.repeat_interleave(torch.arange(len(part)), part)
        spread = (
            sequence_log_ratio(log_ratio[tokens], sequence, len(part)) if loss_type == "luspo" else log_ratio[tokens]
        )
        losses = clipped_surrogate(spread, a[tokens])
        ((token_weights(loss_type, sequence, part) * losses).sum() / step_divisor).backward()
    assert log_ratio.grad is not None
    return log_ratio.grad
