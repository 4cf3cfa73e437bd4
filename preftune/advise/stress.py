"""Which data problem costs most on this very task: small models trained on data spoilt in doses, judged on rows that
are not.

A seed holds out whole prompts, which nothing disturbs, and trains once on the rest as it is and once for each problem
and share. Costs are differences within a seed. Splits of one data set overlap, so the variance over seeds is that of
Nadeau and Bengio (2003, Inference for the generalization error): s^2 (1/J + n_held_out / n_trained).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from preftune.advise.disturbances import AXES, COMPARED, Axis, Disturbed
from preftune.audit.clusters import prompt_numbers
from preftune.audit.pair_features import form_differences, length_differences, need_sklearn, word_differences
from preftune.audit.preference_model import Fit
from preftune.data.read import read_pairs
from preftune.data.records import Pair
from preftune.errors import PreftuneError

HELD_OUT: Final = 0.25
FEWEST: Final = 100  # pairs
MOST: Final = 4_000  # pairs trained on; of more, so many at random
SEEDS: Final = 10
LEVEL: Final = 0.05
LITTLE: Final = 0.02  # of accuracy; as in the plateau test of `preftune align`
WEAK: Final = 0.65  # accuracy below which there is little to lose
PENALTY: Final = 3.0  # scikit-learn's C; sides have length 1, so 1 to 10 differ little

Trained: TypeAlias = Callable[[Disturbed, NDArray[np.int64]], NDArray[np.float64]]  # margins of held-out rows
Floats: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds with its interval."""

    value: float
    low: float
    high: float

    def as_dict(self) -> dict[str, float]:
        """As JSON takes it."""
        return dict(vars(self))


@dataclass(frozen=True)
class Dose:
    """A problem at a share of the rows: held-out accuracy, and what it costs against undisturbed data."""

    share: float
    accuracy: Estimate
    cost: Estimate


@dataclass(frozen=True)
class Stress:
    """Curves of each problem. ``worst`` is the one that surely costs most at a quarter of the rows, None where it
    cannot be told; ``headline`` and ``verdict`` say so, ``against`` by how much ``dearest`` exceeds each other.
    """

    source: str
    pairs: int
    held_out: int
    seeds: int
    model: str
    undisturbed: Estimate
    curves: Mapping[str, tuple[Dose, ...]]
    worst: str | None
    headline: str
    verdict: str
    dearest: str | None
    against: Mapping[str, Estimate]

    def as_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        doses = {
            name: [{"share": d.share, "accuracy": d.accuracy.as_dict(), "cost": d.cost.as_dict()} for d in curve]
            for name, curve in self.curves.items()
        }
        about = {name: AXES[name].what for name in self.curves}
        plain = {k: v for k, v in vars(self).items() if k not in ("undisturbed", "curves", "against")}
        return plain | {
            "undisturbed": self.undisturbed.as_dict(),
            "curves": doses,
            "what": about,
            "compared_at": COMPARED,
            "against": {name: one.as_dict() for name, one in self.against.items()},
        }


def stress(
    data: object,
    *,
    fit: Fit | None = None,
    model: str = "words and forms of the answers, logistic regression",
    axes: Sequence[str] | None = None,
    shares: Sequence[float] | None = None,
    seeds: int = SEEDS,
    split: str = "train",
    limit: int | None = None,
    seed: int = 0,
    progress: Callable[[int], object] | None = None,
) -> Stress:
    """How much each data problem hurts here. ``fit`` trains another model than the built-in one, ``model`` names it.

    ``progress`` is told of each training. Raises PreftuneError for fewer than 100 pairs, since their held-out part
    would show nothing.
    """
    reading = read_pairs(data, split=split, limit=limit)
    pairs = _some(reading.records, seed)
    if len(pairs) < FEWEST:
        mend = f"Give {FEWEST} or more: a quarter of them is held out."
        raise PreftuneError(f"{len(pairs)} pairs show nothing.", where=reading.source, mend=mend)
    if seeds < 2:
        raise PreftuneError("One seed gives no interval.", where="--seeds", mend="Give 2 or more.")
    chosen = [_axis(name, shares) for name in (axes or AXES)]
    prompts, longer = prompt_numbers(pairs), length_differences(pairs)
    train = partial(_by_fit, pairs, fit) if fit is not None else _by_words(pairs)
    flat: list[float] = []
    doses: dict[str, dict[float, list[float]]] = {axis.name: {s: [] for s in axis.shares} for axis in chosen}
    sizes: list[tuple[int, int]] = []
    for number in range(seeds):
        held_out, rest = _split(prompts, [seed, number])
        sizes.append((len(held_out), len(rest)))
        flat.append(_accuracy(train(Disturbed(rest, np.ones(len(rest))), held_out)))
        _tell(progress)
        for place, axis in enumerate(chosen):
            for share in axis.shares:
                draw = np.random.default_rng([seed, number, place, round(1000 * share)])
                margins = train(axis.disturb(rest, longer, share, draw), held_out)
                doses[axis.name][share].append(_accuracy(margins))
                _tell(progress)
    ratio = float(np.mean([held / rest for held, rest in sizes]))
    return _judged(reading.source, len(pairs), sizes[0][0], model, np.array(flat), doses, ratio)


def interval(values: Floats, ratio: float, level: float = LEVEL) -> Estimate:
    """The mean of one value a seed; ``ratio`` is held-out rows over trained ones (Nadeau & Bengio 2003)."""
    from scipy.stats import t

    centre, n = float(values.mean()), len(values)
    half = float(t.ppf(1 - level / 2, n - 1) * np.sqrt(values.var(ddof=1) * (1 / n + ratio)))
    return Estimate(centre, centre - half, centre + half)


def _judged(
    source: str,
    pairs: int,
    held_out: int,
    model: str,
    flat: Floats,
    doses: Mapping[str, Mapping[float, list[float]]],
    ratio: float,
) -> Stress:
    curves = {
        name: tuple(
            Dose(share, interval(np.array(found), ratio), interval(flat - np.array(found), ratio))
            for share, found in by_share.items()
        )
        for name, by_share in doses.items()
    }
    undisturbed = interval(flat, ratio)
    costs = {name: flat - np.array(found[COMPARED]) for name, found in doses.items() if COMPARED in found}
    found = worst_of(costs, undisturbed, ratio)
    return Stress(source, pairs, held_out, len(flat), model, undisturbed, curves, **vars(found))


@dataclass(frozen=True)
class Comparison:
    """What the costs at a quarter of the rows say; see ``Stress``."""

    worst: str | None
    headline: str
    verdict: str
    dearest: str | None
    against: Mapping[str, Estimate]


def worst_of(costs: Mapping[str, Floats], undisturbed: Estimate, ratio: float) -> Comparison:
    """The problem that surely costs most, by how much it exceeds each other, and the verdict.

    ``costs`` are a value a seed. The dearest is compared with every other at LEVEL over their number (Bonferroni),
    and must cost more than nothing. Where none does, they cost little if none may cost LITTLE, all intervals together.
    """
    share = f"a quarter of the rows ({COMPARED:.0%})"
    unknown = "Cannot tell which data problem costs most"
    if undisturbed.low <= 0.5:
        right = f"{undisturbed.value:.1%} right, {undisturbed.low:.1%} to {undisturbed.high:.1%}"
        told = f"The model learns nothing surely from the data as they are ({right})."
        return Comparison(None, unknown, told, None, {})
    if not costs:
        return Comparison(None, unknown, f"No problem was tried at {share}.", None, {})
    ranked = sorted(costs, key=lambda name: -float(costs[name].mean()))
    dearest, others = ranked[0], ranked[1:]
    level = LEVEL / max(1, len(others))
    against = {name: interval(costs[dearest] - costs[name], ratio, level) for name in others}
    own = interval(costs[dearest], ratio)
    points = f"{100 * own.value:.1f} points of held-out accuracy ({100 * own.low:.1f} to {100 * own.high:.1f})"
    if own.low <= 0:
        most = max(interval(values, ratio, LEVEL / len(costs)).high for values in costs.values())
        headline = f"No data problem costs {100 * LITTLE:g} points here" if most < LITTLE else unknown
        told = f"At {share} none surely costs anything; the dearest, {dearest}, {points}."
        if undisturbed.value < WEAK:
            told += f" Undisturbed the model is right in {undisturbed.value:.1%} only, so it has little to lose."
        return Comparison(None, headline, told, dearest, against)
    unclear = [name for name in others if against[name].low <= 0]
    if unclear:
        told = f"At {share} {dearest} costs {points}, and {', '.join(unclear)} may cost as much."
        return Comparison(None, unknown, told, dearest, against)
    headline = f"{dearest.capitalize()} costs most"
    return Comparison(dearest, headline, f"At {share} {dearest} costs {points}.", dearest, against)


# --- trainings ------------------------------------------------------------------------------------------------


def _by_words(pairs: Sequence[Pair]) -> Trained:
    """The built-in model: features of all pairs once, then a logistic regression a training.

    Unlike the audit's it sees length too, or a bias towards it could not be learned.
    """
    need_sklearn()
    from scipy.sparse import csr_matrix, diags, hstack
    from sklearn.linear_model import LogisticRegression

    forms = form_differences(pairs)
    scale = np.sqrt((forms**2).mean(0))
    features: Any = hstack(
        [word_differences(pairs), csr_matrix(forms / np.where(scale > 0, scale, 1.0) / 10)], format="csr"
    )

    def trained(disturbed: Disturbed, held_out: NDArray[np.int64]) -> Floats:
        # Every second pair is shown swapped, for scikit-learn wants two classes.
        turned = np.where(np.arange(len(disturbed.rows)) % 2 == 0, 1.0, -1.0)
        rows = diags(turned * disturbed.signs) @ features[disturbed.rows]
        model = LogisticRegression(
            C=PENALTY, fit_intercept=False, solver="liblinear", dual=True, max_iter=300, tol=1e-2, random_state=0
        )
        return features[held_out] @ model.fit(rows, turned).coef_[0]

    return trained


def _by_fit(pairs: Sequence[Pair], fit: Fit, disturbed: Disturbed, held_out: NDArray[np.int64]) -> Floats:
    chosen = [
        pairs[row] if sign > 0 else _turned(pairs[row])
        for row, sign in zip(disturbed.rows.tolist(), disturbed.signs.tolist(), strict=True)
    ]
    return np.asarray(fit(chosen)([pairs[row] for row in held_out.tolist()]), dtype=np.float64)


def _turned(pair: Pair) -> Pair:
    return pair.model_copy(update={"chosen": pair.rejected, "rejected": pair.chosen})


def _accuracy(margins: Floats) -> float:
    return float(((np.sign(margins) + 1) / 2).mean())


def _split(prompts: NDArray[Any], seed: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Held-out rows and the others; whole prompts on either side."""
    order = np.random.default_rng(list(seed)).permutation(len(np.unique(prompts)))
    place = order[np.unique(prompts, return_inverse=True)[1]]
    is_held_out = place < max(1, round(HELD_OUT * len(order)))
    if is_held_out.all():
        raise PreftuneError("All pairs have one prompt.", mend="Give pairs of two prompts or more.")
    return np.flatnonzero(is_held_out), np.flatnonzero(~is_held_out)


def _some(pairs: Sequence[Pair], seed: int) -> list[Pair]:
    if len(pairs) <= MOST:
        return list(pairs)
    return [pairs[i] for i in np.sort(np.random.default_rng(seed).choice(len(pairs), MOST, replace=False)).tolist()]


def _axis(name: str, shares: Sequence[float] | None) -> Axis:
    if name not in AXES:
        raise PreftuneError(f"There is no data problem {name}.", where="--only", mend=f"There are: {', '.join(AXES)}.")
    own = AXES[name]
    if shares and not all(0 < one < 1 for one in shares):
        raise PreftuneError("A share lies between 0 and 1.", where="--shares", mend="For example 0.25 0.5.")
    return own if not shares else Axis(own.name, own.what, tuple(shares), own.disturb)


def _tell(progress: Callable[[int], object] | None) -> None:
    if progress is not None:
        progress(1)
