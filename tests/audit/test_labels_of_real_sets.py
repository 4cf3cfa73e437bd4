"""Shortcuts, flips and ceilings on public sets that lie beside the repository; skipped where they do not."""

from functools import cache

import numpy as np
import pytest

pytest.importorskip("sklearn")
pytest.importorskip("cleanlab")

from benchmarks.experiments.flipped_labels import draw_flips, ranking_figures, turned
from benchmarks.experiments.real_pairs import PLACE, read_set
from preftune.audit.ceiling import audit_ceiling
from preftune.audit.mislabelled import audit_mislabelled
from preftune.audit.shortcuts import audit_shortcuts
from preftune.audit.votes import votes_of
from preftune.data.read import read_comparisons
from preftune.data.records import Pair
from preftune.errors import PreftuneError


@cache
def pairs_of(name: str) -> list[Pair]:
    try:
        return read_set(name)
    except PreftuneError:
        pytest.skip(f"{name} is not here")


def test_shorter_answers_win_in_hh_harmless_and_the_widest_gaps_carry_it() -> None:
    audit = audit_shortcuts(pairs_of("HH harmless"))
    share = audit.longer_wins
    assert (share.value, share.low, share.high) == pytest.approx((0.447, 0.420, 0.474), abs=5e-4)
    assert audit.length is not None and audit.length.z < -5
    assert audit.slices[0].value == "largest quarter" and audit.slices[0].longer_wins.high < 0.4
    refusals = next(rule for rule in audit.rules if rule.name == "refusal")
    assert refusals.wins.low > 0.6 and refusals.p < 0.01
    titles = {one.id: one.title for one in audit.findings}
    assert titles["length-shortcut"] == "The shorter answer wins more often"


def test_longer_arguments_convince() -> None:
    audit = audit_shortcuts(pairs_of("UKPConvArg"))
    assert audit.longer_wins.value == pytest.approx(0.782, abs=5e-3)
    assert audit.together is not None and audit.together.low > 0.75


@pytest.mark.parametrize(
    ("name", "average_precision", "first"), [("UKPConvArg", 0.8, 0.95), ("GSM8K solutions", 0.6, 0.7)]
)
def test_a_fifth_of_flipped_labels_is_found(name: str, average_precision: float, first: float) -> None:
    pairs = pairs_of(name)
    is_flipped = draw_flips(len(pairs), seed=100)
    audit = audit_mislabelled(turned(pairs, is_flipped), seed=0)
    assert audit.probabilities is not None and audit.rate is not None
    figures = ranking_figures(np.array(audit.probabilities), is_flipped)
    assert figures["average_precision"] > average_precision
    assert figures["precision@50"] > first
    assert audit.rate.low < 0.2 < audit.rate.high


def test_labels_that_are_certain_are_hardly_accused() -> None:
    audit = audit_mislabelled(pairs_of("GSM8K solutions"))
    assert audit.rate is not None and audit.rate.high < 0.05 and audit.suspects == ()


def test_pandalms_people_agree_so_far_that_a_model_may_nearly_always_be_right() -> None:
    path = PLACE / "pandalm" / "comparisons.jsonl"
    if not path.exists():
        pytest.skip("PandaLM is not here")
    pairs = pairs_of("PandaLM")
    audit = audit_ceiling(pairs, votes=votes_of(read_comparisons(path).records))
    assert audit.agreement is not None and audit.majority_label is not None
    assert audit.agreement.value == pytest.approx(0.949, abs=2e-3)
    assert audit.majority_label.value == pytest.approx(0.977, abs=2e-3)
    assert (audit.prompts, audit.independent) == (153, 500)
