import math
from itertools import pairwise

import numpy as np
import pytest

from benchmarks.busy_endpoint import busy_share
from benchmarks.data import data_tables, exponent
from benchmarks.synthetic_pairs import pairs, texts
from preftune.audit.shingles import jaccards, word_grams


@pytest.mark.parametrize("power", [1.0, 2.0])
def test_the_exponent_is_that_of_the_growth(power: float) -> None:
    samples = [{"texts": n, "seconds": 3e-6 * n**power} for n in (10_000, 100_000, 1_000_000)]
    assert exponent(samples) == pytest.approx(power)
    assert exponent(samples[:1]) is None


def test_busy_is_the_mean_number_under_way_of_those_allowed() -> None:
    assert busy_share([(0.0, 1.0), (0.0, 1.0), (1.0, 2.0), (1.0, 2.0)], 2) == 1.0
    assert busy_share([(0.0, 1.0), (1.0, 2.0)], 2) == 0.5


def test_synthetic_pairs_are_the_seeds_and_have_the_planted_kinds() -> None:
    rows = list(pairs(3000, 1))
    assert rows == list(pairs(3000, 1)) and rows[:50] != list(pairs(50, 2))
    assert len({row["id"] for row in rows}) == 3000
    content = [(row["prompt"], row["chosen"], row["rejected"]) for row in rows]
    exact = sum(one == before for before, one in pairwise(content))
    crossed = sum((one[0], one[2], one[1]) == before for before, one in pairwise(content))
    assert 15 < exact < 60 and 1 <= crossed < 20
    words = [len(row["prompt"].split()) for row in rows]
    assert 50 < np.median(words) < 70
    assert 1.0 < np.std(np.log(words)) < 1.3


def test_planted_texts_are_near_or_equal() -> None:
    found, places = texts(500, 1, planted=0.1)
    assert len(found) == 500 and len(places) == 50
    left, right = (np.array(side) for side in zip(*places, strict=True))
    assert (jaccards(word_grams(found, 5), left, right) > 0.5).all()


def test_tables_show_medians_and_whether_targets_are_met() -> None:
    machine = {"cpu": "A CPU", "cores": 2, "date": "2026-11-21T00:00:00", "versions": {"preftune": "0.1.0"}}
    audits = [
        {"part": "audit", "name": "cheap", "round": number, "seconds": seconds, "peak_mib": 500.0}
        for number, seconds in enumerate((50.0, 70.0, 55.0))
    ]
    near = [
        {
            "part": "near",
            "texts": n,
            "seconds": 1e-5 * n,
            "memory_mib": n / 4096,
            "planted": 100,
            "found": 99,
            "round": 0,
        }
        for n in (10_000, 1_000_000)
    ]
    calls = [
        {"part": "calls", "concurrency": 64, "latency": 1.0, "busy": 0.9, "calls": 1280, "cores_busy": 0.2, "round": 0}
    ]
    result = {
        "machine": machine,
        "options": {"rows": 1_000_000, "rounds": 3},
        "data": {"bytes": 2**30},
        "samples": [*audits, *near, *calls],
    }
    text = data_tables(result)
    assert "| cheap | 55.0 (50.0–70.0) | 18,182 (14,286–20,000) | 500 | ≤ 60 s: met |" in text
    assert "power of 1.00 (target ≤ 1.1: met)" in text and "99 of 100 (99.0%)" in text
    assert "| 64, 1 s a reply | 1280 | 90.0 | 0.20 | ≥ 95: missed |" in text
    assert not math.isnan(exponent(near) or 0.0)
