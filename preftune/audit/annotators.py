"""Who votes well: agreement with the others, votes by position, ties, votes faster than anyone reads, gold items."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from preftune.audit.findings import Finding, Share, count_of, share_of
from preftune.audit.many_rates import holm
from preftune.audit.truth import Truth, choice_of_others, infer_truth
from preftune.audit.votes import CHOICES, FIRST, NOBODY, SECOND, TIE, Bools, Floats, Ints, Votes
from preftune.data.records import Choice
from preftune.errors import PreftuneError
from preftune.intervals import wilson

FEW_VOTES = 10  # of a person, below which nothing is said about him
AGREEMENT_GAP = 0.15  # points of agreement by which a person must miss the others on the same items
ONE_ANSWER = 0.8  # share of a person's votes that are the same answer
FASTEST_READING = 50.0  # characters a second
FAST_LIMIT = 0.25  # share of a person's votes that may be faster; he may know the prompt from the vote before
GOLD_LIMIT = 0.7  # share of the gold items that a person has to get right
SHOWN_PEOPLE = 5


@dataclass(frozen=True)
class Rate:
    """A share with Wilson's 95% interval and its n; None where nothing was counted."""

    value: float | None
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True)
class AnnotatorFigures:
    """One person's figures.

    ``agreement`` is with the truth that the others' votes give, and ``others`` is how often the others agree so on
    the same items. ``first`` is the share of the votes for the side shown first, ties left out. ``too_fast`` is among
    the votes with a time, ``gold`` among the votes on gold items. ``named`` lists what the findings say of him:
    "disagrees", "one-answer", "too-fast", "fails-gold".
    """

    id: str
    votes: int
    agreement: Rate
    others: float | None
    skill: float
    first: Rate
    ties: Rate
    too_fast: Rate
    gold: Rate
    named: tuple[str, ...]


@dataclass(frozen=True)
class AnnotatorAudit:
    """Everybody's figures, and of all votes together the agreement with the others and the share of the first side.

    ``named`` gives the people each finding is about, by what is said of them. ``too_few`` people have too few votes
    for anything to be said. ``method`` is that of the truth.
    """

    annotators: tuple[AnnotatorFigures, ...]
    agreement: Share
    first: Share
    too_few: int
    method: str
    named: dict[str, tuple[str, ...]]
    findings: tuple[Finding, ...]


def audit_annotators(
    votes: Votes,
    lengths: Mapping[str, int] | None = None,
    truth: Truth | None = None,
    gold: Mapping[str, Choice] | None = None,
) -> AnnotatorAudit:
    """Who disagrees with all, always gives one answer, answers faster than anyone reads, or fails the gold items.

    ``lengths`` are the characters to read of each item (``lengths_of``); without them no vote is called too fast.
    ``truth`` defaults to Dawid and Skene's; it is always used without the vote that is compared with it. Each of the
    four questions is asked of all people at once, and Holm's correction keeps the chance of naming anybody wrongly
    in it below 5%.

    A vote is too fast below its characters / 50 a second: twice the 238 English words a minute that adults read
    silently (Brysbaert 2019, How many words do we read per minute?), at six characters a word with its space.
    """
    truth = truth or infer_truth(votes)
    if (truth.items, truth.annotators) != (votes.items, votes.annotators):
        raise PreftuneError("The truth is of other votes.", mend="Infer it from the votes that are audited.")
    measured = _measured(votes, truth, lengths or {}, gold or {})
    named = {name: tuple(np.array(votes.annotators, dtype=object)[who]) for name, who in measured.named.items()}
    people = _figures(votes, truth, measured)
    too_few = int((measured.votes < FEW_VOTES).sum())
    findings = (
        *(_named_finding(name, people, named[name], votes) for name in _SAYINGS),
        _two_finding(votes),
        _few_finding(too_few, len(people)),
    )
    return AnnotatorAudit(
        annotators=people,
        agreement=share_of(
            int(measured.agrees.sum()),
            int(measured.compared.sum()),
            "Votes that agree with the others",
            "Share of the votes that are what the other votes on the item say is true.",
        ),
        first=share_of(
            int(measured.first.sum()),
            int(measured.decided.sum()),
            "Votes for the side shown first",
            "Share among the votes for a side; near 50% where sides are shown in random order.",
        ),
        too_few=too_few,
        method=truth.method,
        named=named,
        findings=tuple(finding for finding in findings if finding is not None),
    )


@dataclass(frozen=True)
class _Measured:
    """Counts of each person (annotators,); ``others_agree`` of ``others_compared`` are the others' on his items."""

    votes: Ints
    agrees: Ints
    compared: Ints
    others_agree: Ints
    others_compared: Ints
    first: Ints
    decided: Ints
    ties: Ints
    fast: Ints
    timed: Ints
    right: Ints
    gold: Ints
    named: dict[str, Bools] = field(default_factory=dict)


def _measured(votes: Votes, truth: Truth, lengths: Mapping[str, int], gold: Mapping[str, Choice]) -> _Measured:
    others = choice_of_others(votes, truth)
    is_compared, agrees = others != NOBODY, others == votes.choice
    is_decided = votes.choice <= SECOND
    is_first = is_decided & ((votes.choice == FIRST) != votes.is_swapped)
    seconds_needed = _per_item(votes, lengths, np.nan) / FASTEST_READING
    is_timed = ~np.isnan(votes.seconds) & ~np.isnan(seconds_needed)
    is_fast = is_timed & (np.nan_to_num(votes.seconds) < np.nan_to_num(seconds_needed))
    answer = _per_item(votes, {item: CHOICES.index(choice) for item, choice in gold.items()}, NOBODY)
    is_gold, is_right = answer != NOBODY, answer == votes.choice
    is_tie = votes.choice == TIE
    counts = _Measured(
        votes=_by_person(votes, np.ones(len(votes), dtype=np.bool_)),
        agrees=_by_person(votes, is_compared & agrees),
        compared=_by_person(votes, is_compared),
        others_agree=_of_others(votes, is_compared & agrees),
        others_compared=_of_others(votes, is_compared),
        first=_by_person(votes, is_first),
        decided=_by_person(votes, is_decided),
        ties=_by_person(votes, is_tie),
        fast=_by_person(votes, is_fast),
        timed=_by_person(votes, is_timed),
        right=_by_person(votes, is_gold & is_right),
        gold=_by_person(votes, is_gold),
    )
    counts.named.update(
        {
            "disagrees": _disagree(counts),
            "one-answer": _give_one_answer(votes, counts, is_first, is_decided, is_tie),
            "too-fast": _exceed(counts.fast, counts.timed, FAST_LIMIT),
            "fails-gold": _exceed(counts.gold - counts.right, counts.gold, 1 - GOLD_LIMIT),
        }
    )
    return counts


def _per_item(votes: Votes, values: Mapping[str, float], absent: float) -> Floats:
    """(votes,): the value of each vote's item."""
    of_items = np.array([values.get(item, absent) for item in votes.items], dtype=np.float64)
    return of_items[votes.item]


def _by_person(votes: Votes, is_counted: Bools) -> Ints:
    return np.bincount(votes.annotator[is_counted], minlength=len(votes.annotators))


def _of_others(votes: Votes, is_counted: Bools) -> Ints:
    """(annotators,): how many of the others' votes on each person's items are counted."""
    of_items = np.bincount(votes.item[is_counted], minlength=len(votes.items))
    by_others = of_items[votes.item] - is_counted
    return np.bincount(votes.annotator, weights=by_others, minlength=len(votes.annotators)).astype(np.int64)


def _disagree(counts: _Measured) -> Bools:
    """Who agrees clearly less than the others do on the same items: Fisher's exact test, and a gap that matters."""
    p_values = _fisher_low(counts.agrees, counts.compared, counts.others_agree, counts.others_compared)
    share, others = _share(counts.agrees, counts.compared), _share(counts.others_agree, counts.others_compared)
    return _is_clear(p_values, counts.compared) & (others - share >= AGREEMENT_GAP)


def _give_one_answer(votes: Votes, counts: _Measured, is_first: Bools, is_decided: Bools, is_tie: Bools) -> Bools:
    """Who nearly always answers first, second or tie, where the others on the same items do not.

    A share must be unlike the others' (Fisher) and, of the two sides, unlike a coin's (binomial): where one side is
    better in truth, many votes for it are right.
    """
    first_of_others, decided_of_others = _of_others(votes, is_first), _of_others(votes, is_decided)
    everyone = np.ones(len(votes), dtype=np.bool_)
    sides = (
        (counts.first, first_of_others),
        (counts.decided - counts.first, decided_of_others - first_of_others),
    )
    named = np.zeros(len(votes.annotators), dtype=np.bool_)
    for count, by_others in sides:
        p_values = np.maximum(
            _binomial_high(count, counts.decided, 0.5),
            _fisher_high(count, counts.decided, by_others, decided_of_others),
        )
        named |= _is_clear(p_values * len(sides), counts.decided) & (_share(count, counts.decided) >= ONE_ANSWER)
    p_values = _fisher_high(counts.ties, counts.votes, _of_others(votes, is_tie), _of_others(votes, everyone))
    return named | (_is_clear(p_values, counts.votes) & (_share(counts.ties, counts.votes) >= ONE_ANSWER))


def _exceed(count: Ints, n: Ints, limit: float) -> Bools:
    """Whose share is clearly above ``limit`` (binomial)."""
    return _is_clear(_binomial_high(count, n, limit), n)


def _is_clear(p_values: Floats, n: Ints) -> Bools:
    """Holm's decision among the people with enough votes; the others are not asked, which costs nobody any power."""
    with np.errstate(invalid="ignore"):
        return holm(np.where(n >= FEW_VOTES, np.minimum(p_values, 1), np.nan)) < 0.05


def _fisher_low(count: Ints, n: Ints, others: Ints, others_n: Ints) -> Floats:
    """One-sided p-values that ``count`` of ``n`` is as large a share as ``others`` of ``others_n``."""
    from scipy.stats import hypergeom

    return hypergeom.cdf(count, n + others_n, count + others, n)


def _fisher_high(count: Ints, n: Ints, others: Ints, others_n: Ints) -> Floats:
    return _fisher_low(n - count, n, others_n - others, others_n)


def _binomial_high(count: Ints, n: Ints, share: float) -> Floats:
    from scipy.stats import binom

    return binom.sf(count - 1, n, share)


def _share(count: Ints, n: Ints) -> Floats:
    return np.where(n > 0, count / np.maximum(n, 1), np.nan)


def _figures(votes: Votes, truth: Truth, measured: _Measured) -> tuple[AnnotatorFigures, ...]:
    rates = zip(
        _rates(measured.agrees, measured.compared),
        _rates(measured.first, measured.decided),
        _rates(measured.ties, measured.votes),
        _rates(measured.fast, measured.timed),
        _rates(measured.right, measured.gold),
        strict=True,
    )
    others = _share(measured.others_agree, measured.others_compared)
    return tuple(
        AnnotatorFigures(
            id=votes.annotators[person],
            votes=int(measured.votes[person]),
            agreement=agreement,
            others=None if np.isnan(others[person]) else float(others[person]),
            skill=float(truth.skill[person]),
            first=first,
            ties=ties,
            too_fast=fast,
            gold=gold,
            named=tuple(name for name, who in measured.named.items() if who[person]),
        )
        for person, (agreement, first, ties, fast, gold) in enumerate(rates)
    )


def _rates(counts: Ints, n: Ints) -> list[Rate]:
    shares = _share(counts, n)
    lows, highs = wilson(shares, n)
    rows = zip(shares.tolist(), lows.tolist(), highs.tolist(), n.tolist(), strict=True)
    return [Rate(value, low, high, size) if size else Rate(None, None, None, 0) for value, low, high, size in rows]


def _named_finding(name: str, people: Sequence[AnnotatorFigures], ids: Sequence[str], votes: Votes) -> Finding | None:
    if not ids:
        return None
    saying = _SAYINGS[name]
    named = sorted((person for person in people if person.id in set(ids)), key=lambda person: -person.votes)
    shown = "; ".join(f"{person.id}: {saying.figure(person)}" for person in named[:SHOWN_PEOPLE])
    more = f"; and {len(named) - SHOWN_PEOPLE} more" if len(named) > SHOWN_PEOPLE else ""
    is_theirs = np.isin(votes.annotator, [place for place, each in enumerate(votes.annotators) if each in set(ids)])
    share = share_of(
        int(is_theirs.sum()), len(votes), "Votes of the people named", "Their share of all votes in the data."
    )
    return Finding(
        id=f"annotators-{name}",
        severity="warning",
        title=saying.title,
        what=saying.what,
        evidence=f"{len(named):,} of {len(people):,} people, {int(is_theirs.sum()):,} votes: {shown}{more}.",
        rows=tuple(votes.items[place] for place in np.unique(votes.item[is_theirs])),
        remedy=saying.remedy,
        share=share,
        examples=tuple({"annotator": person.id, "why": saying.figure(person)} for person in named[:SHOWN_PEOPLE]),
    )


def _two_finding(votes: Votes) -> Finding | None:
    most = int(np.bincount(votes.item, minlength=1).max())
    if most != 2:
        return None
    return Finding(
        id="two-votes-an-item",
        severity="info",
        title="Two votes an item do not show whose is wrong",
        what="Where two people disagree, each misses the other by as much; only a third vote or gold items tell.",
        evidence="No item has more than two votes.",
        rows=(),
        remedy="Add a third person on the disputed items, or items whose answer is known.",
    )


def _few_finding(too_few: int, people: int) -> Finding | None:
    if not too_few:
        return None
    return Finding(
        id="annotators-unknown",
        severity="info",
        title="People with too few votes to judge",
        what="A handful of votes tells chance from carelessness in nobody.",
        evidence=f"{too_few:,} of {count_of(people, 'annotator')} gave fewer than {FEW_VOTES} votes.",
        rows=(),
        remedy="Give fewer people more items each, or mix in items whose answer is known.",
    )


@dataclass(frozen=True)
class _Saying:
    """The words of a finding about people."""

    title: str
    what: str
    remedy: str
    figure: Callable[[AnnotatorFigures], str]


def _percent(rate: Rate) -> str:
    if rate.value is None or rate.low is None or rate.high is None:
        return "not known"
    return f"{rate.value:.0%} (95% interval {rate.low:.0%} to {rate.high:.0%}, n = {rate.n:,})"


def _most_given(person: AnnotatorFigures) -> str:
    if (person.ties.value or 0) >= ONE_ANSWER:
        return f"tie in {_percent(person.ties)}"
    return f"the side shown first in {_percent(person.first)}"


_SAYINGS: dict[str, _Saying] = {
    "disagrees": _Saying(
        title="People who disagree with all others",
        what="Their votes are clearly below what others reach on the same items: guessing, haste or another reading.",
        remedy="Talk to them, look at ten of their votes, and leave their votes out where they guessed.",
        figure=lambda person: f"agrees in {_percent(person.agreement)}, the others in {person.others or 0:.0%}",
    ),
    "one-answer": _Saying(
        title="People who nearly always give one answer",
        what="They choose the same side, or the tie, whatever is shown, and the others on these items do not.",
        remedy="Leave their votes out, and show the sides in random order.",
        figure=_most_given,
    ),
    "too-fast": _Saying(
        title="People who answer faster than anyone reads",
        what=f"They often vote in less time than the text takes at {FASTEST_READING:.0f} characters a second.",
        remedy="Look at ten of their votes; leave them out where they guessed, and set a least time a vote.",
        figure=lambda person: f"too fast in {_percent(person.too_fast)}",
    ),
    "fails-gold": _Saying(
        title="People who fail the items whose answer is known",
        what=f"They get clearly less than {GOLD_LIMIT:.0%} of the gold items right.",
        remedy="Leave their votes out, or instruct them again.",
        figure=lambda person: f"right in {_percent(person.gold)}",
    ),
}
