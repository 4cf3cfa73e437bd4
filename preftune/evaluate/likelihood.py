"""How well a model predicts held-out answers: nats a token, with an interval over prompts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from preftune.evaluate.measures import Measure

LOSS = "loss_per_token"


def loss_per_token(
    totals: Float[np.ndarray, "items"], tokens: Float[np.ndarray, "items"], prompts: Sequence[bytes]
) -> Measure:
    """The items' ``totals`` of -log p over their ``tokens``; perplexity is its exponential."""
    what = "Mean of -log p over the tokens of held-out answers; exp of it is the perplexity."
    return ratio(totals, tokens, "nats a token", "Held-out loss", what, prompts)


def change_per_token(
    before: Float[np.ndarray, "items"],
    after: Float[np.ndarray, "items"],
    tokens: Float[np.ndarray, "items"],
    prompts: Sequence[bytes],
) -> Measure:
    """After minus before on the same answers."""
    what = "After minus before on the same items; the interval is of the differences."
    return ratio(after - before, tokens, "nats a token", "Change of the held-out loss", what, prompts)


def ratio(
    totals: Float[np.ndarray, "items"],
    weights: Float[np.ndarray, "items"],
    unit: str,
    title: str,
    explanation: str,
    prompts: Sequence[bytes],
) -> Measure:
    """sum(totals) / sum(weights) with Student's interval; items of a prompt may hang together.

    The variance is the linearised one of a ratio (Cochran 1977, section 6.3), its residuals summed by prompt.
    """
    from scipy.stats import t

    value = float(totals.sum() / weights.sum())
    residuals: dict[bytes, float] = {}
    for prompt, residual in zip(prompts, totals - value * weights, strict=True):
        residuals[prompt] = residuals.get(prompt, 0.0) + float(residual)
    count = len(residuals)
    if count < 2:
        return Measure(value, float("-inf"), float("inf"), len(totals), unit, title, explanation)
    variance = count / (count - 1) * sum(each**2 for each in residuals.values()) / float(weights.sum()) ** 2
    half = float(t.ppf(0.975, count - 1) * np.sqrt(variance))
    return Measure(value, value - half, value + half, len(totals), unit, title, explanation)
