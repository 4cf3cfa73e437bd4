"""How far people agree: Krippendorff's alpha, Fleiss' and Cohen's kappa, raw agreement, over all and by slice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from preftune.audit.agreement_measures import (
    RESAMPLES,
    bootstrapped,
    cohen_kappas,
    fleiss_kappa,
    item_agreement,
    krippendorff_alpha,
    mean_agreement,
    tables_of_two,
    with_interval,
)
from preftune.audit.findings import Finding, Share, count_of, share_of
from preftune.audit.many_rates import holm
from preftune.audit.votes import CHOICES, NOBODY, Bools, Floats, Ints, Votes, leading_choice, sums_by

LOW_AGREEMENT = 0.6  # raw; preference work commonly reaches 60 to 75%
CHANCE_ALPHA = 0.2  # an alpha that is surely below it says little more than guessing
FEW_ITEMS = 30  # with several votes; below it no figure is trusted, and no slice or pair of people is compared
SLICE_GAP = 0.05  # points of raw agreement by which a slice must miss the rest
SHOWN_KAPPAS = 100  # pairs of people with the most common items


@dataclass(frozen=True)
class PairAgreement:
    """How far two people agree on the items both voted on, of which ``kappa.n`` are."""

    annotators: tuple[str, str]
    kappa: Share
    agreement: float


@dataclass(frozen=True)
class SliceAgreement:
    """How far people agree on one part of the items; ``is_low`` where that is clearly below the other parts."""

    name: str
    alpha: Share
    agreement: Share
    is_low: bool


@dataclass(frozen=True)
class AgreementAudit:
    """How far people agree.

    ``compared`` of the ``items`` have two votes or more, and the coefficients are about those. ``majority`` counts
    the items by the choice with the most votes, "none" where two share the lead. ``fleiss`` is None unless all
    compared items have as many votes. ``kappas`` are those of the pairs of people with the most items in common,
    out of ``pairs_with_enough``.
    """

    items: int
    compared: int
    votes: int
    annotators: int
    repeated: int
    unvoted: int
    alpha: Share
    fleiss: Share | None
    agreement: Share
    unanimous: Share
    majority: dict[str, int]
    kappas: tuple[PairAgreement, ...]
    pairs_with_enough: int
    slices: tuple[SliceAgreement, ...]
    findings: tuple[Finding, ...]


def audit_agreement(votes: Votes, slices: Mapping[str, str] | None = None, seed: int = 0) -> AgreementAudit:
    """How far people agree, with 95% intervals from 1,000 resamples of the items.

    Choices are nominal: a tie is as far from "first" as "second" is. ``slices`` names each item's part of the data,
    such as its application; items without a name are in no slice.
    """
    rng = np.random.default_rng(seed)
    counts = votes.counts()
    is_compared = counts.sum(axis=1) >= 2
    compared = counts[is_compared]
    agreement = _agreement_share(compared, rng)
    alpha = _alpha_share(compared, rng)
    kappas, with_enough = _kappas(votes, rng)
    parts = _slices(votes.items, counts, slices or {}, rng)
    is_split = is_compared & (counts.max(axis=1, initial=0) < counts.sum(axis=1))
    leading = leading_choice(counts[counts.any(axis=1)])
    findings = (
        _few_finding(len(compared), votes),
        _low_finding(agreement, votes, is_split),
        _chance_finding(alpha, votes, is_split),
        _slice_finding(parts, slices or {}, votes, is_split),
        _repeated_finding(votes),
    )
    return AgreementAudit(
        items=len(votes.items),
        compared=len(compared),
        votes=len(votes),
        annotators=len(votes.annotators),
        repeated=votes.repeated,
        unvoted=votes.unvoted,
        alpha=alpha,
        fleiss=_fleiss_share(compared, rng),
        agreement=agreement,
        unanimous=_unanimous_share(compared),
        majority={name: int((leading == code).sum()) for name, code in _outcomes().items()},
        kappas=kappas,
        pairs_with_enough=with_enough,
        slices=parts,
        findings=tuple(finding for finding in findings if finding is not None),
    )


def _agreement_share(counts: Ints, rng: np.random.Generator) -> Share:
    title = "Two people agree"
    explanation = "Chance that two votes on an item are equal, over the items with two votes or more."
    share = bootstrapped(mean_agreement, counts, title, explanation, "share", rng)
    if share.low is not None or share.value is None:
        return share
    # No item, or every item, in dispute: resamples of what is all the same say nothing about its uncertainty.
    bounds = share_of(round(share.value * len(counts)), len(counts), title, explanation)
    return Share(share.value, bounds.low, bounds.high, share.n, title, explanation)


def _alpha_share(counts: Ints, rng: np.random.Generator) -> Share:
    explanation = (
        "Agreement beyond chance, nominal: 1 is perfect, 0 is what guessing gives. Krippendorff asks for 0.8, and for "
        "0.667 where only tentative conclusions are drawn; judgements of taste are often below."
    )
    return bootstrapped(krippendorff_alpha, counts, "Krippendorff's alpha", explanation, "", rng)


def _fleiss_share(counts: Ints, rng: np.random.Generator) -> Share | None:
    if len(np.unique(counts.sum(axis=1))) != 1:
        return None
    explanation = "Agreement beyond chance where every item has as many votes (Fleiss 1971): 1 is perfect, 0 chance."
    return bootstrapped(fleiss_kappa, counts, "Fleiss' kappa", explanation, "", rng)


def _unanimous_share(counts: Ints) -> Share:
    same = int((counts.max(axis=1, initial=0) == counts.sum(axis=1)).sum())
    explanation = "Share of the items with two votes or more on which all votes are equal."
    return share_of(same, len(counts), "Unanimous items", explanation)


def _outcomes() -> dict[str, int]:
    return {**{name: code for code, name in enumerate(CHOICES)}, "none": NOBODY}


def _kappas(votes: Votes, rng: np.random.Generator) -> tuple[tuple[PairAgreement, ...], int]:
    """Cohen's kappas of the pairs of people with the most common items, and how many pairs have enough of those."""
    pairs, tables = tables_of_two(votes, FEW_ITEMS)
    order = np.argsort(-tables.sum(axis=(1, 2)), kind="stable")[:SHOWN_KAPPAS]
    return tuple(_pair_agreement(votes, int(pairs[place]), tables[place], rng) for place in order), len(pairs)


def _pair_agreement(votes: Votes, pair: int, table: Ints, rng: np.random.Generator) -> PairAgreement:
    n = int(table.sum())
    drawn = rng.multinomial(n, table.ravel() / n, size=RESAMPLES).reshape(-1, *table.shape)
    explanation = "Agreement of two people beyond chance: 1 is perfect, 0 chance."
    empty = Share(None, None, None, n, "Cohen's kappa", explanation, "")
    first, second = divmod(pair, len(votes.annotators))
    return PairAgreement(
        annotators=(votes.annotators[first], votes.annotators[second]),
        kappa=with_interval(float(cohen_kappas(table[None])[0]), cohen_kappas(drawn), empty),
        agreement=float(np.trace(table) / n),
    )


def _slices(
    items: tuple[str, ...], counts: Ints, slices: Mapping[str, str], rng: np.random.Generator
) -> tuple[SliceAgreement, ...]:
    """Every slice with items to compare, by name."""
    place = np.array([item in slices for item in items], dtype=np.bool_) & (counts.sum(axis=1) >= 2)
    if not place.any():
        return ()
    names, part = np.unique([str(slices[items[i]]) for i in np.flatnonzero(place)], return_inverse=True)
    compared = counts[place]
    is_low = _is_below_the_rest(item_agreement(compared), part, len(names))
    order = np.argsort(part, kind="stable")
    groups = np.split(order, np.cumsum(np.bincount(part))[:-1])
    return tuple(
        SliceAgreement(
            name=str(name),
            alpha=_alpha_share(compared[group], rng),
            agreement=_agreement_share(compared[group], rng),
            is_low=bool(low),
        )
        for name, group, low in zip(names, groups, is_low, strict=True)
    )


def _is_below_the_rest(agreement: Floats, part: Ints, parts: int) -> Bools:
    """(parts,): Welch's test of a part's mean agreement against that of the others, one-sided, Holm over the parts."""
    from scipy.stats import norm

    n, total, squares = (sums_by(part, agreement**power, parts) for power in (0, 1, 2))
    rest, rest_total, rest_squares = n.sum() - n, total.sum() - total, squares.sum() - squares
    is_tested = (n >= FEW_ITEMS) & (rest >= FEW_ITEMS)
    gap = np.full(parts, np.nan)
    error = np.ones(parts)
    gap[is_tested] = (rest_total / rest.clip(1) - total / n.clip(1))[is_tested]
    variance = _variance_of_mean(n, total, squares) + _variance_of_mean(rest, rest_total, rest_squares)
    error[is_tested] = np.sqrt(variance[is_tested])
    with np.errstate(invalid="ignore"):
        return (holm(norm.sf(gap / error)) < 0.05) & (gap >= SLICE_GAP)


def _variance_of_mean(n: Floats, total: Floats, squares: Floats) -> Floats:
    """The squared error of a mean of values in [0, 1]; a quarter is added so that no spread seen is not certainty."""
    n = n.clip(1)
    return (np.maximum(squares - total**2 / n, 0) + 0.25) / n**2


def _few_finding(compared: int, votes: Votes) -> Finding | None:
    if compared >= FEW_ITEMS:
        return None
    voted = len(np.unique(votes.item))
    return Finding(
        id="few-votes",
        severity="info",
        title="Too few votes to measure agreement",
        what="Agreement shows only where several people judge the same item.",
        evidence=f"{count_of(compared, 'item')} of {voted:,} with votes have two or more; {FEW_ITEMS} are the least.",
        rows=(),
        remedy="Have at least two people judge the same random hundred items.",
    )


def _low_finding(agreement: Share, votes: Votes, is_split: Bools) -> Finding | None:
    if agreement.value is None or agreement.n < FEW_ITEMS or agreement.value >= LOW_AGREEMENT:
        return None
    is_sure = agreement.high is not None and agreement.high < LOW_AGREEMENT
    return Finding(
        id="low-agreement",
        severity="warning" if is_sure else "info",
        title="People disagree much" if is_sure else "People may disagree much",
        what="Where people disagree, labels are partly chance, and no model can be more accurate than the labels are.",
        evidence=f"Two people agree on {_interval(agreement)}; 60 to 75% is common for preferences.",
        rows=_ids(votes, is_split),
        remedy="Sharpen the instruction with examples of the disputed items, allow ties, and collect more votes there.",
        share=agreement,
    )


def _chance_finding(alpha: Share, votes: Votes, is_split: Bools) -> Finding | None:
    if alpha.high is None or alpha.n < FEW_ITEMS or alpha.high >= CHANCE_ALPHA:
        return None
    return Finding(
        id="agreement-by-chance",
        severity="warning",
        title="Agreement is hardly better than chance",
        what="People who answer by habit, such as nearly always the first, also agree often.",
        evidence=f"Krippendorff's alpha is {alpha.value:.3f} (95% interval {alpha.low:.3f} to {alpha.high:.3f}).",
        rows=_ids(votes, is_split),
        remedy="Look at the annotators one by one, and at what they were asked.",
        share=alpha,
    )


def _slice_finding(
    parts: tuple[SliceAgreement, ...], slices: Mapping[str, str], votes: Votes, is_split: Bools
) -> Finding | None:
    low = {part.name: part for part in parts if part.is_low}
    if not low:
        return None
    is_in = np.array([item in slices and str(slices[item]) in low for item in votes.items], dtype=np.bool_)
    named = sorted(low.values(), key=lambda part: part.agreement.value or 0)
    return Finding(
        id="slices-disagree",
        severity="warning",
        title="Parts of the data on which people agree less",
        what="Labels of these parts are worth less than the others.",
        evidence="; ".join(f"{part.name}: {_interval(part.agreement)}" for part in named[:5])
        + (f"; and {len(named) - 5} more." if len(named) > 5 else "."),
        rows=_ids(votes, is_split & is_in),
        remedy="Sharpen the instruction for these parts, or give their rows soft labels.",
    )


def _repeated_finding(votes: Votes) -> Finding | None:
    if not votes.repeated:
        return None
    return Finding(
        id="repeated-votes",
        severity="info",
        title="People who voted twice on an item",
        what="Of a person's votes on one item the last counts.",
        evidence=f"{count_of(votes.repeated, 'earlier vote')} left out of {len(votes) + votes.repeated:,}.",
        rows=(),
        remedy="Check that annotator ids are unique, and that different items have different ids.",
    )


def _interval(share: Share) -> str:
    return f"{share.value:.1%} of {count_of(share.n, 'item')} (95% interval {share.low:.1%} to {share.high:.1%})"


def _ids(votes: Votes, keep: Bools) -> tuple[str, ...]:
    return tuple(votes.items[place] for place in np.flatnonzero(keep))
