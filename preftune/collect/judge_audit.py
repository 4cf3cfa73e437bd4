"""A judge's own audit: does it hold its verdict when the order turns, does length sway it, do people agree with it.

Thresholds: consistency below 0.8 (GPT-4 reached 0.65 on close pairs: Zheng et al. 2306.05685), a first-position test
at 0.01 with 100 verdicts, |z| of length above 3, replies that are no verdict above 2% and 10%.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from preftune.audit.findings import Finding, Share, count_of, share_of
from preftune.audit.logistic import Coefficient, wald_coefficients
from preftune.collect.judge_people import PeopleAgreement, Votes, agreement_with_people
from preftune.collect.verdicts import CHOICES, Verdict, consistent_pairs, majority

CONSISTENT: Final = 0.8
POSITION_P, POSITION_N = 0.01, 100
LENGTH_Z: Final = 3.0
INVALID, MANY_INVALID = 0.02, 0.10
FEW: Final = 30  # comparisons; below it no share is known to better than 17 points
BELOW_PEOPLE: Final = 0.05  # points of agreement by which a judge must miss people's own


@dataclass(frozen=True)
class JudgeAudit:
    """What a judge's verdicts say of the judge. Escaped repetitions are counted under ``injections`` only.

    ``kinds`` counts the verdicts. ``consistency`` is how often both orders give the same verdict, ``position`` how
    often the answer shown first is chosen, with the chance ``position_p`` of its turned verdicts if place meant
    nothing (exact). ``length`` is the change of the log-odds of winning for an answer twice as long, ``length_held``
    the same with people's choices held equal. ``first_wins`` is how often the comparison's first answer wins, and
    ``first_wins_at_equal_length`` what that would be without a difference in length. None where nothing can be told.
    """

    judges: tuple[str, ...]
    verdicts: int
    comparisons: int
    kinds: dict[str, int]
    consistency: Share
    position: Share
    position_p: float | None
    ties: Share
    invalid: Share
    refusals: Share
    length: Coefficient | None
    length_held: Coefficient | None
    first_wins: Share
    first_wins_at_equal_length: Share | None
    injections: dict[str, int]
    people: PeopleAgreement | None
    findings: tuple[Finding, ...]

    def as_dict(self) -> dict[str, Any]:
        """The audit as JSON can hold it."""
        return asdict(self)


def audit_judge(
    verdicts: Iterable[Verdict],
    human: Mapping[str, Votes] | None = None,
    *,
    injected: Mapping[str, Sequence[str]] | None = None,
    seed: int = 0,
) -> JudgeAudit:
    """What is wrong with a judge, from its verdicts; those of several are taken together.

    ``human`` are people's choices on a comparison (first, second, tie, both_bad), by their names or as a list;
    ``injected`` the signs of injection of a comparison, by its id.
    """
    plain = [verdict for verdict in verdicts if not verdict.is_escaped]
    kinds = Counter(verdict.kind for verdict in plain)
    pairs = consistent_pairs(plain)
    choices = judge_choices(plain)
    signs = {name: tuple(several) for name, several in (injected or {}).items() if several}
    people = agreement_with_people(choices, human, seed) if human and any(human.get(name) for name in choices) else None
    length, held, equal = _lengths(plain, human or {})
    found = JudgeAudit(
        judges=tuple(sorted({verdict.judge for verdict in plain})),
        verdicts=len(plain),
        comparisons=len({verdict.comparison for verdict in plain}),
        kinds={kind: kinds[kind] for kind in (*CHOICES, "invalid", "refusal", "failed")},
        consistency=_consistency(pairs),
        position=_position(plain),
        position_p=_position_p(pairs, plain),
        ties=share_of(kinds["tie"], sum(kinds[c] for c in CHOICES), "Ties", "Share of the verdicts that are a tie."),
        invalid=_invalid(kinds),
        refusals=_refusals(kinds),
        length=length,
        length_held=held,
        first_wins=_first_wins(choices),
        first_wins_at_equal_length=equal,
        injections=dict(Counter(sign for several in signs.values() for sign in several).most_common()),
        people=people,
        findings=(),
    )
    findings = (
        _position_finding(found, pairs),
        _bias_finding(found, plain),
        _invalid_finding(found, plain),
        _refusal_finding(found, plain),
        _injection_finding(found, signs),
        _length_finding(found),
        _people_finding(found),
        _few_finding(found, pairs),
    )
    return JudgeAudit(**{**vars(found), "findings": tuple(one for one in findings if one is not None)})


def judge_choices(verdicts: Iterable[Verdict]) -> dict[str, str]:
    """What was chosen in each comparison: what the orders of a sample agree on, and most samples; else a tie."""
    said: dict[str, dict[tuple[str, int], set[str]]] = {}
    for verdict in verdicts:
        if verdict.kind in CHOICES and not verdict.is_escaped:
            samples = said.setdefault(verdict.comparison, {})
            samples.setdefault((verdict.judge, verdict.sample), set()).add(verdict.kind)
    return {
        name: majority(next(iter(kinds)) if len(kinds) == 1 else "tie" for kinds in samples.values())
        for name, samples in said.items()
    }


# --- figures --------------------------------------------------------------------------------------------


def _consistency(pairs: Sequence[tuple[Verdict, Verdict]]) -> Share:
    same = sum(one.kind == other.kind for one, other in pairs)
    what = "Share of the comparisons judged in both orders whose verdict stays the same."
    return share_of(same, len(pairs), "Verdict holds in both orders", what)


def _chose_first_shown(verdict: Verdict) -> bool:
    return (verdict.kind == "first") != verdict.is_swapped


def _position(verdicts: Sequence[Verdict]) -> Share:
    decided = [verdict for verdict in verdicts if verdict.kind in ("first", "second")]
    first = sum(_chose_first_shown(verdict) for verdict in decided)
    what = "Share of the verdicts for one answer that are for the one shown first; with both orders 50% is right."
    return share_of(first, len(decided), "The answer shown first wins", what)


def _position_p(pairs: Sequence[tuple[Verdict, Verdict]], verdicts: Sequence[Verdict]) -> float | None:
    """Exact sign test on the verdicts that turned with the order; of one order only, on all of them.

    A verdict that holds chooses the first place once and the second once, so it says nothing of places.
    """
    from scipy.stats import binomtest

    if pairs:
        turned = [one for pair in pairs for one in pair if pair[0].kind != pair[1].kind and one.kind != "tie"]
    else:
        turned = [verdict for verdict in verdicts if verdict.kind in ("first", "second")]
    if not turned:
        return None if not pairs else 1.0
    if not pairs:
        return float(binomtest(sum(map(_chose_first_shown, turned)), len(turned)).pvalue)
    # One comparison is one witness: its two verdicts for the same place say it once.
    by_comparison = {(one.comparison, one.judge, one.sample): _chose_first_shown(one) for one in turned}
    return float(binomtest(sum(by_comparison.values()), len(by_comparison)).pvalue)


def _invalid(kinds: Mapping[str, int]) -> Share:
    replies = sum(kinds.get(kind, 0) for kind in (*CHOICES, "invalid", "refusal"))
    what = "Share of the replies that hold no verdict in the form asked for."
    return share_of(kinds.get("invalid", 0), replies, "Replies that are no verdict", what)


def _refusals(kinds: Mapping[str, int]) -> Share:
    replies = sum(kinds.get(kind, 0) for kind in (*CHOICES, "invalid", "refusal"))
    return share_of(kinds.get("refusal", 0), replies, "Refusals", "Share of the replies in which the judge refuses.")


def _first_wins(choices: Mapping[str, str]) -> Share:
    won = [choice for choice in choices.values() if choice != "tie"]
    what = "Share of the comparisons with a winner that the first answer of the row wins."
    return share_of(won.count("first"), len(won), "The row's first answer wins", what)


def _lengths(
    verdicts: Sequence[Verdict], human: Mapping[str, Votes]
) -> tuple[Coefficient | None, Coefficient | None, Share | None]:
    """The pull of length, the same with people's choices held equal, and the wins of first answers without it."""
    decided = [one for one in verdicts if one.kind in ("first", "second") and one.lengths is not None]
    numbers = {name: number for number, name in enumerate(sorted({one.comparison for one in decided}))}
    if len(numbers) < FEW:
        return None, None, None
    clusters = np.array([numbers[one.comparison] for one in decided])
    sign = np.array([1.0 if one.kind == "first" else -1.0 for one in decided])
    doublings = sign * np.array([_doublings(one.lengths) for one in decided])
    place = np.array([1.0 if _chose_first_shown(one) else -1.0 for one in decided])
    if not doublings.any():
        return None, None, None
    length = wald_coefficients(np.column_stack([doublings, place]), clusters)[0]
    # Judged in one order only, place and answer are one thing and cannot be told apart.
    both = [sign, doublings, place] if len(set(sign * place)) > 1 else [sign, doublings]
    first = wald_coefficients(np.column_stack(both), clusters)[0]
    what = (
        "How often the row's first answer would win were both of equal length: a logistic model of the winner with "
        "the difference in length and the place shown, at a difference of zero."
    )
    equal = Share(
        _expit(first.value), _expit(first.low), _expit(first.high), len(numbers), "The same at equal length", what
    )
    leanings = {name: _leaning(human[name]) for name in numbers if human.get(name)}
    known = np.array([one.comparison in leanings for one in decided])
    if len({one.comparison for one in decided if one.comparison in leanings}) < FEW:
        return length, None, equal
    leaning = sign * np.array([leanings.get(one.comparison, 0.0) for one in decided])
    columns = np.column_stack([doublings, place, leaning])[known]
    return length, wald_coefficients(columns, clusters[known])[0], equal


def _doublings(lengths: tuple[int, int] | None) -> float:
    assert lengths is not None
    return math.log2((lengths[0] + 1) / (lengths[1] + 1))


def _leaning(votes: Votes) -> float:
    """How far people are for the first answer, from -1 to 1."""
    values = list(votes.values()) if isinstance(votes, Mapping) else list(votes)
    return (values.count("first") - values.count("second")) / len(values)


def _expit(value: float) -> float:
    return 1 / (1 + math.exp(-max(-700.0, min(700.0, value))))


# --- findings -------------------------------------------------------------------------------------------


def _position_finding(audit: JudgeAudit, pairs: Sequence[tuple[Verdict, Verdict]]) -> Finding | None:
    share = audit.consistency
    if share.value is None or share.value >= CONSISTENT or share.n < 5:
        return None
    turned = tuple(dict.fromkeys(one.comparison for one, other in pairs if one.kind != other.kind))
    places = {_chose_first_shown(one) for pair in pairs for one in pair if one.kind != "tie"}
    all_decided = all(one.kind != "tie" for pair in pairs for one in pair)
    if share.value == 0 and all_decided and len(places) == 1:
        letter = "A, the answer shown first" if places == {True} else "B, the answer shown second"
        return Finding(
            id="judge-one-answer",
            severity="error",
            title="The judge always gives the same answer",
            what=f"Whatever is compared, its verdict is {letter}. It does not judge, and no pair comes from it.",
            evidence=f"In all {count_of(share.n, 'comparison')} the verdict turned with the order.",
            rows=turned,
            remedy="Take a more capable model, ask for a reason before the verdict, or look at the prompt it is sent.",
            share=share,
        )
    return Finding(
        id="judge-position",
        severity="warning",
        title="The verdict depends on the order",
        what="Shown in the other order, the same two answers often get another verdict; those count as ties.",
        evidence=(
            f"{_interval(share)} keep their verdict; at least {CONSISTENT:.0%} are wanted. "
            f"The answer shown first wins in {_interval(audit.position, 'verdict')}."
        ),
        rows=turned,
        remedy="Take a more capable judge, more samples or several judges; keep judging in both orders.",
        share=share,
    )


def _bias_finding(audit: JudgeAudit, verdicts: Sequence[Verdict]) -> Finding | None:
    share, p = audit.position, audit.position_p
    if p is None or p >= POSITION_P or share.n < POSITION_N or share.value is None:
        return None
    has_both = {one.is_swapped for one in verdicts} == {True, False}
    where = "first" if share.value > 0.5 else "second"
    caution = "" if has_both else " Each was judged in one order only, so the answers shown there may be better."
    return Finding(
        id="judge-place",
        severity="warning" if has_both else "info",
        title=f"The judge prefers the answer shown {where}",
        what=f"Where the place decides, it decides for the {where} one far more often than chance does.{caution}",
        evidence=f"The first wins in {_interval(share, 'verdict')}; p = {p:.2g} if places meant nothing.",
        rows=(),
        remedy="Count only verdicts that hold in both orders, as is done here.",
        share=share,
    )


def _invalid_finding(audit: JudgeAudit, verdicts: Sequence[Verdict]) -> Finding | None:
    share = audit.invalid
    if share.value is None or share.value <= INVALID:
        return None
    bad = [one for one in verdicts if one.kind == "invalid"]
    reasons = Counter(one.reason.split(":")[0] or "no reason is known" for one in bad).most_common(2)
    return Finding(
        id="judge-invalid",
        severity="error" if share.value > MANY_INVALID else "warning",
        title="Replies that are no verdict",
        what="They are counted and nothing is made of them; what they leave may not be what was collected.",
        evidence=f"{_interval(share, 'reply', 'replies')}: {'; '.join(f'{why} ({n:,})' for why, n in reasons)}.",
        rows=tuple(dict.fromkeys(one.comparison for one in bad)),
        remedy="Use an endpoint that holds the model to a JSON schema, allow longer replies, or take another judge.",
        share=share,
        examples=tuple({"id": one.comparison, "why": one.reason[:400]} for one in bad[:5]),
    )


def _refusal_finding(audit: JudgeAudit, verdicts: Sequence[Verdict]) -> Finding | None:
    share = audit.refusals
    if share.value is None or share.value <= INVALID:
        return None
    refused = [one for one in verdicts if one.kind == "refusal"]
    return Finding(
        id="judge-refusals",
        severity="warning",
        title="The judge refuses",
        what="What it refuses to judge is missing from the pairs, and that is not chance: it is what it shies from.",
        evidence=f"{_interval(share, 'reply', 'replies')} are refusals.",
        rows=tuple(dict.fromkeys(one.comparison for one in refused)),
        remedy="Have these judged by another model or by people.",
        share=share,
        examples=tuple({"id": one.comparison, "why": one.reason[:400]} for one in refused[:5]),
    )


def _injection_finding(audit: JudgeAudit, signs: Mapping[str, Sequence[str]]) -> Finding | None:
    if not signs:
        return None
    kinds = ", ".join(f"{sign} {count:,}" for sign, count in audit.injections.items())
    return Finding(
        id="judge-injection",
        severity="warning",
        title="Answers that speak to the judge",
        what="Some answers hold passages that look meant for a judge, or replies or verdicts show their effect.",
        evidence=f"{count_of(len(signs), 'comparison')}: {kinds}.",
        rows=tuple(signs),
        remedy="Read them. The known defences do not stop every attack (JudgeDeceiver, 2403.17710).",
        examples=tuple({"id": name, "why": ", ".join(several)} for name, several in list(signs.items())[:5]),
    )


def _length_finding(audit: JudgeAudit) -> Finding | None:
    found = audit.length_held or audit.length
    if found is None or abs(found.z) <= LENGTH_Z:
        return None
    side = "longer" if found.value > 0 else "shorter"
    held = "people's choices held equal" if audit.length_held is not None else "nothing known of their quality"
    equal = audit.first_wins_at_equal_length
    at_equal = (
        "" if equal is None else f" The row's first answer wins {_of(audit.first_wins)}, {_of(equal)} without it."
    )
    return Finding(
        id="judge-length",
        severity="warning" if audit.length_held is not None else "info",
        title=f"The judge leans to the {side} answer",
        what="What is trained on its pairs may learn the length.",
        evidence=(
            f"An answer twice as long changes the odds of winning by a factor of {math.exp(found.value):.2f} "
            f"({math.exp(found.low):.2f} to {math.exp(found.high):.2f}; z = {found.z:.1f}), {held}.{at_equal}"
        ),
        rows=(),
        remedy="Say in the rubric that length is no merit, balance the lengths, or use a length-normalised loss.",
    )


def _people_finding(audit: JudgeAudit) -> Finding | None:
    people = audit.people
    if people is None or people.agreement.value is None or people.agreement.n < FEW:
        return None
    gap = people.gap
    is_below = gap is not None and gap.high is not None and gap.high < -BELOW_PEOPLE
    ceiling = "" if people.ceiling is None else f"; two people agree in {_of(people.ceiling)}"
    return Finding(
        id="judge-people",
        severity="warning" if is_below else "info",
        title="The judge agrees with people less than they with each other" if is_below else "The judge and people",
        what="How far the judge's choices are those of the people who judged the same comparisons.",
        evidence=(
            f"Judge and one person agree in {_of(people.agreement)} of {count_of(people.agreement.n, 'comparison')}"
            f"{ceiling}. With the majority it agrees in {_of(people.majority)}."
        ),
        rows=(),
        remedy="Where that matters, let people judge what judges disagree on." if is_below else "None is needed.",
        share=people.agreement,
    )


def _few_finding(audit: JudgeAudit, pairs: Sequence[tuple[Verdict, Verdict]]) -> Finding | None:
    if len(pairs) >= FEW:
        return None
    only = "" if pairs else " None was judged in both orders, so nothing is known of the judge's dependence on them."
    return Finding(
        id="judge-few",
        severity="info",
        title="Too little to know the judge" if pairs else "Nothing was judged in both orders",
        what=f"With fewer than {FEW} comparisons in both orders shares are not known to better than 17 points.{only}",
        evidence=f"{count_of(len(pairs), 'comparison')} in both orders with a verdict.",
        rows=(),
        remedy="Judge more, or judge some again in the other order.",
    )


def _interval(share: Share, noun: str = "comparison", plural: str | None = None) -> str:
    n = f"{share.n:,} {plural}" if plural and share.n != 1 else count_of(share.n, noun)
    return f"{_of(share)} of {n}"


def _of(share: Share) -> str:
    if share.value is None:
        return "an unknown share"
    if share.low is None or share.high is None:
        return f"{share.value:.1%}"
    return f"{share.value:.1%} ({share.low:.1%} to {share.high:.1%})"
