"""What the model writes now: its answers' length, and how far it has gone from the reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from preftune.evaluate.measures import Measure, mean, share
from preftune.models.layout import Group
from preftune.models.logprobs import CompletionLogProbs
from preftune.rollout.sample import Completion

KL = "kl"


def answer_lengths(completions: Sequence[Completion]) -> dict[str, Measure]:
    """Mean length in tokens, and the share of answers that ended by themselves."""
    finished = sum(completion.finished for completion in completions)
    return {
        "mean_length": mean(
            [len(completion.tokens) for completion in completions],
            "tokens",
            "Answer length",
            "Mean length of answers drawn at temperature 1.",
        ),
        "finished": share(
            finished, len(completions), "Answers finished", "How many answers ended before the token limit."
        ),
    }


def kl_from_reference(
    policy: Callable[[Sequence[Group]], CompletionLogProbs],
    reference: Callable[[Sequence[Group]], CompletionLogProbs],
    completions: Sequence[Completion],
    batch_size: int,
) -> Measure:
    """Monte-Carlo KL(policy || reference) in nats an answer, over answers drawn from the policy at temperature 1.

    The k1 estimator of Schulman (2020, "Approximating KL divergence"): the mean of
    log pi - log pi_ref.
    """
    usable = [completion for completion in completions if completion.tokens]
    ratios: list[float] = []
    for begin in range(0, len(usable), batch_size):
        groups = [Group(c.prompt, (c.tokens,)) for c in usable[begin : begin + batch_size]]
        with torch.no_grad():
            difference = policy(groups).sums() - reference(groups).sums()
        ratios += difference.double().cpu().tolist()
    return mean(
        np.asarray(ratios),
        "nats",
        "KL from the reference",
        "How far the answers have moved from the starting model's, a whole answer at a time; 0 is not at all.",
    )
