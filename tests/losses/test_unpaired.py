"""KTO and BCO on single answers, and KTO's weights for unequal numbers of thumbs."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from preftune.errors import PreftuneError
from preftune.losses import apo_zero, bco, bco_pair, kto, mismatched_kl, suggested_kto_weights
from tests.losses.closed_forms import columns, sigmoid, softplus

POLICY = torch.tensor([-10.0, -20.0, -6.0, -4.0], dtype=torch.float64)
REF = torch.tensor([-12.0, -15.0, -5.0, -8.0], dtype=torch.float64)  # log-ratios 2, -5, -1, 4
LABELS = torch.tensor([True, True, False, False])
COUNTS = st.integers(1, 10**7)


def test_kto_at_the_start_is_half_the_weight() -> None:
    values = kto(REF.float(), REF.float(), LABELS, kl=0.0, desirable_weight=1.0, undesirable_weight=1.5)
    assert values.tolist() == pytest.approx([0.5, 0.5, 0.75, 0.75], abs=1e-6)


def test_kto_is_the_published_equation() -> None:
    values = kto(POLICY, REF, LABELS, kl=1.5, beta=0.4, desirable_weight=1.2, undesirable_weight=0.7)
    gains = [1.2 * (1 - sigmoid(0.4 * (r - 1.5))) for r in (2, -5)]
    losses = [0.7 * (1 - sigmoid(0.4 * (1.5 - r))) for r in (-1, 4)]
    assert values.tolist() == pytest.approx(gains + losses, rel=1e-12)


def test_kto_without_kl_is_apo_zero_taken_apart() -> None:
    chosen, rejected = (POLICY[:2], REF[:2]), (POLICY[2:], REF[2:])
    together = apo_zero(chosen[0], rejected[0], chosen[1], rejected[1], beta=0.3)
    apart = kto(POLICY, REF, LABELS, kl=0.0, beta=0.3)
    assert (apart[:2] + apart[2:]).tolist() == pytest.approx(together.tolist(), rel=1e-12)


def test_a_negative_kl_estimate_counts_as_zero() -> None:
    assert kto(POLICY, REF, LABELS, kl=-3.0).tolist() == kto(POLICY, REF, LABELS, kl=0.0).tolist()
    as_tensor = kto(POLICY, REF, LABELS, kl=torch.tensor(-3.0))
    assert as_tensor.tolist() == kto(POLICY, REF, LABELS, kl=torch.tensor(0.0)).tolist()


def test_a_higher_reference_point_asks_more_of_desirable_and_less_of_undesirable() -> None:
    change = kto(POLICY, REF, LABELS, kl=2.0) - kto(POLICY, REF, LABELS, kl=1.0)
    assert change.sign().tolist() == [1, 1, -1, -1]


def test_no_gradient_flows_through_the_reference_point() -> None:
    policy = POLICY.clone().requires_grad_()
    kl = (policy - REF).mean() + 2
    (through,) = torch.autograd.grad(kto(policy, REF, LABELS, kl).sum(), policy)
    (held,) = torch.autograd.grad(kto(policy, REF, LABELS, kl.item()).sum(), policy)
    assert through.tolist() == held.tolist()
    assert not mismatched_kl(policy, REF).requires_grad


def test_mismatched_kl_is_a_mean_that_keeps_its_sign() -> None:
    assert mismatched_kl(POLICY, REF).item() == 0.0
    assert mismatched_kl(POLICY - 1, REF).item() == -1.0


def test_kto_stops_learning_from_answers_far_from_the_reference_point() -> None:
    policy = torch.tensor([-200.0, 0.0, -100.0], requires_grad=True)
    ref = torch.tensor([-100.0, -100.0, -100.0])
    (gradient,) = torch.autograd.grad(kto(policy, ref, torch.tensor([True] * 3), kl=0.0, beta=1.0).sum(), policy)
    assert abs(gradient[0]) < 1e-10
    assert abs(gradient[1]) < 1e-10
    assert gradient[2].item() == pytest.approx(-0.25)


def test_labels_may_be_zeros_and_ones() -> None:
    assert kto(POLICY, REF, LABELS.int(), kl=0.5).tolist() == kto(POLICY, REF, LABELS, kl=0.5).tolist()


@given(COUNTS, COUNTS)
def test_suggested_weights_keep_the_ratio_of_the_rule(desirable: int, undesirable: int) -> None:
    weights = suggested_kto_weights(desirable, undesirable)
    ratio = weights[0] * desirable / (weights[1] * undesirable)
    assert 1 - 1e-9 <= ratio <= 4 / 3 + 1e-9
    assert min(weights) == 1.0


@pytest.mark.parametrize(
    ("counts", "weights"),
    [((100, 100), (1, 1)), ((4, 3), (1, 1)), ((100, 200), (2, 1)), ((300, 100), (1, 3)), ((99, 100), (100 / 99, 1))],
)
def test_suggested_weights_raise_the_scarcer_side(counts: tuple[int, int], weights: tuple[float, float]) -> None:
    assert suggested_kto_weights(*counts) == pytest.approx(weights)


@pytest.mark.parametrize(("counts", "missing"), [((0, 5), "no desirable"), ((5, 0), "no undesirable")])
def test_a_side_without_examples_is_named(counts: tuple[int, int], missing: str) -> None:
    with pytest.raises(PreftuneError, match=missing):
        suggested_kto_weights(*counts)


def test_bco_is_the_published_equation() -> None:
    values = bco(POLICY, REF, LABELS, delta=0.25, beta=0.1)
    expected = [softplus(-(0.2 - 0.25)), softplus(-(-0.5 - 0.25)), softplus(-0.1 - 0.25), softplus(0.4 - 0.25)]
    assert values.tolist() == pytest.approx(expected, rel=1e-12)


@settings(max_examples=20, deadline=None)
@given(st.tuples(*[st.floats(-50, 0)] * 4), st.floats(-2, 2))
def test_bco_of_both_sides_is_bco_of_the_pair(row: tuple[float, ...], delta: float) -> None:
    chosen, rejected, ref_chosen, ref_rejected = columns([row])
    apart = bco(torch.cat([chosen, rejected]), torch.cat([ref_chosen, ref_rejected]), LABELS[1:3], delta)
    together = bco_pair(chosen, rejected, ref_chosen, ref_rejected, delta=delta)
    assert apart.sum().item() == pytest.approx(together.item(), rel=1e-12)
