"""What beta does, on a model that is trained in a moment, and its picture."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

from preftune.errors import PreftuneError
from preftune.mini import SweepPoint, beta_sweep, draw_beta_sweep
from tests.mini.tiny import PAIRS, gpt


@pytest.fixture(scope="module")
def points() -> list[SweepPoint]:
    return beta_sweep(gpt(), PAIRS, PAIRS, (0.01, 3.0), num_epochs=40, lr=3e-3, max_new_tokens=8)


def test_a_dearer_divergence_keeps_the_policy_nearer(points: list[SweepPoint]) -> None:
    loose, tight = points
    assert (loose.beta, tight.beta) == (0.01, 3.0)
    assert loose.kl.value > 2 * tight.kl.value > 0
    assert loose.margin.value > 2 * tight.margin.value > 0
    assert loose.accuracy.n == len(PAIRS) and loose.accuracy.low < loose.accuracy.value


def test_points_are_plain_data(points: list[SweepPoint]) -> None:
    assert json.loads(json.dumps(points[0].as_dict()))["accuracy"]["unit"] == "share"


def test_the_start_stays_as_it_is() -> None:
    start = gpt()
    before = [weights.clone() for weights in start.state_dict().values()]
    beta_sweep(start, PAIRS, PAIRS, (0.1,), num_epochs=1, max_new_tokens=4)
    assert all(map(torch.equal, before, start.state_dict().values()))


def test_the_picture_names_its_axes_with_units(points: list[SweepPoint], tmp_path: Path) -> None:
    drawn = draw_beta_sweep(points, tmp_path / "sweep.svg")
    told = "".join(ElementTree.parse(drawn).getroot().itertext())
    for text in ("margin (nats)", "KL (nats an answer)", "pairs ranked right (%)", "beta", "0.01", "n = 4"):
        assert text in told
    assert draw_beta_sweep(points, tmp_path / "again.svg").read_bytes() == drawn.read_bytes()
    assert draw_beta_sweep(points, tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")


def test_a_picture_of_an_unknown_kind_or_of_nothing_is_refused(points: list[SweepPoint], tmp_path: Path) -> None:
    with pytest.raises(PreftuneError, match=r"\.png or \.svg"):
        draw_beta_sweep(points, tmp_path / "sweep.gif")
    with pytest.raises(PreftuneError, match="nothing to draw"):
        draw_beta_sweep([], tmp_path / "sweep.png")


def test_a_beta_that_cannot_be_is_refused_before_any_training() -> None:
    with pytest.raises(PreftuneError, match="beta"):
        beta_sweep(gpt(), PAIRS, PAIRS, (0.1, 0.0))
