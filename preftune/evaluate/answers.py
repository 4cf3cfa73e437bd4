"""What the model writes now: its answers' length, and how far it has gone from the reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from preftune.evaluate.measures import Measure, mean, share_of
from preftune.models.layout import Group
from preftune.models.logprobs import CompletionLogProbs
from preftune.rollout.sample import Completion

KL = "kl"


def answer_lengths(completions: Sequence[Completion], prompts: Sequence[Any] | None = None) -> dict[str, Measure]:
    """Mean length in tokens, and the share of answers that ended by themselves; ``prompts`` as ``mean`` has them."""
    return {
        "mean_length": mean(
            [len(completion.tokens) for completion in completions],
            "tokens",
            "Answer length",
            "Mean length of answers drawn at temperature 1.",
            prompts,
        ),
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
    of = range(len(completions)) if prompts is None else prompts
    drawn = [(completion, prompt) for completion, prompt in zip(completions, of, strict=True) if completion.tokens]
    usable = [completion for completion, _ in drawn]
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
        [prompt for _, prompt in drawn],
    )
