"""Whether more training helps, told with a known chance of error."""

from __future__ import annotations

import numpy as np
import pytest

from preftune.pipeline.plateau import FEWEST, find_plateau


def right(draw: np.random.Generator, base: np.ndarray, rate: float, agree: float = 0.7) -> np.ndarray:
    """Flags like ``base``, some of them drawn anew at ``rate``."""
    return np.where(draw.random(len(base)) < agree, base, draw.random(len(base)) < rate).astype(float)


def test_chance_alone_is_called_rising_in_about_one_of_forty() -> None:
    draw = np.random.default_rng(0)
    rising = 0
    for seed in range(250):
        base = draw.random(160) < 0.6
        scores = {"early": base.astype(float)} | {f"later {i}": right(draw, base, 0.6) for i in range(4)}
        prompts = np.repeat(np.arange(80), 2).tolist()
        rising += find_plateau("early", scores, prompts, seed=seed).verdict == "rising"
    assert rising / 250 < 0.055  # expected 0.025; 0.055 is three deviations more


def test_pairs_of_one_prompt_are_no_further_evidence() -> None:
    draw = np.random.default_rng(1)
    rising = 0
    for _ in range(200):
        early, later = (np.repeat(draw.random(40) < 0.6, 5).astype(float) for _side in range(2))
        rising += find_plateau("early", {"early": early, "later": later}, np.repeat(range(40), 5).tolist()).verdict == (
            "rising"
        )
    assert rising / 200 < 0.07


def test_a_gain_that_is_there_is_found_and_the_best_is_named() -> None:
    draw = np.random.default_rng(2)
    base = draw.random(800) < 0.6
    scores = {"early": base.astype(float), "a": right(draw, base, 0.95), "b": right(draw, base, 1.0, 0.3)}
    found = find_plateau("early", scores, range(800))
    assert found.verdict == "rising" and found.best == "b"
    assert found.differences["b"].low > 0


def test_no_gain_on_many_prompts_is_a_plateau_and_on_few_cannot_be_told() -> None:
    draw = np.random.default_rng(3)
    many = draw.random(20_000) < 0.6
    scores = {"early": many.astype(float), "later": right(draw, many, 0.6)}
    assert find_plateau("early", scores, range(20_000)).verdict == "plateau"
    few = {name: values[:200] for name, values in scores.items()}
    assert find_plateau("early", few, range(200)).verdict == "cannot tell"
    none = {name: values[: FEWEST - 1] for name, values in scores.items()}
    assert find_plateau("early", none, range(FEWEST - 1)).differences == {}


def test_a_fall_is_told() -> None:
    draw = np.random.default_rng(4)
    base = draw.random(800) < 0.9
    assert find_plateau(
        "early", {"early": base.astype(float), "later": right(draw, base, 0.1)}, range(800)
    ).verdict == ("falling")


def test_one_candidate_alone_has_student_s_interval() -> None:
    early, later = np.zeros(100), np.tile([0.0, 1.0], 50)
    found = find_plateau("early", {"early": early, "later": later}, range(100)).differences["later"]
    half = 1.984217 * np.sqrt(0.25 * 100 / 99 / 100)
    assert (found.low, found.high) == pytest.approx((0.5 - half, 0.5 + half), rel=1e-4)


def test_equal_flags_on_few_pairs_are_no_proof_of_equal_models() -> None:
    same = np.tile([0.0, 1.0], 25)
    few = find_plateau("early", {"early": same, "later": same.copy()}, range(50), are_shares=True)
    assert few.verdict == "cannot tell" and few.differences["later"].high == pytest.approx(2.0096 / 50, rel=1e-3)
    many = np.tile([0.0, 1.0], 250)
    assert find_plateau("early", {"early": many, "later": many}, range(500), are_shares=True).verdict == "plateau"


def test_shares_are_told_in_points() -> None:
    same = np.tile([0.0, 1.0], 25)
    told = find_plateau("early", {"early": same, "later": same}, range(50), are_shares=True).sentence()
    assert "later +0.0 points (-4.0 to +4.0, n = 50)" in told


def test_the_same_scores_differ_by_nothing() -> None:
    same = np.tile([0.0, 1.0], 50)
    found = find_plateau("early", {"early": same, "later": same.copy()}, range(100))
    assert found.verdict == "plateau" and found.differences["later"].high == 0.0
