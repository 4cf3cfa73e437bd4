"""The signal in a gradient: known where the data's noise is, and seen by the loop."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from preftune.training.gradient_noise import GradientHalves, watched
from preftune.training.metrics import read_metrics
from preftune.training.optimizer import MasterAdamW
from tests.training.toy import Toy


@pytest.mark.parametrize("share", [0.5, 0.25])
@pytest.mark.parametrize("strength", [0.0, 0.5, 2.0])
def test_ratio_of_powers_is_that_of_the_true_gradient_and_its_noise(strength: float, share: float) -> None:
    """n items of gradient mu + noise: signal |mu|^2, noise of the mean d / n; over 400 steps within a tenth."""
    torch.manual_seed(0)
    n, d, steps = 8, 64, 400
    layer = nn.Linear(d, 1, bias=False)
    halves = GradientHalves(layer, MasterAdamW(layer.parameters(), lr=0.1))
    mean = torch.full((1, d), strength / d**0.5)
    signal = noise = 0.0
    for _ in range(steps):
        items = mean + torch.randn(n, 1, d)
        first = round(n * share)
        layer.weight.grad = items[:first].sum(0) / n
        halves.half()
        layer.weight.grad = items.sum(0) / n
        powers = halves.compare(share)
        assert powers is not None
        signal, noise = signal + float(powers[0]) / steps, noise + float(powers[1]) / steps
    assert noise == pytest.approx(d / n, rel=0.1)
    assert signal == pytest.approx(strength**2, abs=0.15 + 0.1 * strength**2)


def test_halves_that_agree_have_no_noise() -> None:
    layer = nn.Linear(3, 2)
    halves = GradientHalves(layer, MasterAdamW(layer.parameters(), lr=0.1))
    layer.weight.grad = torch.ones(2, 3) / 2
    halves.half()
    layer.weight.grad = torch.ones(2, 3)
    powers = halves.compare(0.5)
    assert powers is not None and [float(power) for power in powers] == [6.0, 0.0]


def test_tables_of_tokens_are_left_out_where_there_are_other_weights() -> None:
    model = nn.ModuleDict({"embed_tokens": nn.Embedding(9, 4), "layer": nn.Linear(4, 4), "lm_head": nn.Linear(4, 9)})
    assert [tuple(one.shape) for one in watched(model)] == [(4, 4)]
    assert len(watched(nn.ModuleDict({"embed": nn.Embedding(9, 4)}))) == 1
    assert len(watched(nn.Sequential(*[nn.Linear(2, 2) for _ in range(30)]))) == 8


def test_loop_measures_where_it_is_told_the_half_and_nothing_else_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, halved = Toy(batch=4, accumulation=2), Toy(batch=4, accumulation=2)
    work = halved.work

    def with_half() -> object:
        from dataclasses import replace

        return replace(work(), half=lambda batches: len(batches) // 2)

    monkeypatch.setattr(halved, "work", with_half)
    plain.train(tmp_path / "plain")
    halved.train(tmp_path / "halved")
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), halved.parameters(), strict=True))
    assert all("grad_snr" in row for row in read_metrics(tmp_path / "halved" / "metrics.jsonl") if "loss" in row)
    assert not any("grad_snr" in row for row in read_metrics(tmp_path / "plain" / "metrics.jsonl"))
