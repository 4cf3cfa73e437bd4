"""What a rater's history makes of a thumb, against raters of known competence."""

from __future__ import annotations

import math
import random

import pytest

from preftune.collect.rater_history import RaterHistory, UserVote, rater_history


def simulated(competence: dict[str, float], habit: dict[str, float], answers: int, seed: int) -> RaterHistory:
    """Votes by the model of the module, each answer judged by all."""
    draw = random.Random(seed)
    votes = []
    for answer in range(answers):
        is_good = draw.random() < 0.5
        for user, skill in competence.items():
            is_up = is_good if draw.random() < skill else draw.random() < habit[user]
            votes.append(UserVote(answer, user, is_up))
    return rater_history(votes, thumbs_agreement=0.7, history_votes=10)


def test_competences_are_recovered_from_agreement() -> None:
    competence = {"careful": 0.9, "usual": 0.7, "other": 0.7, "hasty": 0.3}
    found = simulated(competence, dict.fromkeys(competence, 0.5), answers=4_000, seed=1)
    estimates = {user: found.raters[user].competence for user in competence}
    assert sorted(competence, key=lambda user: estimates[user])[0] == "hasty"
    assert max(estimates, key=lambda user: estimates[user]) == "careful"
    # The pool's competence is the root of the mean product, so single ones keep their order and nearly their size.
    assert all(estimates[user] == pytest.approx(skill, abs=0.12) for user, skill in competence.items())


def test_rater_who_always_says_up_tells_little_with_it() -> None:
    competence = {"a": 0.7, "b": 0.7, "spammer": 0.0}
    found = simulated(competence, {"a": 0.5, "b": 0.5, "spammer": 1.0}, answers=500, seed=2)
    spammer, usual = found.raters["spammer"], found.raters["a"]
    assert abs(spammer.log_ratio(True)) < 0.2 < usual.log_ratio(True)


def test_rare_thumb_of_a_mild_rater_tells_more_than_the_usual_one() -> None:
    votes = [UserVote(answer, "mild", answer % 10 != 0) for answer in range(100)]
    mild = rater_history(votes, thumbs_agreement=0.7, history_votes=10).raters["mild"]
    assert mild.log_ratio(False) < 0 < mild.log_ratio(True) < -mild.log_ratio(False)


def test_without_comparison_the_assumed_agreement_stands() -> None:
    votes = [UserVote(answer, f"user {answer}", answer % 2 == 0) for answer in range(50)]
    found = rater_history(votes, thumbs_agreement=0.7, history_votes=10)
    assert (found.compared, found.agreement) == (0, None)
    assert found.kappa == pytest.approx(0.4)
    # Two raters who agree 70% of the time: each is right with probability (1 + sqrt(2 * 0.7 - 1)) / 2.
    right = 1 / (1 + math.exp(-found.unknown.log_ratio(True)))
    assert right == pytest.approx((1 + math.sqrt(0.4)) / 2, abs=1e-6)


def test_raters_who_disagree_at_random_are_hardly_believed() -> None:
    competence = dict.fromkeys("abc", 0.0)
    found = simulated(competence, dict.fromkeys("abc", 0.5), answers=2_000, seed=3)
    assert found.kappa < 0.05
    assert all(abs(rater.log_ratio(True)) < 0.5 for rater in found.raters.values())


def test_unknown_users_count_and_are_not_compared() -> None:
    votes = [UserVote(0, None, True), UserVote(0, None, True), UserVote(1, None, False)]
    found = rater_history(votes, thumbs_agreement=0.7, history_votes=10)
    assert (found.votes, found.compared, dict(found.raters)) == (3, 0, {})
    assert found.of(None) is found.unknown
