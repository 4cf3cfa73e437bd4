"""What the model writes now: its answers' length, and how far it has gone from the reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from preftune.evaluate.measures import Measure, mean, share_of
from preftune.models.layout import Group
from preftune.models.logprobs import CompletionLogProbs
from preftune.rollout.sample import Completion

KL = "kl"


def answer_lengths(completions: Sequence[Completion], prompts: Sequence[Any] | None = None) -> dict[str, Measure]:
    """Mean length in tokens, and the share of answers that ended by themselves; ``prompts`` as ``mean`` has them."""
    length = mean(
        [len(completion.tokens) for completion in completions],
        "tokens",
        "Answer length",
        "Mean length of its answers.",
        prompts,
    )
    return {
        "mean_length": length if np.isinf(length.low) else replace(length, low=max(0.0, length.low)),
        "finished": share_of(
            [completion.finished for completion in completions],
            range(len(completions)) if prompts is None else prompts,
            "Answers finished",
            "How many answers ended before the token limit.",
        ),
    }


def kl_from_reference(
    policy: Callable[[Sequence[Group]], CompletionLogProbs],
    reference: Callable[[Sequence[Group]], CompletionLogProbs],
    completions: Sequence[Completion],
    batch_size: int,
    prompts: Sequence[Any] | None = None,
) -> Measure:
    """Monte-Carlo KL(policy || reference) in nats an answer, over answers drawn from the policy at temperature 1.

    The k1 estimator of Schulman (2020, "Approximating KL divergence"): the mean of
    log pi - log pi_ref. ``prompts`` say which answers hang together, as ``mean`` has them.
    """
    ratios = np.full(len(completions), np.nan)
    usable = [number for number, completion in enumerate(completions) if completion.tokens]
    for begin in range(0, len(usable), batch_size):
        members = usable[begin : begin + batch_size]
        groups = [Group(completions[i].prompt, (completions[i].tokens,)) for i in members]
        with torch.no_grad():
            difference = policy(groups).sums() - reference(groups).sums()
        ratios[members] = difference.double().cpu().numpy()
    return kl_of(ratios, prompts)


def kl_of(log_ratios: Float[np.ndarray, "completions"], prompts: Sequence[Any] | None = None) -> Measure:
    """The mean of log pi - log pi_ref over answers drawn from pi; NaN, of an answer without a token, is left out."""
    known = np.isfinite(log_ratios)
    of = range(len(log_ratios)) if prompts is None else prompts
    return mean(
        log_ratios[known],
        "nats",
        "KL from the reference",
        "How far the answers have moved from the starting model's, a whole answer at a time; 0 is not at all.",
        [prompt for prompt, kept in zip(of, known, strict=True) if kept],
    )
