"""How sure each label is: by the row's own word, by people's votes, and by evidence that never saw it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

from preftune.audit.material import Material
from preftune.audit.votes import CHOICES
from preftune.data.records import Comparison

Floats = NDArray[np.float64]
_SURE = 1e-6  # nothing is surer than this, so that evidence can still be added


def label_confidences(material: Material, *, with_evidence: bool) -> Floats:
    """(records,) the probability that each label is right, NaN where nothing says so.

    What the row says, or the truth inferred where several people voted, is the prior; with ``with_evidence`` the
    odds of the mislabel audit, ``(1 - f)/f`` over those of its rate of flips, are multiplied in (Bayes' rule, the
    two taken as independent).
    """
    known = _stated(material)
    if not with_evidence:
        return known
    audit = material.mislabelled
    if audit.probabilities is None or audit.rate is None or audit.rate.value is None:
        return known
    chances = np.clip(flip_chances(material), _SURE, 1 - _SURE)
    rate = float(np.clip(audit.rate.value, _SURE, 1 - _SURE))
    gained = logit(rate) - logit(chances)  # log of how much likelier the evidence is where the label is right
    prior = np.where(np.isnan(known), 1 - rate, known)
    found = expit(logit(np.clip(prior, _SURE, 1 - _SURE)) + gained)
    return np.where(np.isnan(chances), known, found)


def flip_chances(material: Material) -> Floats:
    """(records,) each label's probability of being flipped by the mislabel audit, NaN where it says nothing."""
    places, _ = material.decided
    chances = np.full(len(material.scan), np.nan)
    audit = material.mislabelled
    if audit.probabilities is not None:
        chances[list(places)] = audit.probabilities
    return chances


def _stated(material: Material) -> Floats:
    known = material.scan.columns.confidence.copy()
    if len(material.votes) <= len(material.votes.items):  # one vote a row tells nothing of itself
        return known
    truth = material.truth
    places, pairs = material.decided
    row = {item: number for number, item in enumerate(truth.items)}
    for place, pair, record in zip(places, pairs, _records_at(material, places), strict=True):
        number = row.get(pair.id)
        if number is None or material.scan.columns.votes[place] < 2:
            continue
        is_first = not isinstance(record, Comparison) or pair.chosen == record.response_1
        known[place] = truth.posterior[number, CHOICES.index("first" if is_first else "second")]
    return known


def _records_at(material: Material, places: Sequence[int]) -> list[object]:
    number = {int(place): i for i, place in enumerate(material.places)}
    return [material.records[number[place]] for place in places]
