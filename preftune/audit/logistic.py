"""Logistic regression of preference on a few differences: coefficients, and errors that know of prompts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, ndtr

from preftune.audit.pair_features import Floats
from preftune.intervals import NORMAL_95

RIDGE = 1e-3  # pairs' worth of pull towards 0 of each coefficient: enough for separated rows to have an end
_STEPS, _NEAR = 50, 1e-10


@dataclass(frozen=True)
class Coefficient:
    """A change of the log-odds of being chosen, with its 95% interval, Wald's z and two-sided p."""

    value: float
    low: float
    high: float
    z: float
    p: float


def coefficients_of(differences: Floats) -> Floats:
    """(features,): the coefficients that make every chosen answer likeliest; ``differences`` is chosen less rejected.

    Newton's steps, halved where they would make it worse; no intercept, since no side is the first.
    """
    found = np.zeros(differences.shape[1])
    cost = _cost(differences, found)
    for _ in range(_STEPS):
        right = expit(differences @ found)
        gradient = differences.T @ (right - 1) + RIDGE * found
        step = np.linalg.solve(_curvature(differences, right), gradient)
        length = 1.0
        while (trial := _cost(differences, found - length * step)) > cost and length > _NEAR:
            length /= 2
        found, gain, cost = found - length * step, cost - trial, trial
        if gain < _NEAR * max(1.0, cost):
            break
    return found


def wald_coefficients(differences: Floats, prompts: NDArray[np.int64]) -> list[Coefficient]:
    """Each coefficient with the others held equal; errors by the sandwich over prompts (Liang and Zeger 1986)."""
    found = coefficients_of(differences)
    right = expit(differences @ found)
    inverse = np.linalg.inv(_curvature(differences, right))
    _, index = np.unique(prompts, return_inverse=True)
    count = int(index.max()) + 1
    scores = np.zeros((count, differences.shape[1]))
    np.add.at(scores, index, differences * (1 - right)[:, None])
    variance = inverse @ (scores.T @ scores) @ inverse * count / max(1, count - 1)
    return [
        _coefficient(float(value), float(error))
        for value, error in zip(found, np.sqrt(variance.diagonal()), strict=True)
    ]


def _coefficient(value: float, error: float) -> Coefficient:
    z = value / error if error else 0.0
    return Coefficient(value, value - NORMAL_95 * error, value + NORMAL_95 * error, z, float(2 * ndtr(-abs(z))))


def _cost(differences: Floats, coefficients: Floats) -> float:
    return float(np.logaddexp(0, -(differences @ coefficients)).sum() + RIDGE / 2 * coefficients @ coefficients)


def _curvature(differences: Floats, right: Floats) -> Floats:
    weights = right * (1 - right)
    return (differences * weights[:, None]).T @ differences + RIDGE * np.eye(differences.shape[1])
