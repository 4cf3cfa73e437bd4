"""What is true of each comparison by several people's votes, how sure that is, and how good each person's votes are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from preftune.audit.findings import Finding, count_of, share_of
from preftune.audit.truth_models import VoteModel, VoteTable, dawid_skene, glad, mace, majority
from preftune.audit.votes import CHOICES, NOBODY, Bools, Floats, Ints, Votes, leading_choice, sums_by
from preftune.errors import PreftuneError

Method: TypeAlias = Literal["dawid-skene", "mace", "glad", "majority"]

SHIFT_LIMIT = 0.15  # points by which a choice's share among truths may differ from its share among votes
FEW_ITEMS = 30


@dataclass(frozen=True, eq=False)
class Truth:
    """The inferred truth of the votes' items, in their order.

    ``posterior`` (items, choices) is the probability of each of CHOICES; ``choice`` (items,) the most probable one,
    NOBODY where two are; ``confidence`` (items,) its probability. The confidence that a pair's label is right is
    ``posterior[:, FIRST]``. ``confusion`` (annotators, choices, choices) is how each person votes (last) where the
    truth is so (middle), zero for a truth that nobody voted for, and ``skill`` (annotators,) how often he is right.
    ``log_prior`` (choices,) and ``log_weights`` (annotators, choices, choices) give the posterior by Bayes' rule.
    ``overruled`` are the items of which another choice has the most votes.
    """

    method: Method
    items: tuple[str, ...]
    annotators: tuple[str, ...]
    posterior: Floats
    choice: Ints
    confidence: Floats
    confusion: Floats
    skill: Floats
    log_prior: Floats
    log_weights: Floats
    overruled: tuple[str, ...]
    findings: tuple[Finding, ...]

    def rows(self) -> Iterator[dict[str, Any]]:
        """Each item's id, choice ("undecided" where two are as probable) and confidence."""
        for item, choice, confidence in zip(self.items, self.choice.tolist(), self.confidence.tolist(), strict=True):
            yield {
                "id": item,
                "choice": "undecided" if choice == NOBODY else CHOICES[choice],
                "confidence": confidence,
            }


def infer_truth(votes: Votes, method: Method = "dawid-skene", seed: int = 0) -> Truth:
    """The truth of each item by one of four models.

    "dawid-skene" learns a confusion matrix for each person, shrunk to the average person's; "mace" how often each
    one guesses, good where many people have few votes; "glad" also how hard each item is, through crowd-kit, and
    slowly; "majority" counts. The same votes and seed give the same truth. Raises PreftuneError for another method.
    """
    if method not in _MODELS:
        raise PreftuneError(f"There is no method {method!r}.", mend=f"Use one of {', '.join(get_args(Method))}.")
    used = np.unique(votes.choice)
    model = _fitted(votes, used, method, seed)
    posterior = _among_all(model.posterior, used, 0.0)
    choice = leading_choice(posterior) if len(posterior) else np.zeros(0, dtype=np.int64)
    counts = votes.counts()
    has_votes = counts.any(axis=1)
    choice = np.where(has_votes, choice, NOBODY)
    by_majority = leading_choice(counts) if len(counts) else choice
    is_overruled = has_votes & (by_majority != NOBODY) & (choice != by_majority)
    findings = (
        _single_finding(counts, votes),
        _overruled_finding(is_overruled, votes, method),
        _shift_finding(choice, counts, method),
        _unsettled_finding(model, method),
    )
    confusion = _among_all_votes(model.confusion, used, 0.0)
    return Truth(
        method=method,
        items=votes.items,
        annotators=votes.annotators,
        posterior=posterior,
        choice=choice,
        confidence=posterior.max(axis=1, initial=0),
        confusion=confusion,
        skill=np.einsum("k,akk->a", _prior(posterior[has_votes]), confusion),
        log_prior=_among_all(model.log_prior[None], used, -np.inf)[0],
        log_weights=_among_all_votes(model.log_weights, used, 0.0),
        overruled=_ids(votes, is_overruled),
        findings=tuple(finding for finding in findings if finding is not None),
    )


def choice_of_others(votes: Votes, truth: Truth) -> Ints:
    """(votes,): of each vote, the most probable truth of its item by all votes but this one.

    NOBODY where there is no other vote or the others leave two as probable. The people's matrices stay as they were
    fitted, with this vote among thousands.
    """
    weights = truth.log_weights[votes.annotator, :, votes.choice]  # (votes, choices)
    total = np.stack([sums_by(votes.item, column, len(votes.items)) for column in weights.T], axis=1)
    others = truth.log_prior + total[votes.item] - weights
    has_others = np.bincount(votes.item, minlength=len(votes.items))[votes.item] > 1
    leading = leading_choice(np.maximum(others, -1e9)) if len(others) else np.zeros(0, dtype=np.int64)
    return np.where(has_others, leading, NOBODY)


def _fitted(votes: Votes, used: Ints, method: Method, seed: int) -> VoteModel:
    table = VoteTable(
        item=votes.item,
        annotator=votes.annotator,
        choice=np.searchsorted(used, votes.choice),
        items=len(votes.items),
        annotators=len(votes.annotators),
        choices=max(1, len(used)),
    )
    # Where all votes are the same there is nothing to fit.
    return _MODELS[method if len(used) > 1 else "majority"](table, seed)


def _among_all(values: Floats, used: Ints, absent: float) -> Floats:
    """(rows, used choices) as (rows, CHOICES)."""
    wide = np.full((len(values), len(CHOICES)), absent)
    if len(used):
        wide[:, used] = values
    return wide


def _among_all_votes(values: Floats, used: Ints, absent: float) -> Floats:
    """(annotators, used choices, used choices) as (annotators, CHOICES, CHOICES)."""
    wide = np.full((len(values), len(CHOICES), len(CHOICES)), absent)
    if len(used):
        wide[:, used[:, None], used[None, :]] = values
    return wide


def _prior(posterior: Floats) -> Floats:
    return posterior.mean(axis=0) if len(posterior) else np.zeros(len(CHOICES))


def _single_finding(counts: Ints, votes: Votes) -> Finding | None:
    n = counts.sum(axis=1)
    single, voted = int((n == 1).sum()), int((n > 0).sum())
    if voted and single <= voted / 2:
        return None
    return Finding(
        id="truth-from-one-vote",
        severity="info",
        title="Too few votes to infer what is true",
        what="With one vote on an item there is nothing to hold it against; its confidence is the voter's record.",
        evidence=f"{single:,} of {count_of(voted, 'item')} have a single vote.",
        rows=_ids(votes, n == 1),
        remedy="Collect a second and third vote, first on a random hundred items.",
    )


def _overruled_finding(is_overruled: Bools, votes: Votes, method: Method) -> Finding | None:
    if not is_overruled.any():
        return None
    count, voted = int(is_overruled.sum()), len(np.unique(votes.item))
    return Finding(
        id="truth-against-majority",
        severity="info",
        title="Items on which the better voters overrule the majority",
        what="People who mostly agree with the others count for more than people who mostly do not.",
        evidence=f"{method} differs from the most votes on {count:,} of {count_of(voted, 'item')}.",
        rows=_ids(votes, is_overruled),
        remedy="Look at a few of them; where they are wrong, use the majority.",
        share=share_of(
            count, voted, "Majority overruled", "Share of the items of which another choice has most votes."
        ),
    )


def _shift_finding(choice: Ints, counts: Ints, method: Method) -> Finding | None:
    decided = choice[choice != NOBODY]
    if len(decided) < FEW_ITEMS:
        return None
    of_votes = counts.sum(axis=0) / counts.sum()
    of_truth = np.bincount(decided, minlength=len(CHOICES)) / len(decided)
    worst = int(np.abs(of_truth - of_votes).argmax())
    if method == "majority" or abs(of_truth[worst] - of_votes[worst]) <= SHIFT_LIMIT:
        return None
    return Finding(
        id="truth-shifted",
        severity="warning",
        title="The inferred truth is not what people say",
        what="A model of voters can explain every dispute by one choice; such a truth is its own, not the people's.",
        evidence=(
            f'"{CHOICES[worst]}" is {of_votes[worst]:.1%} of the votes, and {of_truth[worst]:.1%} of what {method} '
            "takes to be true."
        ),
        rows=(),
        remedy="Use mace or the majority, or collect more votes from each person.",
    )


def _unsettled_finding(model: VoteModel, method: Method) -> Finding | None:
    if model.is_settled:
        return None
    return Finding(
        id="truth-not-settled",
        severity="info",
        title="The inference did not settle",
        what="The probabilities still moved when the rounds were used up; they may differ a little from the best ones.",
        evidence=f"{method} stopped at its last round.",
        rows=(),
        remedy="Compare with another method.",
    )


def _ids(votes: Votes, keep: Bools) -> tuple[str, ...]:
    return tuple(votes.items[place] for place in np.flatnonzero(keep))


_MODELS: Mapping[Method, Callable[[VoteTable, int], VoteModel]] = {
    "dawid-skene": lambda table, seed: dawid_skene(table),
    "mace": lambda table, seed: mace(table, seed),
    "glad": lambda table, seed: glad(table),
    "majority": lambda table, seed: majority(table),
}
