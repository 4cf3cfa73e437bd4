"""Models of how people's votes come about, fitted by EM: what is true of each item, and how each person errs.

Dawid-Skene and MACE are written out here although crowd-kit 1.4.2 has both. Its MACE gives people each other's habits
unless they come in the order of their names, so that shuffled rows change 90 of ukpconvarg's 4,721 labels, and starts
all its restarts from the same numbers; its Dawid-Skene stops after 4 rounds there, and without shrinkage would go on
to give 61% of the items more than 0.999. On votes where neither matters the tests hold these two to crowd-kit's.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from preftune.audit.votes import Floats, Ints, sums_by
from preftune.errors import PreftuneError

# Votes' worth of the average person in each row of everybody's confusion matrix. Of ukpconvarg's votes, 8 a person,
# held-out ones are foretold as well with 20 as with 50 (log-likelihood -0.80 a vote); with 4 it is -0.82, with 1 -0.89.
SHRINKAGE = 20.0
FLOOR = 1e-10  # of a probability, so that no single vote is beyond doubt
ROUNDS = 500
SETTLED = 1e-4  # change of the surest probability between two rounds at which EM stops

MACE_RESTARTS = 5  # on ukpconvarg the best of more differs from one in 20 of 4,721 items
MACE_KNOWING_PRIOR = 0.5  # of the Beta prior, both sides
MACE_HABIT_PRIOR = 10.0  # of the Dirichlet prior on what a person answers who does not look


class VoteTable(NamedTuple):
    """Votes as three aligned columns of numbers (votes,), and how many items, people and choices there are."""

    item: Ints
    annotator: Ints
    choice: Ints
    items: int
    annotators: int
    choices: int


@dataclass(frozen=True, eq=False)
class VoteModel:
    """A fitted model.

    ``posterior`` (items, choices) is how probable each choice is the true one. ``log_prior`` (choices,) and
    ``log_weights`` (annotators, choices, choices), which is what a vote says for each truth, give the posterior of an
    item as softmax(log_prior + sum of its votes' log_weights). ``confusion`` (annotators, choices, choices) holds the
    probability of a vote (last) where the truth is so (middle).
    """

    posterior: Floats
    log_prior: Floats
    log_weights: Floats
    confusion: Floats
    is_settled: bool


def majority(table: VoteTable) -> VoteModel:
    """Every vote counts the same; the posterior is the share of the votes."""
    posterior = _vote_shares(table)
    evidence = np.broadcast_to(np.eye(table.choices), (table.annotators, table.choices, table.choices))
    return VoteModel(posterior, np.zeros(table.choices), evidence, _confusion(table, posterior, SHRINKAGE), True)


def dawid_skene(table: VoteTable, shrinkage: float = SHRINKAGE) -> VoteModel:
    """A confusion matrix for each person (Dawid and Skene 1979), which ``shrinkage`` draws to that of all together.

    Without it a person of five votes gets zeros in his matrix, and an item's posterior is 0 or 1 on his word alone.
    """
    fit = _dawid_skene_round(table, _vote_shares(table), shrinkage)
    for _ in range(ROUNDS):
        before, fit = fit, _dawid_skene_round(table, fit.posterior, shrinkage)
        if _is_settled(before.posterior, fit.posterior):
            return replace(fit, is_settled=True)
    return fit


def mace(table: VoteTable, seed: int = 0, restarts: int = MACE_RESTARTS) -> VoteModel:
    """People who know the answer at times and else follow a habit (Hovy et al. 2013), by variational Bayes.

    The best of ``restarts`` random starts by the votes' likelihood.
    """
    rng = np.random.default_rng(seed)
    fits = [_mace_once(table, rng) for _ in range(restarts)]
    return max(fits, key=lambda fit: fit[0])[1]


def glad(table: VoteTable) -> VoteModel:
    """Able and less able people on easy and hard items (Whitehill et al. 2009), by crowd-kit.

    Its evidence differs by item; the ``log_weights`` here are those of the confusion its posterior implies.
    """
    try:
        import pandas as pd  # pyright: ignore[reportMissingImports]
        from crowdkit.aggregation import GLAD  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise PreftuneError(
            "The method glad needs crowd-kit.", mend='Install it with: pip install "preftune[audit]"'
        ) from error
    votes = pd.DataFrame({"task": table.item, "worker": table.annotator, "label": table.choice})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what pandas will drop one day is not the user's to mend
        probabilities = GLAD().fit_predict_proba(votes)
    posterior = probabilities.reindex(index=range(table.items), columns=range(table.choices)).to_numpy(np.float64)
    posterior = np.where(np.isnan(posterior), 1 / table.choices, posterior)
    confusion = _confusion(table, posterior, SHRINKAGE)
    log_prior = np.full(table.choices, -np.log(table.choices))
    return VoteModel(posterior, log_prior, np.log(np.maximum(confusion, FLOOR)), confusion, True)


def evidence_of_votes(table: VoteTable, log_weights: Floats) -> Floats:
    """(items, choices): the sum of what an item's votes say for each truth."""
    columns = [
        sums_by(table.item, log_weights[table.annotator, truth, table.choice], table.items)
        for truth in range(table.choices)
    ]
    return np.stack(columns, axis=1)


def _vote_shares(table: VoteTable) -> Floats:
    """(items, choices): the share of each choice; even where there are no votes."""
    cells = np.bincount(table.item * table.choices + table.choice, minlength=table.items * table.choices)
    counts = cells.reshape(table.items, table.choices).astype(np.float64)
    n = counts.sum(axis=1, keepdims=True)
    return np.where(n > 0, counts / np.maximum(n, 1), 1 / table.choices)


def _confusion(table: VoteTable, posterior: Floats, shrinkage: float) -> Floats:
    """(annotators, truth, vote): how each person votes, drawn to the average person by so many votes."""
    person_and_vote = table.annotator * table.choices + table.choice
    size = table.annotators * table.choices
    counts = np.stack([sums_by(person_and_vote, posterior[table.item, truth], size) for truth in range(table.choices)])
    counts = counts.reshape(table.choices, table.annotators, table.choices).transpose(1, 0, 2)
    pooled = counts.sum(axis=0) + 1 / table.choices
    average = pooled / pooled.sum(axis=1, keepdims=True)
    mixed = np.maximum(counts + shrinkage * average, FLOOR)
    return mixed / mixed.sum(axis=2, keepdims=True)


def _dawid_skene_round(table: VoteTable, posterior: Floats, shrinkage: float) -> VoteModel:
    confusion = _confusion(table, posterior, shrinkage)
    log_prior = np.log(np.maximum(posterior.mean(axis=0), FLOOR))
    log_weights = np.log(confusion)
    posterior = _softmax(log_prior + evidence_of_votes(table, log_weights))
    return VoteModel(posterior, log_prior, log_weights, confusion, is_settled=False)


def _is_settled(before: Floats, after: Floats) -> bool:
    return bool(np.abs(after - before).max(initial=0) < SETTLED)


def _mace_once(table: VoteTable, rng: np.random.Generator) -> tuple[float, VoteModel]:
    """Log likelihood and model from one random start."""
    guessing = rng.uniform(1, 2, size=(table.annotators, 2))  # first column: follows the habit, second: knows
    guessing /= guessing.sum(axis=1, keepdims=True)
    habit = rng.uniform(1, 2, size=(table.annotators, table.choices))
    habit /= habit.sum(axis=1, keepdims=True)
    likelihood, fit = _mace_round(table, guessing, habit)
    for _ in range(ROUNDS):
        guessing, habit = _mace_parameters(table, fit.posterior, guessing, guessing[:, :1] * habit)
        before = fit.posterior
        likelihood, fit = _mace_round(table, guessing, habit)
        if _is_settled(before, fit.posterior):
            return likelihood, replace(fit, is_settled=True)
    return likelihood, fit


def _mace_round(table: VoteTable, guessing: Floats, habit: Floats) -> tuple[float, VoteModel]:
    by_habit = guessing[:, :1] * habit  # (annotators, choices)
    by_knowing = guessing[:, 1, None, None] * np.eye(table.choices)  # (annotators, choices, choices)
    weights = by_habit[:, None, :] + by_knowing
    log_prior, log_weights = np.full(table.choices, -np.log(table.choices)), np.log(weights)
    joint = log_prior + evidence_of_votes(table, log_weights)
    confusion = weights / weights.sum(axis=2, keepdims=True)
    likelihood = float(np.logaddexp.reduce(joint, axis=1).sum())
    return likelihood, VoteModel(_softmax(joint), log_prior, log_weights, confusion, is_settled=False)


def _mace_parameters(table: VoteTable, posterior: Floats, guessing: Floats, by_habit: Floats) -> tuple[Floats, Floats]:
    """How often each person guesses (annotators, 2) and what he then says (annotators, choices)."""
    knowing, habit = guessing[table.annotator, 1], by_habit[table.annotator, table.choice]
    knew = posterior[table.item, table.choice] * knowing / (habit + knowing)  # (votes,)
    knowing_votes = sums_by(table.annotator, knew, table.annotators)
    guessing_votes = sums_by(table.annotator, 1 - knew, table.annotators)
    cells = table.annotator * table.choices + table.choice
    habit_votes = sums_by(cells, 1 - knew, table.annotators * table.choices)
    split = np.stack([guessing_votes, knowing_votes], axis=1)
    by_choice = habit_votes.reshape(table.annotators, table.choices)
    return _variational(split, MACE_KNOWING_PRIOR), _variational(by_choice, MACE_HABIT_PRIOR)


def _variational(counts: Floats, prior: float) -> Floats:
    """The weights exp(E[log p]) of rows under a symmetric Dirichlet prior; they add up to less than 1."""
    from scipy.special import digamma

    return np.exp(digamma(counts + prior) - digamma((counts + prior).sum(axis=1, keepdims=True)))


def _softmax(logs: Floats) -> Floats:
    weights = np.exp(logs - logs.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)
