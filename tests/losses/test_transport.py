"""AOT's losses: sorted margins, not pairs."""

from __future__ import annotations

import pytest
import torch

from preftune.losses import aot, aot_unpaired, dpo
from tests.losses.closed_forms import columns, softplus

ROWS = [(-10.0, -20.0, -12.0, -15.0), (-6.0, -4.0, -5.0, -8.0), (-9.0, -1.0, -3.0, -4.0)]
# policy margins 10, -2, -8; reference margins 3, 3, 1; log-ratios 2, -1, -6 and -5, 4, 3


def test_aot_compares_quantiles_of_policy_and_reference_margins() -> None:
    expected = [softplus(-0.5 * d) for d in (-8 - 1, -2 - 3, 10 - 3)]
    assert aot(*columns(ROWS), beta=0.5).tolist() == pytest.approx(expected, rel=1e-12)


def test_unpaired_aot_compares_quantiles_of_chosen_and_rejected_ratios() -> None:
    expected = [softplus(-0.5 * d) for d in (-6 + 5, -1 - 3, 2 - 4)]
    assert aot_unpaired(*columns(ROWS), beta=0.5).tolist() == pytest.approx(expected, rel=1e-12)


def test_a_batch_of_one_pair_is_dpo() -> None:
    for row in ROWS:
        for loss in (aot, aot_unpaired):
            alone = loss(*columns([row]), beta=0.3, label_smoothing=0.1).item()
            assert alone == pytest.approx(dpo(*columns([row]), 0.3, 0.1).item(), rel=1e-12)


def test_unpaired_aot_does_not_care_who_was_compared_with_whom() -> None:
    chosen, rejected, ref_chosen, ref_rejected = columns(ROWS)
    mixed = torch.tensor([2, 0, 1])
    shuffled = aot_unpaired(chosen, rejected[mixed], ref_chosen, ref_rejected[mixed])
    assert shuffled.tolist() == aot_unpaired(chosen, rejected, ref_chosen, ref_rejected).tolist()


def test_order_of_the_batch_does_not_matter() -> None:
    for loss in (aot, aot_unpaired):
        assert loss(*columns(ROWS)).tolist() == loss(*columns(ROWS[::-1])).tolist()


def test_gradient_goes_to_the_rank_a_pair_holds() -> None:
    chosen, rejected, ref_chosen, ref_rejected = columns(ROWS)
    chosen.requires_grad_()
    smallest = aot(chosen, rejected, ref_chosen, ref_rejected)[0]
    (gradient,) = torch.autograd.grad(smallest, chosen)
    assert (gradient != 0).tolist() == [False, False, True]
