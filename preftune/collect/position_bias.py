"""How often each place of a list is seen, from clicks; and what clicks say of answers once that is taken out.

The position-based model (Richardson et al. 2007, Craswell et al. 2008): P(click) = P(place seen) * P(answer wanted).
Weighting each click by the inverse of the first factor makes click rates comparable (Joachims et al. 2017).

Two ways to the first factor, up to a common scale:

- from moves: answers that were shown at several places ("intervention harvesting", Agarwal et al. 2019). Given how
  often an answer was shown at each place and its clicks in all, the clicks' places are multinomial with the unknown
  factors alone; that likelihood is concave. Its score has mean zero whatever the clicks' distribution is, as long as
  the mean is the model's product (Poisson pseudo-likelihood with fixed effects, Wooldridge 1999): rates need not be
  small.
- from logged propensities: each place's click rate, every shown answer weighted by one over the probability with which
  it was put there. This needs no product form across answers, and pays for it with variance.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Ints: TypeAlias = NDArray[np.int64]
    Floats: TypeAlias = NDArray[np.float64]

Method: TypeAlias = Literal["moves", "propensities", "given", "none"]
_RIDGE: Final = 0.01  # on log factors, so that a place without clicks has one; a hundredth of a click's information
_STEPS: Final = 100
_TOLERANCE: Final = 1e-10
_LARGEST_STEP: Final = 2.0
_CLICKS_PER_PLACE: Final = 5  # below it the factor's interval spans an order of magnitude


@dataclass(frozen=True)
class Examination:
    """How often each position is seen, relative to the first of ``positions``, with 95% intervals.

    ``informing`` counts the answers, or the shown answers, that the factors rest on, ``clicks`` their clicks.
    ``apart`` are positions that no answer links to the others, whose factors are therefore unknown.
    """

    method: Method
    positions: tuple[int, ...] = ()
    factors: tuple[float, ...] = ()
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    informing: int = 0
    clicks: int = 0
    apart: tuple[int, ...] = ()

    def by_position(self) -> dict[int, float]:
        """The factor of each position that has one."""
        return dict(zip(self.positions, self.factors, strict=True))

    def as_dict(self) -> dict[str, Any]:
        """The factors as the report holds them."""
        rows = zip(self.positions, self.factors, self.low, self.high, strict=True)
        return {
            "method": self.method,
            "informing": self.informing,
            "clicks": self.clicks,
            "apart": list(self.apart),
            "factors": [
                {"position": place, "value": value, "low": low, "high": high} for place, value, low, high in rows
            ],
        }


def given_examination(factors: Mapping[int, float]) -> Examination:
    """The factors that the user gave, relative to the first position."""
    positions = tuple(sorted(factors))
    values = tuple(factors[place] / factors[positions[0]] for place in positions)
    return Examination("given", positions, values, values, values)


def examination_from_moves(answers: Ints, positions: Ints, shown: Floats, clicks: Floats) -> Examination:
    """The factors from answers that were shown at several positions.

    The arrays are aligned, one entry for each answer and position: how often it was shown there, and clicked. Method
    "none" where no answer with a click moved. Intervals are the wider of the model's and the answer-clustered sandwich.
    """
    import numpy as np

    places, place_of = np.unique(positions, return_inverse=True)
    shown_at, clicked_at = _tables(answers, place_of, len(places), shown, clicks)
    linked = _linked(shown_at, clicked_at)
    apart = tuple(int(place) for place in places[~linked])
    shown_at, clicked_at = shown_at[:, linked], clicked_at[:, linked]
    moves = (shown_at > 0).sum(axis=1) > 1
    shown_at, clicked_at = shown_at[moves], clicked_at[moves]
    if linked.sum() < 2 or not clicked_at.sum():
        return Examination("none", apart=tuple(int(place) for place in places))
    logs = _maximise(shown_at, clicked_at)
    errors = _standard_errors(logs, shown_at, clicked_at)
    return Examination(
        "moves",
        tuple(int(place) for place in places[linked]),
        *_factors(logs, errors),
        informing=int((clicked_at.sum(axis=1) > 0).sum()),
        clicks=int(clicked_at.sum()),
        apart=apart,
    )


def examination_from_propensities(positions: Ints, clicks: Floats, weights: Floats) -> Examination:
    """The factors from shown answers that carry one over the probability of their place as their weight.

    One entry a shown answer. Each position's rate is self-normalised, the interval of a ratio is by the delta method.
    """
    import numpy as np

    places = np.unique(positions)
    rates, variances = np.zeros(len(places)), np.zeros(len(places))
    for index, place in enumerate(places):
        here = positions == place
        weight, clicked = weights[here], clicks[here]
        total = weight.sum()
        rates[index] = (weight @ clicked + 0.5 * weight.mean()) / (total + weight.mean())  # half a click, as for logits
        variances[index] = (weight**2 @ (clicked - rates[index]) ** 2) / (rates[index] * total) ** 2
    if len(places) < 2 or not clicks.sum():
        return Examination("none", apart=tuple(int(place) for place in places))
    logs = np.log(rates) - math.log(rates[0])
    errors = np.sqrt(variances + variances[0])
    errors[0] = 0.0
    return Examination(
        "propensities",
        tuple(int(place) for place in places),
        *_factors(logs, errors),
        informing=len(clicks),
        clicks=int(clicks.sum()),
    )


def probability_above(clicks: float, seen: float, other_clicks: float, other_seen: float, rate: float) -> float:
    """The probability that the first of two answers is wanted more, from clicks and exposures corrected for places.

    ``seen`` is the sum of the places' factors over an answer's exposures. The posterior of an answer's rate is Gamma
    with one click at the log's ``rate`` as its prior; the ratio of two Gammas is a Beta prime, so the figure is exact.
    One half for answers of which nothing is known.
    """
    from scipy.special import betainc

    first, second = seen + 1 / rate, other_seen + 1 / rate
    # X/first > Y/second for X ~ Gamma(clicks + 1), Y ~ Gamma(other_clicks + 1)
    return float(betainc(other_clicks + 1, clicks + 1, second / (first + second)))


def evidence_above(clicks: float, seen: float, reference: float, rate: float) -> float:
    """Log-odds that an answer's rate is above ``reference``, less what its prior alone would say; 0 without data."""
    from scipy.special import gammainc, gammaincc

    before = gammaincc(1.0, reference / rate), gammainc(1.0, reference / rate)
    after = (
        gammaincc(clicks + 1, (seen + 1 / rate) * reference),
        gammainc(clicks + 1, (seen + 1 / rate) * reference),
    )
    least = 1e-300
    return math.log(max(after[0], least) / max(after[1], least)) - math.log(before[0] / before[1])


def few_clicks(examination: Examination) -> bool:
    """True where the clicks are too few for the factors to be told from one another."""
    return examination.clicks < _CLICKS_PER_PLACE * len(examination.positions)


def _tables(answers: Ints, place_of: Ints, places: int, shown: Floats, clicks: Floats) -> tuple[Floats, Floats]:
    """Shown and clicked by answer and place, (answers, places), of the answers with a click."""
    import numpy as np

    _, answer_of = np.unique(answers, return_inverse=True)
    clicked = np.bincount(answer_of, clicks) > 0
    keep = clicked[answer_of]
    _, rows = np.unique(answer_of[keep], return_inverse=True)
    tables = np.zeros((2, int(clicked.sum()), places))
    np.add.at(tables[0], (rows, place_of[keep]), np.maximum(shown[keep], clicks[keep]))
    np.add.at(tables[1], (rows, place_of[keep]), clicks[keep])
    return tables[0], tables[1]


def _linked(shown: Floats, clicked: Floats) -> NDArray[np.bool_]:
    """The largest set of places that clicked answers link, by its clicks: only within it can places be compared."""
    import numpy as np
    from scipy.sparse.csgraph import connected_components

    there = (shown > 0).astype(float)
    _, group = connected_components(there.T @ there, directed=False)
    clicks = np.bincount(group, clicked.sum(axis=0))
    return group == int(clicks.argmax()) if len(clicks) else np.zeros(shown.shape[1], dtype=bool)


def _maximise(shown: Floats, clicked: Floats) -> Floats:
    """Newton's method on the logs of the factors, the first fixed at 0."""
    import numpy as np

    logs = np.zeros(shown.shape[1])
    for _ in range(_STEPS):
        score, information, _ = _derivatives(logs, shown, clicked)
        step = np.linalg.solve(information[1:, 1:], score[1:])
        step *= min(1.0, _LARGEST_STEP / max(float(np.abs(step).max()), 1e-300))
        logs[1:] += step
        if np.abs(step).max() < _TOLERANCE:
            break
    return logs


def _derivatives(logs: Floats, shown: Floats, clicked: Floats) -> tuple[Floats, Floats, Floats]:
    """Score, information and each answer's part of the score, (answers, places)."""
    import numpy as np

    total = clicked.sum(axis=1, keepdims=True)
    weight = shown * np.exp(logs)
    share = weight / weight.sum(axis=1, keepdims=True)
    parts = clicked - total * share
    information = np.diag((total * share).sum(axis=0)) - share.T @ (total * share)
    ridge = _RIDGE * np.eye(len(logs))
    return parts.sum(axis=0) - _RIDGE * logs, information + ridge, parts


def _standard_errors(logs: Floats, shown: Floats, clicked: Floats) -> Floats:
    import numpy as np

    _, information, parts = _derivatives(logs, shown, clicked)
    inverse = np.linalg.inv(information[1:, 1:])
    sandwich = inverse @ (parts[:, 1:].T @ parts[:, 1:]) @ inverse
    variance = np.maximum(np.diag(inverse), np.diag(sandwich))
    return np.concatenate([[0.0], np.sqrt(variance)])


def _factors(logs: Floats, errors: Floats) -> tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]:
    import numpy as np

    from preftune.intervals import NORMAL_95

    parts = (logs, logs - NORMAL_95 * errors, logs + NORMAL_95 * errors)
    value, low, high = (tuple(float(each) for each in np.exp(part)) for part in parts)
    return value, low, high
