"""How often looks alone name the chosen answer: by form, by slice of the data, by place shown, by opening words."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom, norm

from preftune.audit.clusters import clustered_share, folds_by_cluster
from preftune.audit.findings import Share
from preftune.audit.logistic import Coefficient, coefficients_of, wald_coefficients
from preftune.audit.many_rates import holm
from preftune.audit.pair_features import FORMS, Floats, answer_text
from preftune.data.records import Pair
from preftune.intervals import design_effect

FEWEST_IN_SLICE, FEWEST_OPENINGS = 30, 20  # pairs; with fewer an interval says nothing
MOST_SLICES = 20  # values of a field, the commonest
OPENING_WORDS = 3
FOLDS = 5
FARTHEST = 5.0  # deviations of a form's difference
LENGTH: Final = list(FORMS).index("length")
_SIDES: Final = {"first": "chosen", "second": "rejected", "chosen": "chosen", "rejected": "rejected"}
_QUARTERS = ("smallest quarter", "second quarter", "third quarter", "largest quarter")

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Rule:
    """One form as a rule: ``wins`` of the side that has more of it, over the pairs whose sides differ in it.

    ``alone`` is the accuracy out of sample of the rule, a pair without a difference counting one half;
    ``coefficient`` is in log-odds for a deviation of the difference, all other forms held equal; ``p`` is that of
    ``wins`` against one half, corrected for the number of rules.
    """

    name: str
    wins: Share
    alone: Share
    coefficient: Coefficient
    p: float


@dataclass(frozen=True)
class Slice:
    """Pairs that share a value of a field: how often the longer answer wins there and in the rest.

    ``p`` is that of the difference, corrected for the number of slices.
    """

    field: str
    value: str
    longer_wins: Share
    rest: Share
    p: float


@dataclass(frozen=True)
class Opening:
    """A beginning that one side of a pair has: how often that side wins; ``p`` is corrected for all beginnings."""

    text: str
    wins: Share
    p: float
    rows: tuple[str, ...]


Tested = TypeVar("Tested", Rule, Slice, Opening)


def share_of_more(differences: Floats, prompts: Ints, title: str, explanation: str) -> Share:
    """How often the side that has more of something is chosen, where the sides differ in it."""
    differ = differences != 0
    return clustered_share(differences[differ] > 0, prompts[differ], title, explanation)


def coefficient_per_doubling(lengths: Floats, prompts: Ints, others: Floats | None = None) -> Coefficient:
    """How the log-odds of being chosen change for an answer twice as long, with ``others`` held equal.

    ``lengths`` are differences of logarithms.
    """
    controls = np.empty((len(lengths), 0)) if others is None else _standardised(others[:, others.any(0)])
    return wald_coefficients(np.column_stack([lengths / np.log(2), controls]), prompts)[0]


def rules_of(forms: Floats, prompts: Ints, seed: int) -> tuple[Rule, ...]:
    """Each form that differs in some pair, the best rule first."""
    present = [column for column in range(forms.shape[1]) if forms[:, column].any()]
    coefficients = wald_coefficients(_standardised(forms[:, present]), prompts)
    names = list(FORMS)
    folds = folds_by_cluster(prompts, FOLDS, seed)
    rules: list[Rule] = []
    for column, coefficient in zip(present, coefficients, strict=True):
        differences = forms[:, column]
        what = f"The side with more of it ({names[column]}) is chosen; pairs whose sides do not differ are left out."
        wins = share_of_more(differences, prompts, f"More {names[column]} wins", what)
        alone = _accuracy_alone(differences, prompts, folds, names[column])
        rules.append(Rule(names[column], wins, alone, coefficient, _chance_of_half(differences, prompts)))
    rules = _corrected(rules)
    return tuple(sorted(rules, key=lambda rule: -(rule.alone.value or 0.0)))


def accuracy_together(forms: Floats, prompts: Ints, seed: int) -> Share:
    """The accuracy out of sample of a logistic regression on all forms, trained on other prompts."""
    folds = folds_by_cluster(prompts, FOLDS, seed)
    hits = np.full(len(forms), 0.5)
    for fold in range(FOLDS):
        train, held_out = folds != fold, folds == fold
        if train.any() and held_out.any():
            scale = _deviation(forms[train])
            coefficients = coefficients_of(np.clip(forms[train] / scale, -FARTHEST, FARTHEST))
            margins = np.clip(forms[held_out] / scale, -FARTHEST, FARTHEST) @ coefficients
            hits[held_out] = (np.sign(margins) + 1) / 2
    title, what = "Form alone finds the chosen answer", "Logistic regression on lengths, lists, marks and the like."
    return clustered_share(hits, prompts, title, f"{what} Trained on the other prompts; no difference counts one half.")


def slices_of(pairs: Sequence[Pair], lengths: Floats, prompts: Ints, by: Sequence[str]) -> tuple[Slice, ...]:
    """Where in the data the longer answer wins more, or less, often than in the rest; the clearest first."""
    differ = lengths != 0
    slices: list[Slice] = []
    for field, values in _fields(pairs, lengths, by).items():
        for value in _commonest(values[differ]):
            inside, outside = differ & (values == value), differ & (values != value)
            if min(inside.sum(), outside.sum()) < FEWEST_IN_SLICE:
                continue
            here, elsewhere = (_longer(lengths, prompts, rows, f"{field}: {value}") for rows in (inside, outside))
            slices.append(Slice(field, value, here, elsewhere, _chance_of_same(lengths, prompts, inside, outside)))
    return tuple(sorted(_corrected(slices), key=lambda one: one.p))


def first_shown(pairs: Sequence[Pair], prompts: Ints) -> tuple[Share, float | None]:
    """How often the answer shown first is chosen, and the p of that against one half; nothing where unknown."""
    signs = np.array([{"chosen": 1.0, "rejected": -1.0}.get(shown_first(pair) or "", 0.0) for pair in pairs])
    what = "Of the pairs that say which side was shown first. Shown in random order it must be near one half."
    share = share_of_more(signs, prompts, "The answer shown first wins", what)
    return share, _chance_of_half(signs, prompts) if share.n else None


def shown_first(pair: Pair) -> str | None:
    """Which side was shown first by the pair's ``order``; None where it has none, or one of another form."""
    order = pair.meta.get("order")
    first = order[0] if isinstance(order, list | tuple) and order else order
    written = first.casefold().replace("-", "_").removesuffix("_first") if isinstance(first, str) else ""
    return _SIDES.get(written)


def openings_of(pairs: Sequence[Pair], prompts: Ints) -> tuple[Opening, ...]:
    """Beginnings of three words that one side has and the other has not; the clearest first."""
    sides: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for row, pair in enumerate(pairs):
        chosen, rejected = (_opening(answer_text(side)) for side in (pair.chosen, pair.rejected))
        if chosen != rejected:
            sides[chosen].append((row, 1.0))
            sides[rejected].append((row, -1.0))
    openings: list[Opening] = []
    for text, uses in sides.items():
        if len(uses) < FEWEST_OPENINGS or not text:
            continue
        rows, signs = np.array([row for row, _ in uses]), np.array([sign for _, sign in uses])
        wins = share_of_more(signs, prompts[rows], f"“{text} …” wins", "Pairs in which one side alone begins so.")
        ids = tuple(pairs[row].id for row, _ in uses)
        openings.append(Opening(text, wins, _chance_of_half(signs, prompts[rows]), ids))
    return tuple(sorted(_corrected(openings), key=lambda opening: opening.p))


def _corrected(tested: list[Tested]) -> list[Tested]:
    """The same with Holm's p for as many as were tested."""
    corrected = holm(np.array([one.p for one in tested], dtype=np.float64))
    return [replace(one, p=float(p)) for one, p in zip(tested, corrected, strict=True)]


def _standardised(forms: Floats) -> Floats:
    return np.clip(forms / _deviation(forms), -FARTHEST, FARTHEST)


def _deviation(forms: Floats) -> Floats:
    """About zero, not about the mean, which is what the labels reward."""
    size = np.sqrt((forms**2).mean(0))
    return np.where(size > 0, size, 1.0)


def _accuracy_alone(differences: Floats, prompts: Ints, folds: Ints, name: str) -> Share:
    """Of the rule "more of it", or "less of it", whichever wins more often in the other folds."""
    signs = np.sign(differences)
    sums = np.bincount(folds, weights=signs, minlength=FOLDS)
    direction = np.sign(signs.sum() - sums)
    title = f"{name.capitalize()} alone finds the chosen answer"
    what = "More or less, as the other prompts have it; no difference counts one half."
    return clustered_share((signs * direction[folds] + 1) / 2, prompts, title, what)


def _longer(lengths: Floats, prompts: Ints, rows: NDArray[np.bool_], what: str) -> Share:
    return share_of_more(lengths[rows], prompts[rows], "The longer answer wins", what)


def _fields(pairs: Sequence[Pair], lengths: Floats, by: Sequence[str]) -> Mapping[str, NDArray[Any]]:
    """The values of each field to slice by; a field with one value slices nothing."""
    quarters = np.searchsorted(np.quantile(np.abs(lengths), [0.25, 0.5, 0.75]), np.abs(lengths))
    fields = {
        "difference in length": [_QUARTERS[quarter] for quarter in quarters],
        "source": [_source(pair) for pair in pairs],
        "turns": [_turns(pair) for pair in pairs],
    } | {name: [str(pair.meta.get(name, "none")) for pair in pairs] for name in by}
    return {name: np.array(values, dtype=object) for name, values in fields.items() if len(set(values)) > 1}


def _commonest(values: NDArray[Any]) -> list[str]:
    names, counts = np.unique(values.astype(str), return_counts=True)
    return [str(names[index]) for index in np.argsort(-counts, kind="stable")[:MOST_SLICES]]


def _source(pair: Pair) -> str:
    if isinstance(pair.source, dict):
        parts = (pair.source.get(name) for name in ("kind", "judge", "model"))
        return " ".join(str(part) for part in parts if part) or "unnamed"
    return pair.source or "none"


def _turns(pair: Pair) -> str:
    if isinstance(pair.prompt, str):
        return "1"
    asked = sum(message.role == "user" for message in pair.prompt)
    return str(asked) if asked < 4 else "4 or more"


def _opening(text: str) -> str:
    return " ".join(text.split(maxsplit=OPENING_WORDS)[:OPENING_WORDS]).lower()


def _chance_of_half(differences: Floats, prompts: Ints) -> float:
    """Two-sided p of as uneven a share of wins under one half: binomial, of as many rows as count as independent."""
    signs = differences[differences != 0]
    if not len(signs):
        return 1.0
    rows = max(1, round(len(signs) / design_effect(signs > 0, prompts[differences != 0])))
    fewer = round(rows * float(min((signs > 0).mean(), (signs < 0).mean())))
    return min(1.0, 2 * float(binom.cdf(fewer, rows, 0.5)))


def _chance_of_same(lengths: Floats, prompts: Ints, inside: NDArray[np.bool_], outside: NDArray[np.bool_]) -> float:
    """Two-sided p of as large a difference between the two shares, each with its own clustered variance."""
    hits = [lengths[rows] > 0 for rows in (inside, outside)]
    pooled = np.concatenate(hits).mean()
    if pooled in (0.0, 1.0):
        return 1.0
    effects = [design_effect(hit, prompts[rows]) for hit, rows in zip(hits, (inside, outside), strict=True)]
    # Where every longer side wins no design effect is seen; the rest's is nearer the truth than "all are copies".
    effects = [
        min(effects) if hit.all() or not hit.any() else effect for hit, effect in zip(hits, effects, strict=True)
    ]
    error = np.sqrt(pooled * (1 - pooled) * sum(effect / len(hit) for effect, hit in zip(effects, hits, strict=True)))
    return float(2 * norm.sf(abs(hits[0].mean() - hits[1].mean()) / error))
