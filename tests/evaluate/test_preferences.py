"""Accuracies and rewards from log-probs, and KL from what was drawn."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch

from preftune.data.records import Pair
from preftune.data.tokens import tokenize_pairs
from preftune.evaluate.answers import answer_lengths, kl_from_reference
from preftune.evaluate.preferences import PairScores, implicit_rewards, ranking_accuracy, score_pairs
from preftune.models.layout import Group
from preftune.models.logprobs import LogProbEngine
from preftune.models.reference import groups_of, separate_model
from preftune.rollout.sample import Completion, sample
from tests.tiny_world import make_model, make_tokenizer, pair_rows

TOKENIZER = make_tokenizer()
PAIRS = tokenize_pairs([Pair(**row) for row in pair_rows(9)], TOKENIZER).pairs


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_scores_are_the_models_log_probs_in_the_order_of_the_pairs(batch_size: int) -> None:
    """From full logits, a sequence at a time."""
    model = make_model(len(TOKENIZER))
    scores = score_pairs(LogProbEngine(make_model(len(TOKENIZER))).train(), PAIRS, batch_size)
    for number, pair in enumerate(PAIRS):
        for side, completion in enumerate((pair.chosen, pair.rejected)):
            ids = torch.tensor([[*pair.prompt, *completion]])
            with torch.no_grad():
                log_probs = model(ids).logits[0, :-1].log_softmax(-1)
            expected = log_probs.gather(1, ids[0, 1:, None])[len(pair.prompt) - 1 :].sum()
            assert scores.log_probs[number, side] == pytest.approx(float(expected), rel=1e-5)
            assert scores.lengths[number, side] == len(completion)


def test_ranking_is_by_likelihood_a_token() -> None:
    """A longer answer is not the worse for its length."""
    scores = PairScores(np.array([[-10.0, -6.0], [-10.0, -6.0]]), np.array([[10.0, 3.0], [2.0, 3.0]]), [b"a", b"b"])
    assert scores.ranks_right().tolist() == [True, False]
    found = ranking_accuracy(scores)
    assert (found.value, found.n) == (0.5, 2)


def test_implicit_reward_is_beta_times_the_log_ratio() -> None:
    scores = PairScores(np.array([[-1.0, -2.0]]), np.array([[1.0, 1.0]]), [b"a"])
    assert implicit_rewards(scores, np.array([[-2.0, -1.5]]), beta=0.2).tolist() == [[0.2, pytest.approx(-0.1)]]


def test_scoring_leaves_the_models_mode_alone() -> None:
    engine = LogProbEngine(make_model(len(TOKENIZER))).train()
    score_pairs(engine, PAIRS[:1], 1)
    assert engine.training


# --- answers --------------------------------------------------------------------------------------------


def test_lengths_are_means_and_shares_of_the_answers() -> None:
    answers = [Completion([1], [5, 6, 2], True), Completion([1], [5], False), Completion([1], [5, 2], True)]
    found = answer_lengths(answers)
    assert found["mean_length"].value == 2.0
    assert (found["finished"].value, found["finished"].n) == (pytest.approx(2 / 3), 3)


def test_kl_between_equal_models_is_exactly_zero() -> None:
    engine = LogProbEngine(make_model(len(TOKENIZER)))
    answers = sample(engine.model, [pair.prompt.tolist() for pair in PAIRS], pad_id=0, stop_ids=[2], max_new_tokens=5)
    found = kl_from_reference(engine, engine, answers, 4)
    assert (found.value, found.low, found.high, found.n) == (0.0, 0.0, 0.0, len(PAIRS))


def test_kl_is_near_the_exact_one_of_tiny_models() -> None:
    """Twelve tokens and answers of at most two, so that every answer can be summed over."""
    policy, reference = (LogProbEngine(make_model(12, seed=seed, spread=0.3)).eval() for seed in (0, 1))
    prompt, eos = [1, 5, 7], 2
    every = [[eos]] + [[a, b] for a, b in itertools.product(range(12), repeat=2) if a != eos]
    with torch.no_grad():
        p, q = (engine([Group(prompt, tuple(every))]).sums().double() for engine in (policy, reference))
    assert float(p.exp().sum()) == pytest.approx(1.0, abs=1e-5)
    exact = float((p.exp() * (p - q)).sum())
    drawn = sample(policy.model, [prompt] * 3000, pad_id=0, stop_ids=[eos], max_new_tokens=2, batch_size=1000)
    found = kl_from_reference(_frozen(policy), _frozen(reference), drawn, 500)
    assert exact > 0.2
    assert found.value == pytest.approx(exact, abs=4 * (found.high - found.low) / 2 / 1.96)
    assert found.high - found.low < 0.5 * exact


def test_answers_without_a_token_are_left_out_of_the_kl() -> None:
    engine = LogProbEngine(make_model(len(TOKENIZER)))
    answers = [Completion([1, 5], [], False), Completion([1, 5], [7, 2], True)]
    assert kl_from_reference(_frozen(engine), _frozen(engine), answers, 4).n == 1


def test_groups_of_pairs_put_the_chosen_side_first() -> None:
    (group,) = groups_of(PAIRS[:1])
    assert group.completions == (PAIRS[0].chosen.tolist(), PAIRS[0].rejected.tolist())


def _frozen(engine: LogProbEngine) -> Any:
    return separate_model(engine).log_probs
