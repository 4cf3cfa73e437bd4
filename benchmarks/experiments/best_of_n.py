"""Best-of-n without luck: what the best of n by a proxy is worth, from samples or from the whole distribution."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy.special import gammaln

from benchmarks.experiments.enumerable_world import LogProbs


def kl_of_best(n: float) -> float:
    """KL of best-of-n from the policy it draws from, nats: ln n - (n - 1)/n, where no two completions tie."""
    return math.log(n) - (n - 1) / n


def chances_of_best(n: int, samples: int) -> Float[np.ndarray, "samples"]:
    """The chance that the i-th lowest of ``samples`` is the best of ``n`` drawn from them without replacement.

    C(i - 1, n - 1) / C(samples, n): the mean of a value with these weights, samples in the order of the proxy, is an
    unbiased estimate of best-of-n's value that uses every sample (Coste et al. 2023, arXiv:2310.02743, appendix).
    """
    below = np.arange(samples, dtype=np.float64)
    with np.errstate(invalid="ignore"):
        ways = gammaln(below + 1) - gammaln(n) - gammaln(np.maximum(below - n + 2, 1))
    total = gammaln(samples + 1) - gammaln(n + 1) - gammaln(samples - n + 1)
    return np.where(below >= n - 1, np.exp(ways - total), 0.0)


def best_of(reference: LogProbs, proxy: LogProbs, n: float) -> LogProbs:
    """Exact log-probs of best-of-n by ``proxy`` from ``reference``; ``n`` need not be whole.

    Where F is the chance of a completion ranked this high or lower, best-of-n draws it with F^n less the same of the
    one below it. Ties are broken by number.
    """
    order = proxy.argsort(stable=True)
    above = reference[order].exp().flip(0).cumsum(0).flip(0)  # of this one or a higher one
    log_below = torch.log1p(-torch.clamp(above, max=1.0))
    log_upto = torch.cat([log_below[1:], log_below.new_zeros(1)])
    chances = torch.exp(n * log_upto) - torch.exp(n * log_below)
    found = torch.empty_like(reference)
    found[order] = chances.clamp(min=0).log()
    return found - found.logsumexp(0)


@dataclass(frozen=True)
class Fit:
    """A form of Gao et al. fitted to gold scores: its two numbers, R squared, and where it peaks (KL, nats)."""

    alpha: float
    beta: float
    r_squared: float
    peak: float


def fit_best_of_n(kls: Sequence[float], gold: Sequence[float]) -> Fit:
    """``gold = d (alpha - beta d)`` with d = sqrt(KL); the peak is at d = alpha / (2 beta)."""
    d = np.sqrt(np.asarray(kls))
    alpha, beta, r_squared = _least_squares(d, d**2, gold)
    return Fit(alpha, beta, r_squared, (alpha / (2 * beta)) ** 2 if beta > 0 else math.inf)


def fit_rl(kls: Sequence[float], gold: Sequence[float]) -> Fit:
    """``gold = d (alpha - beta log d)``, the form for RL; the peak is at d = exp(alpha/beta - 1)."""
    d = np.sqrt(np.asarray(kls))
    alpha, beta, r_squared = _least_squares(d, d * np.log(d), gold)
    exponent = 2 * (alpha / beta - 1) if beta > 0 else math.inf
    return Fit(alpha, beta, r_squared, math.exp(exponent) if exponent < 50 else math.inf)


def _least_squares(rises: np.ndarray, falls: np.ndarray, gold: Sequence[float]) -> tuple[float, float, float]:
    target = np.asarray(gold, dtype=np.float64)
    (alpha, minus_beta), *_ = np.linalg.lstsq(np.stack([rises, falls], axis=1), target, rcond=None)
    missed = target - alpha * rises - minus_beta * falls
    return float(alpha), float(-minus_beta), float(1 - (missed**2).sum() / ((target - target.mean()) ** 2).sum())
