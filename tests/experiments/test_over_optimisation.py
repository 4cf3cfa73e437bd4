"""Best-of-n against brute force, and the over-optimisation of heavy-tailed and of learned proxies in small."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
import torch

from benchmarks.experiments import learned_proxies, over_optimisation
from benchmarks.experiments.best_of_n import best_of, chances_of_best, fit_best_of_n, fit_rl, kl_of_best
from benchmarks.experiments.enumerable_world import expected, kl, log_probs_of, make_policy, standardised

SEED = 11


@pytest.mark.parametrize("n", [1, 2, 5, 7])
def test_chance_to_be_the_best_is_that_of_all_choices_counted(n: int) -> None:
    best = [max(chosen) for chosen in combinations(range(7), n)]
    counted = np.bincount(best, minlength=7) / len(best)
    assert chances_of_best(n, 7).tolist() == pytest.approx(counted.tolist())


def test_best_of_n_of_a_whole_distribution_is_that_of_draws() -> None:
    draw = np.random.default_rng(SEED)
    chances, proxy = draw.dirichlet(np.ones(20)), draw.normal(size=20)
    exact = best_of(torch.from_numpy(chances).log(), torch.from_numpy(proxy), 4).exp().numpy()
    drawn = draw.choice(20, size=(200_000, 4), p=chances)
    best = np.take_along_axis(drawn, proxy[drawn].argmax(1)[:, None], 1)[:, 0]
    assert exact.sum() == pytest.approx(1)
    assert np.abs(exact - np.bincount(best, minlength=20) / len(best)).max() < 0.005


@pytest.mark.parametrize("n", [1.0, 4.0, 100.0])
def test_kl_of_best_of_n_is_the_closed_form_where_many_completions_are_alike(n: float) -> None:
    reference = torch.zeros(100_000, dtype=torch.float64).log_softmax(0)
    best = best_of(reference, torch.arange(100_000.0), n)
    assert kl(best, reference) == pytest.approx(kl_of_best(n), abs=1e-3)


def test_forms_of_gao_are_found_again_with_their_peaks() -> None:
    d = np.linspace(0.3, 3, 12)
    one = fit_best_of_n((d**2).tolist(), (d * (2 - 0.5 * d)).tolist())
    assert (one.alpha, one.beta, one.r_squared, one.peak) == pytest.approx((2, 0.5, 1, 4))
    other = fit_rl((d**2).tolist(), (d * (1 - 0.8 * np.log(d))).tolist())
    assert (other.alpha, other.beta, other.r_squared) == pytest.approx((1, 0.8, 1))
    assert other.peak == pytest.approx(math.exp(1 / 0.8 - 1) ** 2)


def test_exact_scores_are_the_known_ones() -> None:
    gaussian = over_optimisation.exact("Gaussian", (1, 4, 16, 64, 256, 1024, 8192))
    assert gaussian[:, 0].tolist() == pytest.approx([0, 0.73, 1.25, 1.66, 1.99, 2.28, 2.71], abs=0.04)
    assert gaussian[:, 1].tolist() == pytest.approx((2 * gaussian[:, 0]).tolist(), abs=0.01)
    heavy = over_optimisation.exact(over_optimisation.HEAVY, (1, 4, 16, 64, 256, 1024, 8192))
    assert heavy[:, 0].tolist() == pytest.approx([0, 0.62, 0.89, 0.82, 0.58, 0.37, 0.16], abs=0.05)


def test_heavy_tails_make_gold_fall_while_the_proxy_rises() -> None:
    runs = list(over_optimisation.runs_of(SEED, prompts=300, samples=2048))
    for noise in over_optimisation.NOISES:
        own = [run for run in runs if run["noise"] == noise]
        exact = over_optimisation.exact(noise, [run["n"] for run in own])
        assert [run["gold"] for run in own] == pytest.approx(exact[:, 0].tolist(), abs=0.2)
    gold = {run["n"]: run["gold"] for run in runs if run["noise"] == over_optimisation.HEAVY}
    proxy = {run["n"]: run["proxy"] for run in runs if run["noise"] == over_optimisation.HEAVY}
    assert gold[16] > gold[1024] + 0.2
    assert proxy[1024] > proxy[16] + 3


def test_more_labels_teach_a_proxy_more_and_fewer_are_the_first_of_them() -> None:
    with torch.no_grad():
        reference = log_probs_of(make_policy(SEED))
    inputs = learned_proxies.one_hot()
    gold = standardised(learned_proxies._random_network(inputs, SEED), reference)
    many, few = (learned_proxies.labelled(reference, gold, n, 0.25, SEED) for n in (5000, 200))
    assert torch.equal(many[:200], few)
    wrong = (gold[many[:, 0]] < gold[many[:, 1]]).double().mean()
    assert float(wrong) == pytest.approx(0.25, abs=0.03)

    def agreement(pairs: torch.Tensor) -> float:
        proxy = standardised(learned_proxies.learned(inputs, pairs, 64, [SEED]), reference)
        return expected(reference, gold * proxy)

    assert agreement(many) > agreement(few) + 0.1
    assert agreement(few) > 0
