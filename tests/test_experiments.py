"""Small editions of the experiments: what they are to show must show in seconds already, with room to spare."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from benchmarks.experiments import kto_imbalance, label_noise, orpo_without_sft, readme
from benchmarks.experiments.bandit import FIRST_ONLY, LOSSES, ORDERED, TAUS, ended, published
from benchmarks.experiments.findings import FAILS, HOLDS, OPEN, claim_above, claim_within, figures
from benchmarks.experiments.policies import trained_on_pairs, tuned_policy
from benchmarks.experiments.world import (
    EOS,
    FIRST_TOPIC,
    FIRST_WORD,
    draw_answers,
    draw_pairs,
    flipped,
    is_formed,
    labels_of,
    make_world,
    worth_of,
)
from preftune.methods.dpo import DPOConfig

SEED = 11
FROM_REFERENCE = torch.zeros(3, dtype=torch.float64)
SMALL: dict[str, Any] = {"n_pairs": 300, "n_held_out": 200}


@pytest.mark.parametrize("tau", TAUS)
def test_ipo_ends_at_the_published_probabilities_and_dpo_at_the_first_arm(tau: float) -> None:
    found = ended("IPO", ORDERED, tau, FROM_REFERENCE, steps=400)
    assert (found[:-1] - found[1:]).tolist() == pytest.approx([1 / (3 * tau)] * 2, abs=1e-3)
    assert found.softmax(0).tolist() == pytest.approx(published(tau).tolist(), abs=1e-3)
    assert ended("DPO", ORDERED, tau, FROM_REFERENCE, steps=400).softmax(0)[0] > 0.95


def test_one_comparison_is_bounded_by_ipo_and_by_smoothing_alone() -> None:
    ends = {loss: ended(loss, FIRST_ONLY, 1.0, FROM_REFERENCE, steps=400) for loss in LOSSES}
    assert ends["IPO"].softmax(0).tolist() == pytest.approx([0.4192, 0.2543, 0.3265], abs=1e-3)
    apart = {loss: float(scores[0] - scores[1]) for loss, scores in ends.items()}
    assert apart["cDPO(0.1)"] == pytest.approx(math.log(9), abs=1e-2)
    assert apart["rDPO(0.1)"] > apart["DPO"] + 1 > apart["cDPO(0.1)"] + 2


def test_table_ends_at_the_closed_forms_and_robust_dpo_scatters_as_the_inverse_of_what_is_left() -> None:
    runs = list(label_noise.tabular_runs(SEED, draws=1000))
    assert [run["optimum"] for run in runs] == pytest.approx([run["closed_form"] for run in runs], abs=1e-6)
    for share in (0.1, 0.2, 0.3):  # at 40% some draws have no finite optimum
        robust, plain = (figures(runs, "deviation", flips=share, loss=loss)[0] for loss in ("rDPO", "DPO"))
        assert robust / plain == pytest.approx(1 / (1 - 2 * share), rel=1e-3)


def test_flipped_labels_cost_accuracy_and_smoothing_costs_margin() -> None:
    runs = [run for run in label_noise.runs_of(SEED, flips=(0.0, 0.4), **SMALL) if run["part"] == "policy"]
    (clean,) = (run for run in runs if run["flips"] == 0 and run["loss"] == "DPO")
    noisy = {run["loss"]: run for run in runs if run["flips"] == 0.4}
    assert clean["accuracy"] > noisy["DPO"]["accuracy"] + 0.1
    assert clean["margin"] > 2 * noisy["DPO"]["margin"] > 2 * noisy["cDPO"]["margin"] > 0
    assert clean["worth"] > noisy["DPO"]["worth"] + 0.2
    assert {run["loss"] for run in runs if run["flips"] == 0} == {"DPO", "IPO"}


def test_weights_make_up_for_good_answers_that_were_dropped() -> None:
    found = {run["contender"]: run for run in kto_imbalance.runs_of(SEED, (300,), 200, steps=60)}
    weighted, equal = found[kto_imbalance.KTO_WEIGHTED], found[kto_imbalance.KTO_EQUAL]
    assert (weighted["good"], weighted["bad"], weighted["weights"]) == (30, 300, (10.0, 1.0))
    assert weighted["accuracy"] > equal["accuracy"] + 0.03
    assert weighted["margin"] > equal["margin"] + 0.2
    assert min(found[name]["accuracy"] for name in (kto_imbalance.KTO_ALL, kto_imbalance.DPO_ALL)) > 0.65


def test_orpo_learns_to_answer_and_what_is_wanted_from_a_base_model() -> None:
    found = {run["contender"]: run for run in orpo_without_sft.runs_of(SEED, (6,), **SMALL)}
    base, orpo, plain = (found[name] for name in (orpo_without_sft.START, orpo_without_sft.ORPO, orpo_without_sft.DPO))
    assert base["odds_term"] == pytest.approx(orpo_without_sft.LAMBDA * math.log(2), abs=0.01)
    assert orpo["odds_term"] < base["odds_term"] < 0.05 * orpo["likelihood_term"]
    assert orpo["likelier"] > 0.7
    assert orpo["nll"] < base["nll"] - 0.7 < plain["nll"] - 0.7
    assert orpo["formed"] > 0.03 > plain["formed"]


def test_the_better_answer_of_a_pair_is_chosen_and_both_have_an_answers_form() -> None:
    world = make_world(SEED)
    pairs = draw_pairs(world, 50, "pair")
    assert all(worth_of(world, pair.chosen) > worth_of(world, pair.rejected) for pair in pairs)
    answers = [(pair.prompt, side) for pair in pairs for side in pair.completions]
    answers += [(one.prompt, one.completion) for one in draw_answers(world, 50)]
    assert all(is_formed(prompt.tolist(), answer.tolist()) for prompt, answer in answers)
    assert draw_pairs(world, 1, "pair")[0].chosen.tolist() == pairs[0].chosen.tolist()
    assert draw_pairs(world, 1, "held-out")[0].chosen.tolist() != pairs[0].chosen.tolist()


@pytest.mark.parametrize("answer", [[], [FIRST_TOPIC, EOS], [FIRST_TOPIC, *[FIRST_WORD] * 6], [FIRST_WORD] * 7 + [EOS]])
def test_what_lacks_topic_words_or_end_has_no_answers_form(answer: list[int]) -> None:
    assert not is_formed([1, FIRST_TOPIC], answer)


def test_flips_grow_with_their_share_and_reference_nothing_but_the_seed() -> None:
    pairs = draw_pairs(make_world(SEED), 200, "pair")

    def turned(share: float) -> set[str]:
        found = flipped(pairs, share, SEED)
        return {one.id for one, other in zip(pairs, found, strict=True) if one.chosen is other.rejected}

    assert turned(0.0) == set()
    assert turned(0.1) < turned(0.2) < turned(0.4)
    assert 0.3 < len(turned(0.4)) / 200 < 0.5


def test_labels_of_a_pair_are_one_good_and_one_bad() -> None:
    (pair,) = draw_pairs(make_world(SEED), 1, "pair")
    good, bad = labels_of([pair])
    assert (good.label, bad.label) == (True, False)
    assert good.completion is pair.chosen
    assert bad.completion is pair.rejected


def test_training_leaves_its_start_as_it_was_and_repeats_itself() -> None:
    world = make_world(SEED)
    start, pairs = tuned_policy(world), draw_pairs(world, 20, "pair")
    before = {name: value.clone() for name, value in start.state_dict().items()}
    one, other = (trained_on_pairs(start, pairs, DPOConfig(), SEED, epochs=1) for _ in range(2))
    assert all(torch.equal(value, before[name]) for name, value in start.state_dict().items())
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())
    assert any(not torch.equal(value, before[name]) for name, value in one.state_dict().items())


def test_claim_is_open_where_the_interval_lies_on_both_sides() -> None:
    assert claim_above("", [2.0, 2.1, 1.9], [1.0, 1.0, 1.0]).verdict == HOLDS
    assert claim_above("", [1.0, 1.0, 1.0], [2.0, 2.1, 1.9]).verdict == FAILS
    assert claim_above("", [1.0, 3.0, 2.0], [2.0, 2.0, 1.9]).verdict == OPEN
    assert claim_within("", [0.90, 0.91, 0.89], [0.90, 0.91, 0.90], 0.02).verdict == HOLDS
    assert claim_within("", [0.80, 0.81, 0.80], [0.90, 0.91, 0.91], 0.02).verdict == FAILS


def test_tables_of_the_readme_are_those_of_the_results() -> None:
    text = readme.README.read_text(encoding="utf-8")
    assert readme.with_tables(text) == text
