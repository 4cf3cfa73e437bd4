"""Confidence as a soft label: the loss expected where a label is right with that probability."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from preftune import losses
from preftune.errors import PreftuneError
from preftune.methods.dpo import DPOConfig, dpo_method
from preftune.methods.pairs import PairValues, expected_losses
from preftune.methods.rankings import Ranking, ranking_step
from tests.methods.tiny_runs import FULL, curves, run
from tests.tiny_world import World, read_rows, write_rows

QUIET = {"num_samples": 0, "num_completions": 0, "eval_strategy": "no", "num_train_epochs": 1}


def values(seed: int = 0, pairs: int = 5) -> PairValues:
    draw = torch.Generator().manual_seed(seed)
    policy, reference, nll = (-5 * torch.rand(pairs, 2, generator=draw) for _ in range(3))
    return PairValues(policy, reference, torch.full((pairs, 2), 4.0), -nll)


@pytest.mark.parametrize("flipped", [0.1, 0.3])
def test_one_confidence_for_all_is_cdpo(flipped: float) -> None:
    plain, smoothed = (dpo_method(DPOConfig(model="m", label_smoothing=one)) for one in (0.0, flipped))
    found = expected_losses(plain, values(), torch.full((5,), 1 - flipped))
    assert found == pytest.approx(smoothed.losses(values()))


@pytest.mark.parametrize("loss", ["sigmoid", "ipo", "hinge", "apo_zero", "sft"])
def test_certain_labels_are_plain_ones_and_impossible_ones_are_turned(loss: str) -> None:
    method = dpo_method(DPOConfig(model="m", loss_type=(loss,)))
    assert expected_losses(method, values(), torch.ones(5)) == pytest.approx(method.losses(values()))
    assert expected_losses(method, values(), torch.zeros(5)) == pytest.approx(method.losses(values().turned))


def test_a_reward_models_loss_is_that_of_a_smoothed_label() -> None:
    scores = torch.tensor([1.5, -0.5, 0.25, 1.0], requires_grad=True)
    prompt = torch.tensor([1]).numpy()
    pair = (
        Ranking("a", prompt, (prompt, prompt), ((0, 1, 0.0, 0.8),)),
        Ranking("b", prompt, (prompt, prompt), ((0, 1, 0.0, 1.0),)),
    )
    step = ranking_step(lambda sides, margins: losses.bradley_terry(*sides.unbind(1)), use_confidence=True)
    found = step(lambda groups: scores, pair).loss_sum  # type: ignore[arg-type]
    first = losses.bradley_terry(scores[:1], scores[1:2], label_smoothing=0.2)
    second = losses.bradley_terry(scores[2:3], scores[3:])
    assert float(found) == pytest.approx(float(first + second))


@pytest.mark.parametrize("method", ["dpo", "reward", "orpo"])
def test_a_runs_labels_are_as_sure_as_its_rows_say(method: str, world: World, tmp_path: Path) -> None:
    """Turned pairs of confidence 0 are the pairs themselves."""
    rows = read_rows(world.standard)
    turned = [row | {"chosen": row["rejected"], "rejected": row["chosen"], "confidence": 0.0} for row in rows]
    data = write_rows(tmp_path / "turned.jsonl", turned)
    settings = FULL | QUIET | {"method": method, "eval_fraction": 0.0, "train_sampling_strategy": "sequential"}
    run(world, tmp_path / "plain", **settings)
    run(world, tmp_path / "soft", **settings, data=str(data), use_confidence=True)
    ours, theirs = (curves(tmp_path / name) for name in ("plain", "soft"))
    assert [row["loss"] for row in ours if "loss" in row] == pytest.approx(
        [row["loss"] for row in theirs if "loss" in row], abs=1e-3
    )


def test_online_pairs_have_no_confidence_of_their_own() -> None:
    from preftune.methods.online_dpo import OnlineDPOConfig

    with pytest.raises((PreftuneError, ValueError), match="use_confidence"):
        OnlineDPOConfig(model="m", use_confidence=True)
