"""Every method and loss that both have, in TRL's trainer and here: the same curves, step by step."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.parity.cases import DIFFERENT, PRINCIPAL, VARIANTS
from tests.parity.side_by_side import STEPS, WITHIN, Case, Curves, Start, beyond, both_curves, furthest

pytest.importorskip("trl")
pytestmark = pytest.mark.parity

FEWER = 20  # one epoch and a third; benchmarks/parity.py takes all 50 with every case


@pytest.mark.parametrize("case", PRINCIPAL, ids=lambda case: case.name)
def test_curves_of_each_method_are_trls(case: Case, start: Start, tmp_path: Path) -> None:
    _check(case, *both_curves(case, start, tmp_path, STEPS))


@pytest.mark.parametrize("case", VARIANTS, ids=lambda case: case.name)
def test_curves_of_each_variant_are_trls(case: Case, start: Start, tmp_path: Path) -> None:
    _check(case, *both_curves(case, start, tmp_path, FEWER))


@pytest.mark.parametrize("case", DIFFERENT, ids=lambda case: case.name)
def test_documented_differences_are_there(case: Case, start: Start, tmp_path: Path) -> None:
    """Where this fails, docs/parity.md tells of a difference that is gone."""
    ours, theirs = both_curves(case, start, tmp_path, FEWER)
    assert furthest(ours, theirs)["loss"] > 1e-4


def _check(case: Case, ours: Curves, theirs: Curves) -> None:
    assert abs(theirs[-1]["loss"] - theirs[0]["loss"]) > 1e-3, "nothing was learnt: the comparison says little"
    found = furthest(ours, theirs, case.aside)
    assert not beyond(found)
    assert found.keys() >= WITHIN.keys()
