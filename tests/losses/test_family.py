"""What every loss must keep: its published value at the start, a finite gradient anywhere, a loss an item."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from preftune import losses
from tests.losses.closed_forms import LN_2, columns

Loss = Callable[..., Tensor]

LENGTHS = torch.tensor([7, 3, 12, 1])
OTHER_LENGTHS = torch.tensor([2, 3, 40, 5])


def _sized(loss: Loss, **options: float) -> Loss:
    return lambda *four: loss(*four, LENGTHS[: len(four[0])], OTHER_LENGTHS[: len(four[0])], **options)


PAIRED: dict[str, Loss] = {
    "dpo": losses.dpo,
    "dpo conservative": lambda *four: losses.dpo(*four, label_smoothing=0.2),
    "robust": lambda *four: losses.robust(*four, label_smoothing=0.2),
    "ipo": losses.ipo,
    "ipo by token": lambda *four: losses.ipo(
        *four, chosen_lengths=LENGTHS[: len(four[0])], rejected_lengths=OTHER_LENGTHS[: len(four[0])]
    ),
    "hinge": losses.hinge,
    "sigmoid_norm": _sized(losses.sigmoid_norm),
    "exo_pair": losses.exo_pair,
    "discopop": losses.discopop,
    "length_regularised": _sized(losses.length_regularised, alpha=0.0),
    "dpop": losses.dpop,
    "rpo": lambda *four: losses.rpo(*four, LENGTHS[: len(four[0])]),
    "nca_pair": losses.nca_pair,
    "bco_pair": losses.bco_pair,
    "bco_pair without delta": lambda *four: losses.bco_pair(*four, delta=0.0),
    "sppo_hard": losses.sppo_hard,
    "apo_zero": losses.apo_zero,
    "apo_down": losses.apo_down,
    "aot": losses.aot,
    "aot_unpaired": losses.aot_unpaired,
    "f_dpo forward_kl": lambda *four: losses.f_dpo(*four, divergence="forward_kl"),
    "f_dpo js_divergence": lambda *four: losses.f_dpo(*four, divergence="js_divergence"),
    "f_dpo alpha_divergence": lambda *four: losses.f_dpo(*four, divergence="alpha_divergence"),
}
AT_THE_START = {
    "ipo": 25.0,
    "ipo by token": 25.0,
    "hinge": 1.0,
    "exo_pair": 2.761231,
    "discopop": 0.846574,
    "nca_pair": 1.386294,
    "bco_pair": 1.386294,
    "bco_pair without delta": 1.386294,
    "sppo_hard": 50.0,
    "apo_zero": 1.0,
    "apo_down": 1.0,
}  # every other one: ln 2
WITHOUT_REFERENCE: dict[str, Loss] = {
    "orpo": losses.orpo,
    "simpo": losses.simpo,
    "alphapo": losses.alphapo,
    "cpo": losses.cpo,
    "cpo_hinge": losses.cpo_hinge,
    "cpo_ipo": losses.cpo_ipo,
    "bradley_terry": lambda *two: losses.bradley_terry(*two, margin=0.5, center_rewards_coefficient=0.01),
}
UNPAIRED: dict[str, Loss] = {
    "kto": lambda policy, ref: losses.kto(policy, ref, _labels(policy), kl=1.5),
    "bco": lambda policy, ref: losses.bco(policy, ref, _labels(policy), delta=0.3),
}
EVERY = PAIRED | WITHOUT_REFERENCE | UNPAIRED
# Losses of single tokens keep a contract of their own: test_policy_gradient.py.
ONLINE = {f"preftune.losses.{module}" for module in ("advantages", "kl", "policy_gradient", "value")}
OF_THE_WHOLE_BATCH = {"aot", "aot_unpaired", "bco_pair"}
MONOTONE = [
    "dpo", "robust", "hinge", "sigmoid_norm", "length_regularised", "dpop", "bco_pair without delta", "apo_zero", "aot",
    "aot_unpaired", "f_dpo forward_kl", "f_dpo js_divergence", "f_dpo alpha_divergence", "orpo", "simpo", "alphapo",
    "cpo",
]  # fmt: skip

SUMS = st.floats(-1000, 0, width=32)
BATCHES = st.lists(st.tuples(SUMS, SUMS, SUMS, SUMS), min_size=1, max_size=4)
MODERATE = st.lists(st.tuples(*[st.floats(-30, -0.5)] * 4), min_size=2, max_size=4)


def test_every_loss_of_the_package_keeps_this_contract() -> None:
    not_losses = {
        "alpha_divergence", "divergence_score", "forward_kl", "ipo_target_margin", "js_divergence", "ld_token_weights",
        "log_odds", "log_odds_ratio", "log_ratio_margin", "mismatched_kl", "reverse_kl", "sft",
        "suggested_kto_weights", "token_mean_margin",
    }  # fmt: skip
    of_pairs = {name for name in losses.__all__ if getattr(losses, name).__module__ not in ONLINE}
    assert of_pairs - not_losses == {name.split()[0] for name in EVERY}


@pytest.mark.parametrize("name", PAIRED)
def test_loss_at_the_start_is_the_published_value(name: str) -> None:
    chosen, rejected = torch.tensor([-12.0, -250.25, -3.5]), torch.tensor([-3.0, -80.5, -3.5])
    expected = torch.full((3,), AT_THE_START.get(name, LN_2))
    if name == "rpo":
        expected = expected - chosen / LENGTHS[:3]
    values = PAIRED[name](chosen, rejected, chosen, rejected)
    assert values.tolist() == pytest.approx(expected.tolist(), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("name", EVERY)
@settings(max_examples=12, deadline=None)
@given(rows=BATCHES)
def test_loss_and_gradient_are_finite_for_any_log_probs(
    name: str, dtype: torch.dtype, rows: list[tuple[float, ...]]
) -> None:
    inputs = [column.to(dtype).requires_grad_() for column in columns(rows)[: _arity(name)]]
    values = EVERY[name](*inputs)
    assert values.shape == (len(rows),)
    assert torch.isfinite(values).all()
    assert all(torch.isfinite(gradient).all() for gradient in torch.autograd.grad(values.sum(), inputs))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("name", EVERY)
def test_loss_and_gradient_are_finite_a_thousand_nats_apart(name: str, dtype: torch.dtype) -> None:
    corners = [(-1000, 0, 0, -1000), (0, -1000, -1000, 0), (-1000, -1000, 0, 0), (0, 0, -1000, -1000)]
    inputs = [column.to(dtype).requires_grad_() for column in columns(corners)[: _arity(name)]]
    values = EVERY[name](*inputs)
    gradients = torch.autograd.grad(values.sum(), inputs)
    assert all(torch.isfinite(tensor).all() for tensor in (values, *gradients))


@pytest.mark.parametrize("name", [name for name in EVERY if name not in OF_THE_WHOLE_BATCH])
def test_a_row_has_the_same_loss_alone_and_in_a_batch(name: str) -> None:
    rows = [(-10.0, -20.0, -12.0, -15.0), (-5.0, -5.5, -5.25, -5.0), (-9.0, -1.0, -3.0, -4.0)]
    inputs = columns(rows)[: _arity(name)]
    together = EVERY[name](*inputs)
    if name not in UNPAIRED and "by token" not in name and name not in {"sigmoid_norm", "rpo"}:
        alone = [EVERY[name](*(column[i : i + 1] for column in inputs)).item() for i in range(3)]
        assert together.tolist() == pytest.approx(alone, rel=1e-12)
    elsewhere = EVERY[name](*(torch.cat([column[:1], column[1:] - 0.5]) for column in inputs))
    assert together[0].item() == elsewhere[0].item()


@pytest.mark.parametrize("name", [name for name in PAIRED if name != "rpo"])
@settings(max_examples=15, deadline=None)
@given(rows=MODERATE, shift=st.floats(-20, 20), other=st.floats(-20, 20))
def test_only_ratios_to_the_reference_count(
    name: str, rows: list[tuple[float, ...]], shift: float, other: float
) -> None:
    wins, loses, ref_wins, ref_loses = columns(rows)
    values = PAIRED[name](wins, loses, ref_wins, ref_loses)
    moved = PAIRED[name](wins + shift, loses + other, ref_wins + shift, ref_loses + other)
    assert moved.tolist() == pytest.approx(values.tolist(), rel=1e-7, abs=1e-7)


@pytest.mark.parametrize("name", MONOTONE)
@settings(max_examples=15, deadline=None)
@given(rows=MODERATE)
def test_descent_raises_chosen_and_lowers_rejected(name: str, rows: list[tuple[float, ...]]) -> None:
    inputs = [column.requires_grad_() for column in columns(rows)[: _arity(name)]]
    chosen, rejected = torch.autograd.grad(EVERY[name](*inputs).sum(), inputs[:2])
    assert (chosen <= 0).all()
    assert (rejected >= 0).all()


@pytest.mark.parametrize("name", MONOTONE)
def test_descent_has_a_direction_at_mild_margins(name: str) -> None:
    inputs = [column.requires_grad_() for column in columns([(-10.0, -11.0, -10.5, -10.25)])[: _arity(name)]]
    chosen, rejected = torch.autograd.grad(EVERY[name](*inputs).sum(), inputs[:2])
    assert chosen.item() < 0 < rejected.item()


@pytest.mark.parametrize("name", UNPAIRED)
def test_descent_raises_desirable_and_lowers_undesirable(name: str) -> None:
    policy = torch.tensor([-10.0, -10.0, -4.0, -4.0], requires_grad=True)
    ref = torch.tensor([-12.0, -12.0, -3.0, -3.0])
    (gradient,) = torch.autograd.grad(UNPAIRED[name](policy, ref).sum(), policy)
    assert gradient.sign().tolist() == [-1, 1, -1, 1]


def test_golden_values_are_those_of_the_equations() -> None:
    e = 1e-3
    assert AT_THE_START["exo_pair"] == pytest.approx(-LN_2 - math.log(e * (1 - e)) / 2, abs=1e-6)
    assert AT_THE_START["discopop"] == pytest.approx((LN_2 + 1) / 2, abs=1e-6)
    assert AT_THE_START["nca_pair"] == pytest.approx(2 * LN_2, abs=1e-6)


def _labels(rows: Tensor) -> Tensor:
    return torch.arange(len(rows)) % 2 == 0


def _arity(name: str) -> int:
    return 4 if name in PAIRED else 2
