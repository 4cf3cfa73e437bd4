"""How far a judge agrees with people, beside how far people agree with each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from preftune.audit.findings import Share, share_of

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]
Votes: TypeAlias = Mapping[str, str] | Sequence[str]

CHOICES: Final = ("first", "second", "tie")
RESAMPLES: Final = 1_000
_CODES: Final = {**{name: code for code, name in enumerate(CHOICES)}, "both_bad": 2}


@dataclass(frozen=True)
class PeopleAgreement:
    """A judge against people, on the comparisons both decided; "both bad" counts as a tie.

    ``agreement`` is the chance that the judge and one person say the same, ``ceiling`` that two people do, and
    ``gap`` the first less the second; kappas are both beyond chance. ``majority`` is the judge against what most
    people said. The ceiling is None where no comparison has two votes.
    """

    agreement: Share
    kappa: Share
    ceiling: Share | None
    ceiling_kappa: Share | None
    gap: Share | None
    majority: Share
    majority_kappa: Share


def agreement_with_people(choices: Mapping[str, str], people: Mapping[str, Votes], seed: int = 0) -> PeopleAgreement:
    """The agreement of a judge's ``choices`` with people's, by comparison; intervals from resampled comparisons."""
    names = [name for name in choices if people.get(name)]
    judge = np.array([_CODES[choices[name]] for name in names], dtype=np.int64)
    counts = np.array([_counted(people[name]) for name in names], dtype=np.int64).reshape(-1, len(CHOICES))
    rng = np.random.default_rng(seed)
    patterns, weights = np.unique(np.column_stack([judge, counts]), axis=0, return_counts=True)
    drawn = rng.multinomial(len(names), weights / weights.sum(), RESAMPLES) if len(names) else weights[None]
    figures = {name: _figure(name, patterns, weights, drawn) for name in _FIGURES}
    has_ceiling = bool((counts.sum(axis=1) >= 2).any())
    leading = counts.max(axis=1, initial=0)
    has_majority = (counts == leading[:, None]).sum(axis=1) == 1
    most = counts.argmax(axis=1) if len(counts) else judge
    agreed = int((judge == most)[has_majority].sum())
    explanation = (
        "Share of comparisons with a choice that more people made than any other, where the judge makes it too."
    )
    return PeopleAgreement(
        agreement=figures["agreement"],
        kappa=figures["kappa"],
        ceiling=figures["ceiling"] if has_ceiling else None,
        ceiling_kappa=figures["ceiling_kappa"] if has_ceiling else None,
        gap=figures["gap"] if has_ceiling else None,
        majority=share_of(agreed, int(has_majority.sum()), "Judge and majority agree", explanation),
        majority_kappa=figures["majority_kappa"],
    )


def _counted(votes: Votes) -> list[int]:
    values = list(votes.values()) if isinstance(votes, Mapping) else list(votes)
    return np.bincount([_CODES[value] for value in values], minlength=len(CHOICES)).tolist()


def _figure(name: str, patterns: Ints, weights: Ints, drawn: Ints) -> Share:
    title, explanation, unit = _FIGURES[name]
    n = int(weights.sum())
    if not n:
        return Share(None, None, None, 0, title, explanation, unit)
    value = float(_values(name, patterns, weights[None].astype(np.float64))[0])
    if np.isnan(value):
        return Share(None, None, None, n, title, explanation, unit)
    low, high = np.nanquantile(_values(name, patterns, drawn.astype(np.float64)), (0.025, 0.975))
    if high - low < 1e-12:  # resamples of what is all alike say nothing about its uncertainty
        return Share(value, None, None, n, title, explanation, unit)
    return Share(value, float(low), float(high), n, title, explanation, unit)


def _values(name: str, patterns: Ints, weights: Floats) -> Floats:
    """(resamples,): the figure of the patterns (judge's code, votes for each choice), so often each."""
    judge, counts = patterns[:, 0], patterns[:, 1:].astype(np.float64)
    if name == "majority_kappa":
        is_clear = (counts == counts.max(axis=1, keepdims=True)).sum(axis=1) == 1
        table = _table(judge[is_clear], np.eye(len(CHOICES))[counts[is_clear].argmax(axis=1)], weights[:, is_clear])
        return _kappa(table)
    if name in ("agreement", "kappa"):
        table = _table(judge, counts / counts.sum(axis=1, keepdims=True), weights)
        return _kappa(table) if name == "kappa" else _observed(table)
    if name == "gap":
        return _values("agreement", patterns, weights) - _values("ceiling", patterns, weights)
    votes = counts.sum(axis=1)
    several = votes >= 2
    counts, votes, weights = counts[several], votes[several], weights[:, several]
    total = weights.sum(axis=1)
    total = np.where(total > 0, total, np.nan)
    observed = weights @ (((counts**2).sum(axis=1) - votes) / (votes * (votes - 1))) / total
    if name == "ceiling":
        return observed
    chance = (((weights @ (counts / votes[:, None])) / total[:, None]) ** 2).sum(axis=1)
    return _beyond_chance(observed, chance)


def _table(judge: Ints, shares: Floats, weights: Floats) -> Floats:
    """(resamples, judge's choice, people's choice): shares of the comparisons."""
    cells = np.einsum("rp,pj,pc->rjc", weights, np.eye(len(CHOICES))[judge], shares)
    total = cells.sum(axis=(1, 2), keepdims=True)
    return cells / np.where(total > 0, total, np.nan)


def _observed(table: Floats) -> Floats:
    return np.trace(table, axis1=1, axis2=2)


def _kappa(table: Floats) -> Floats:
    return _beyond_chance(_observed(table), (table.sum(axis=1) * table.sum(axis=2)).sum(axis=1))


def _beyond_chance(observed: Floats, chance: Floats) -> Floats:
    is_known = 1 - chance > 1e-12
    return np.where(is_known, (observed - chance) / np.where(is_known, 1 - chance, 1), np.nan)


_FIGURES: Final[dict[str, tuple[str, str, str]]] = {
    "agreement": ("Judge and one person agree", "Chance that the judge and a person say the same.", "share"),
    "kappa": ("Judge and one person, kappa", "The same beyond chance: 1 is perfect, 0 is what chance gives.", ""),
    "ceiling": ("Two people agree", "Chance that two people say the same, on the same comparisons.", "share"),
    "ceiling_kappa": ("Two people, kappa", "The same beyond chance: no judge of these people can be better.", ""),
    "gap": ("Judge less people", "How much less often the judge agrees with a person than another does.", "share"),
    "majority_kappa": ("Judge and majority, kappa", "Agreement with what most people said, beyond chance.", ""),
}
