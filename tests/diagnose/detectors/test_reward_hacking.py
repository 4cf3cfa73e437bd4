from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from preftune.diagnose.findings import CannotTell, Finding, Nothing, Outcome
from preftune.diagnose.series import RunLog, Sample, Series
from tests.diagnose.detectors.synthetic import N, ask, healthy, line, noisy, rising

PROMPTS = 1000


def best_of_n(noise: Any, seed: int) -> RunLog:
    """Best of n by a proxy that is gold plus noise, for growing n: the toy of over-optimisation."""
    draw = np.random.default_rng(seed)
    proxies, golds = [], []
    for n in np.unique(np.round(2 ** np.linspace(0, 11, 48)).astype(int)):
        gold = draw.normal(size=(PROMPTS, n))
        proxy = gold + noise(draw, gold.shape)
        best = np.argmax(proxy, axis=1)
        golds.append(gold[np.arange(PROMPTS), best].mean())
        proxies.append(proxy[np.arange(PROMPTS), best].mean())
    steps = np.arange(1, len(golds) + 1)
    series = {
        "reward": Series("reward", steps, np.array(proxies)),
        "gold/score": Series("gold/score", steps, np.array(golds)),
    }
    return RunLog("toy", "test", series, {}, "grpo")


@pytest.mark.parametrize("seed", range(3))
def test_heavy_tailed_errors_are_seen_as_hacking(seed: int) -> None:
    found = ask("D01", best_of_n(lambda draw, shape: draw.standard_t(3, shape), seed))
    assert isinstance(found, Finding)
    assert found.certainty == "certain"
    assert 8 <= found.first_step <= 35  # gold peaks near n = 16 of 2,048


@pytest.mark.parametrize("seed", range(3))
def test_gaussian_errors_are_not(seed: int) -> None:
    assert ask("D01", best_of_n(lambda draw, shape: draw.normal(size=shape), seed)) == Nothing()


def gold(values: Any, **others: Any) -> Outcome:
    return ask("D01", healthy("grpo", gold__score=values, **others))


def test_gold_that_is_the_reward_is_left_in_peace() -> None:
    log = healthy("ppo")
    reward = log.series["reward"]
    same = {**log.series, "gold/score": Series("gold/score", reward.steps, reward.values)}
    assert ask("D01", RunLog("run", "test", same, log.config, "ppo")) == Nothing()


def test_peak_and_kl_there_are_told() -> None:
    values = noisy(np.concatenate([line(0, 1, 60), line(1, 0.2, 60)]), 0.05)
    found = gold(values, reward=noisy(line(0, 3), 0.1))
    assert isinstance(found, Finding)
    assert 50 <= found.first_step <= 70
    assert "nats a completion" in found.what
    assert "kl_coef" in found.remedy


def test_gold_that_stands_still_while_the_reward_rises_is_told() -> None:
    values = noisy(np.concatenate([line(0, 1, 60), np.ones(60)]), 0.05)
    found = gold(values, reward=noisy(line(0, 3), 0.1))
    assert isinstance(found, Finding)
    assert found.certainty == "likely"


def test_both_at_their_plateau_is_no_hacking() -> None:
    assert gold(noisy(rising(0, 1), 0.05), reward=noisy(rising(0, 2), 0.08)) == Nothing()


def test_a_policy_that_broke_did_not_hack() -> None:
    fallen = np.concatenate([line(0, 1, 60), line(1, -1, 60)])
    outcome = gold(noisy(fallen, 0.05), reward=noisy(fallen + 0.2 * line(0, 1), 0.05, seed=1))
    assert outcome == Nothing()


def test_ten_win_rates_are_enough() -> None:
    rates = np.array([0.5, 0.58, 0.66, 0.72, 0.74, 0.70, 0.62, 0.55, 0.47, 0.42])
    log = healthy("grpo", reward=noisy(line(0, 3), 0.1))
    steps = np.arange(12, N + 1, 12)
    series = {**log.series, "eval_judge/win_rate": Series("eval_judge/win_rate", steps, rates)}
    assert isinstance(ask("D01", RunLog("run", "test", series, log.config, "grpo")), Finding)


def test_four_win_rates_tell_nothing() -> None:
    log = healthy("grpo", reward=noisy(line(0, 3), 0.1))
    series = {**log.series, "judge/win_rate": Series("judge/win_rate", np.array([30, 60, 90, 120]), line(1, 0, 4))}
    assert isinstance(ask("D01", RunLog("run", "test", series, log.config, "grpo")), CannotTell)


def blind(**changes: Any) -> Outcome:
    return ask("D02", healthy("grpo", reward=noisy(rising(0.2, 3.0), 0.05), **changes))


def test_longer_and_alike_answers_with_a_rising_reward_are_a_hint() -> None:
    found = blind(completions__mean_length=noisy(line(100, 220), 5), rep__distinct3=noisy(line(0.9, 0.4), 0.02))
    assert isinstance(found, Finding)
    assert found.severity == "hint"
    assert len(found.evidence) == 3


def test_one_sign_is_none() -> None:
    assert blind(completions__mean_length=noisy(line(100, 220), 5)) == Nothing()


def test_known_gold_silences_the_signs() -> None:
    signs = {"completions__mean_length": noisy(line(100, 220), 5), "rep__distinct3": noisy(line(0.9, 0.4), 0.02)}
    assert blind(gold__score=noisy(0.0), **signs) == Nothing()


def test_a_stock_opening_is_a_sign() -> None:
    early = [Sample(1, str(i), f"{word} we go on with it", 6) for i, word in enumerate("abcdefghij")]
    late = [Sample(N, str(i), f"Certainly! I would be happy to {word}", 8) for i, word in enumerate("abcdefghij")]
    found = blind(reward_len_corr=noisy(0.8, 0.05), samples=tuple(early + late))
    assert isinstance(found, Finding)
    assert any("Certainly" in one.what for one in found.evidence)


def test_few_points_tell_nothing() -> None:
    assert isinstance(ask("D02", healthy("grpo", reward=line(0, 1, 12))), CannotTell)
