"""A world in which some words are better than others stands in for the real sets."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("sklearn")
pytest.importorskip("cleanlab")

from benchmarks.experiments import flipped_labels
from benchmarks.experiments.findings import figures
from benchmarks.experiments.flipped_labels import draw_flips, labellings, ranking_figures, turned
from benchmarks.experiments.small_preference_models import LEARNERS
from preftune.data.records import Pair

SEED = 11
WORTH = np.linspace(-1, 1, 40)


def pairs_of_words(rows: int) -> list[Pair]:
    """The answer whose words are worth more is the chosen one."""
    draw = np.random.default_rng(SEED)
    found = []
    for row in range(rows):
        words = draw.integers(0, 40, size=(2, 8))
        better = int(WORTH[words[1]].sum() > WORTH[words[0]].sum())
        chosen, rejected = (" ".join(f"word{word:02}" for word in words[side]) for side in (better, 1 - better))
        found.append(Pair(prompt=f"question {row}", chosen=chosen, rejected=rejected, id=str(row)))
    return found


def test_a_ranking_is_measured_by_where_the_flipped_rows_stand() -> None:
    is_flipped = np.arange(1000) < 200
    best = ranking_figures(-np.arange(1000.0), is_flipped)
    assert best == {"average_precision": 1.0, "precision@50": 1.0, "precision@100": 1.0, "precision@200": 1.0}
    assert ranking_figures(np.arange(1000.0), is_flipped)["precision@200"] == 0
    assert ranking_figures(np.zeros(1000), is_flipped)["average_precision"] == pytest.approx(0.2, abs=0.05)


def test_labels_are_cleaned_as_their_chances_say() -> None:
    clean = np.arange(1.0, 6.0)[:, None]
    is_flipped, chances = np.array([0, 1, 0, 0, 1], dtype=bool), np.array([0.0, 0.9, 0.4, 0.1, 0.2])
    found = {
        name: (rows.ravel().tolist(), rights.tolist())
        for name, (rows, rights) in labellings(clean, is_flipped, chances, 0).items()
    }
    assert found["as they were"] == ([1, 2, 3, 4, 5], [1] * 5)
    assert found["flipped"] == ([1, -2, 3, 4, -5], [1] * 5)
    assert found["dropped"] == ([1, 4, -5], [1] * 3)
    assert found["turned"] == ([1, 2, 4, -5], [1] * 4)
    assert found["soft"] == ([1, -2, 3, 4, -5], pytest.approx([1.0, 0.1, 0.6, 0.9, 0.8]))
    assert len(found["dropped at random"][0]) == 3


@pytest.mark.parametrize("learner", LEARNERS)
def test_a_label_that_is_surely_wrong_is_learned_the_other_way_round(learner: str) -> None:
    draw = np.random.default_rng(SEED)
    rows = draw.normal(size=(300, 3)) + np.array([2.0, 0.0, 0.0])
    is_wrong = draw.random(300) < 0.5
    margins = LEARNERS[learner](np.where(is_wrong[:, None], -rows, rows), 1.0 - is_wrong, SEED)
    assert (margins(rows) > 0).mean() > 0.9
    assert margins(-rows) == pytest.approx(-margins(rows), abs=1e-5)


def test_flips_are_found_cost_accuracy_and_are_won_back(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = pairs_of_words(500)
    monkeypatch.setattr(flipped_labels, "_pairs", lambda name: pairs)
    runs = list(flipped_labels.runs_of(SEED, sets=["words"], trained=["words"], rated=[]))
    audit, length = (
        figures([run for run in runs if run["part"] == "audit"], "average_precision", ranking=ranking)[0]
        for ranking in ("audit", "length")
    )
    assert audit > length + 0.2
    accuracy = {
        run["labels"]: run["accuracy"] for run in runs if run["part"] == "training" and run["learner"] == "linear"
    }
    assert accuracy["as they were"] > accuracy["flipped"] + 0.03
    assert max(accuracy["dropped"], accuracy["soft"]) > accuracy["flipped"]


def test_as_many_are_flipped_as_said_and_turning_twice_is_nothing() -> None:
    pairs = pairs_of_words(100)
    is_flipped = draw_flips(100, SEED)
    assert is_flipped.sum() == 20 and (draw_flips(100, SEED) == is_flipped).all()
    assert turned(turned(pairs, is_flipped), is_flipped) == pairs
