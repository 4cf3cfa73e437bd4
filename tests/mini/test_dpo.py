"""DPO on the small model: its gradient, its reference, and that held-out accuracy rises in the documented example."""

from __future__ import annotations

import math
import runpy
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from preftune.errors import PreftuneError
from preftune.mini import (
    HELD_OUT_DATA,
    PREFERENCE_DATA,
    MiniGPT,
    copy_model_weights,
    dpo_train,
    evaluate_preference_accuracy,
    sft_train,
)
from preftune.mini.log_probs import answer_log_probs
from preftune.mini.tokenizer import encode_answer
from tests.mini.tiny import PAIRS, gpt, policy_and_reference

ROOT = Path(__file__).parents[2]


def test_the_first_step_starts_at_ln_2_and_no_margin() -> None:
    policy, reference = policy_and_reference()
    _, losses, margins = dpo_train(policy, reference, PAIRS, num_epochs=1)
    assert losses == pytest.approx([math.log(2)], rel=1e-6)
    assert margins == [0.0]


def test_the_first_step_goes_down_the_gradient_of_the_paper() -> None:
    """Where policy and reference agree it is -beta/2 times that of log pi(y_w) - log pi(y_l) (eq. 7's derivative)."""
    policy, reference = policy_and_reference()
    twin = gpt(1)
    sides = [
        encode_answer(row["prompt"], row[side], 48)
        for row in PAIRS
        for side in ("preferred" if "preferred" in row else "chosen", "rejected")
    ]
    log_probs = answer_log_probs(twin, sides).view(-1, 2)
    (-0.1 / 2 * (log_probs[:, 0] - log_probs[:, 1]).mean()).backward()
    dpo_train(policy, reference, PAIRS, num_epochs=1, lr=1e-4, beta=0.1)
    compared = 0
    for moved, before in zip(policy.parameters(), twin.parameters(), strict=True):
        assert before.grad is not None
        clear = before.grad.abs() > 1e-5
        compared += int(clear.sum())
        # AdamW's first step is the learning rate against the gradient's sign
        assert torch.allclose((moved - before)[clear].detach(), -1e-4 * before.grad[clear].sign(), atol=2e-6)
    assert compared > 1000


def test_margins_widen_and_the_loss_falls() -> None:
    policy, reference = policy_and_reference()
    trained, losses, margins = dpo_train(policy, reference, PAIRS, num_epochs=8, lr=1e-3)
    assert trained is policy
    assert losses == sorted(losses, reverse=True) and len(losses) == 8
    assert margins == sorted(margins) and margins[-1] > 0
    assert evaluate_preference_accuracy(policy, reference, PAIRS).value == 1.0


def test_the_reference_stays_bit_for_bit_and_gathers_no_gradient() -> None:
    policy, reference = policy_and_reference()
    before = [weights.clone() for weights in reference.state_dict().values()]
    dpo_train(policy, reference, PAIRS, num_epochs=2, lr=1e-2)
    assert all(map(torch.equal, before, reference.state_dict().values()))
    assert all(p.grad is None and p.requires_grad for p in reference.parameters())


def test_reference_that_moves_stops_the_run() -> None:
    policy, reference = policy_and_reference()

    def push(step: int, figures: Mapping[str, float]) -> None:
        with torch.no_grad():
            reference.head.bias[0] += 1e-6

    with pytest.raises(PreftuneError, match="reference has moved"):
        dpo_train(policy, reference, PAIRS, progress=push)


def test_policy_as_its_own_reference_is_refused() -> None:
    policy = gpt()
    with pytest.raises(PreftuneError, match="are the same object") as caught:
        dpo_train(policy, policy, PAIRS)
    assert "copy_model_weights" in str(caught.value.mend)


def test_reference_that_shares_a_weight_is_refused() -> None:
    policy, reference = policy_and_reference()
    reference.head.bias = policy.head.bias
    with pytest.raises(PreftuneError, match="share 1 of their weights"):
        dpo_train(policy, reference, PAIRS)


def test_a_pair_without_a_field_is_named_before_anything_is_trained() -> None:
    policy, reference = policy_and_reference()
    with pytest.raises(PreftuneError, match="row 5, field 'rejected'"):
        dpo_train(policy, reference, [*PAIRS, {"prompt": "p", "preferred": "a"}])
    with pytest.raises(PreftuneError, match="row 1, field 'prompt'"):
        evaluate_preference_accuracy(policy, reference, [{"preferred": "a", "rejected": "b"}])


@pytest.mark.parametrize("beta", [0.0, -0.1, math.inf])
def test_beta_must_be_above_zero(beta: float) -> None:
    with pytest.raises(PreftuneError, match="beta"):
        dpo_train(*policy_and_reference(), PAIRS, beta=beta)


def test_training_is_the_same_again_and_its_order_comes_from_the_seed() -> None:
    def run(seed: int) -> tuple[list[float], list[torch.Tensor]]:
        policy, reference = policy_and_reference()
        torch.rand(7)  # what is drawn elsewhere is no matter
        _, losses, _ = dpo_train(policy, reference, PAIRS, num_epochs=2, lr=1e-3, batch_size=2, seed=seed)
        return losses, [weights.clone() for weights in policy.state_dict().values()]

    (losses, weights), (again, same), (other, _) = run(0), run(0), run(3)
    assert losses == again != other
    assert all(map(torch.equal, weights, same))


def test_equal_models_tie_on_every_pair_which_counts_one_half() -> None:
    measure = evaluate_preference_accuracy(*policy_and_reference(), PAIRS)
    assert (measure.value, measure.low, measure.high, measure.n) == (0.5, 0.5, 0.5, 4)


def test_accuracy_counts_the_pairs_whose_preferred_side_gained_more() -> None:
    """A policy that likes one byte better than its reference does, and pairs that differ in it."""
    policy, reference = policy_and_reference()
    with torch.no_grad():
        policy.head.bias[ord("y")] += 1.0
    rows = [("y", "n"), ("y", "m"), ("n", "y")]
    pairs = [{"prompt": str(i), "preferred": a, "rejected": b} for i, (a, b) in enumerate(rows)]
    measure = evaluate_preference_accuracy(policy, reference, pairs)
    assert measure.value == pytest.approx(2 / 3)
    assert measure.low < 2 / 3 < measure.high and measure.n == 3


def test_ctrl_c_ends_the_training_as_anywhere_else() -> None:
    policy, reference = policy_and_reference()
    with pytest.raises(KeyboardInterrupt):
        dpo_train(policy, reference, PAIRS, num_epochs=50, progress=lambda step, f: signal.raise_signal(signal.SIGINT))


def test_gradients_that_are_not_finite_are_told_not_hidden() -> None:
    policy, reference = policy_and_reference()
    with torch.no_grad():
        policy.head.bias[0] = math.inf
    with pytest.warns(UserWarning, match="not finite"), pytest.raises(PreftuneError, match="steps in a row"):
        dpo_train(policy, reference, PAIRS, num_epochs=5)


def test_held_out_pairs_share_nothing_with_the_training_pairs() -> None:
    def texts(pairs: list[dict[str, str]], *fields: str) -> set[str]:
        return {pair[field] for pair in pairs for field in fields}

    assert (len(PREFERENCE_DATA), len(HELD_OUT_DATA)) == (96, 96)
    assert not texts(PREFERENCE_DATA, "prompt") & texts(HELD_OUT_DATA, "prompt")
    assert not texts(PREFERENCE_DATA, "preferred") & texts(HELD_OUT_DATA, "preferred")
    for pairs in (PREFERENCE_DATA, HELD_OUT_DATA):
        gaps = [len(pair["preferred"]) - len(pair["rejected"]) for pair in pairs]
        longer_wins = sum((gap > 0) + (gap == 0) / 2 for gap in gaps) / len(gaps)
        assert 0.4 <= longer_wins <= 0.6  # length alone does not tell which side won
        assert all(pair["preferred"] != pair["rejected"] for pair in pairs)


def test_the_documented_example_raises_held_out_accuracy(capsys: pytest.CaptureFixture[str]) -> None:
    found: dict[str, Any] = runpy.run_path(str(ROOT / "examples" / "mini_dpo.py"))
    assert found["before"].value == 0.5
    assert found["after"].value >= 0.65  # 0.73 to 0.83 over nine seeds
    assert found["after"].low > 0.55
    assert found["losses"][-1] < math.log(2)
    assert "held-out accuracy after" in capsys.readouterr().out


@pytest.mark.slow  # a minute and a half
@pytest.mark.parametrize("seed", range(1, 6))
def test_held_out_accuracy_rises_whatever_the_seed(seed: int) -> None:
    policy, reference = MiniGPT(seed=seed), MiniGPT()
    sft_train(policy, PREFERENCE_DATA, num_epochs=3, lr=1e-3, seed=seed)
    copy_model_weights(policy, reference)
    dpo_train(policy, reference, PREFERENCE_DATA, num_epochs=5, lr=5e-6, beta=0.1, seed=seed)
    accuracy = evaluate_preference_accuracy(policy, reference, HELD_OUT_DATA)
    assert accuracy.value >= 0.65
    assert accuracy.low > 0.55


def test_the_page_shows_the_example_as_it_is() -> None:
    assert (ROOT / "examples" / "mini_dpo.py").read_text() in (ROOT / "docs" / "mini.md").read_text()
