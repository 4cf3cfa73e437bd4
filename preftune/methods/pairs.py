"""A step on preference pairs: batch to log-probs to loss to metrics, whatever the loss is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from preftune.data.tokens import TokenPair
from preftune.evaluate.preferences import PairScores
from preftune.models.layout import Group
from preftune.models.logprobs import CompletionLogProbs
from preftune.models.reference import PairLogProbs, Reduction, Reference, groups_of, summed
from preftune.training.loop import Computed

PairLosses = Float[Tensor, "pairs"]
STRONGLY_WRONG = -2.0  # a margin below it means odds of more than seven to one against the label


@dataclass(frozen=True)
class PairValues:
    """What a loss on pairs may ask for, chosen first: log-probs summed over completion tokens, in nats, and tokens.

    ``reference`` is zero for methods without one. ``nll`` is the mean over tokens of -log pi of each side: of its
    completion, or of prompt and completion where the method says so.
    """

    policy: PairLogProbs
    reference: PairLogProbs
    lengths: Float[Tensor, "pairs 2"]
    nll: Float[Tensor, "pairs 2"]

    @property
    def chosen_nll(self) -> PairLosses:
        """That of the chosen side."""
        return self.nll[:, 0]

    @property
    def turned(self) -> PairValues:
        """The same pairs with the labels the other way round."""
        return PairValues(self.policy.flip(1), self.reference.flip(1), self.lengths.flip(1), self.nll.flip(1))

    @property
    def means(self) -> PairLogProbs:
        """The policy's mean log-prob a token."""
        return self.policy / self.lengths


@dataclass(frozen=True)
class PairMethod:
    """What tells one method on pairs from another.

    ``losses(values)`` gives a loss a pair; ``rewards(values)`` the implicit rewards of both sides for the metrics;
    ``figures(values)`` further metrics, a number a pair. ``reduce`` sums a sequence's log-probs, ``reduction`` names
    it where it is not the plain sum. ``nll_of_prompt``: the chosen side's likelihood counts its prompt too.
    """

    name: str
    losses: Callable[[PairValues], PairLosses]
    rewards: Callable[[PairValues], PairLogProbs]
    needs_reference: bool = True
    reduce: Reduction = summed
    reduction: str = ""
    nll_of_prompt: bool = False
    figures: Callable[[PairValues], Mapping[str, PairLosses]] = field(default=lambda values: {})


def pair_step(
    method: PairMethod, reference: Reference | None, *, use_confidence: bool = False
) -> Callable[[nn.Module, Sequence[TokenPair]], Computed]:
    """The step the loop runs: forward pass and loss of a micro-batch, with TRL's metrics.

    ``use_confidence``: a pair's loss is the one expected where its label is right with the pair's confidence.
    """

    def compute(module: nn.Module, batch: Sequence[TokenPair]) -> Computed:
        scores, nll = _score_with_prompt(module, batch) if method.nll_of_prompt else _score(module, batch)
        policy = method.reduce(scores, batch).view(-1, 2)
        frozen = torch.zeros_like(policy) if reference is None else reference.log_probs(batch).to(policy.device)
        values = PairValues(policy, frozen, scores.lengths().view(-1, 2), nll)
        losses = expected_losses(method, values, _confidences(batch)) if use_confidence else method.losses(values)
        metrics = {name: (value.sum(), len(batch)) for name, value in _figures(values, method).items()}
        metrics["entropy"] = (scores.entropy.sum(), scores.entropy.numel())
        return Computed(losses.sum(), len(batch), sum(token_count(pair) for pair in batch), metrics)

    return compute


def expected_losses(method: PairMethod, values: PairValues, is_right: Float[Tensor, "pairs"]) -> PairLosses:
    """``p l(w, l) + (1 - p) l(l, w)``, p the probability that the label is right; of DPO this is cDPO a pair."""
    p = is_right.to(values.policy)
    return p * method.losses(values) + (1 - p) * method.losses(values.turned)


def evaluation_figures(method: PairMethod, scores: PairScores, reference: PairLogProbs | None) -> dict[str, float]:
    """Means over held-out pairs, by TRL's names with the prefix ``eval_``; of plain sums over the completions."""
    policy, lengths = (torch.from_numpy(array).float() for array in (scores.log_probs, scores.lengths))
    frozen = torch.zeros_like(policy) if reference is None else reference
    values = PairValues(policy, frozen, lengths, -policy / lengths)
    figures = {"loss": method.losses(values)} | _figures(values, method)
    means = {f"eval_{name}": float(value.mean()) for name, value in figures.items()}
    sure = confident_accuracy(figures["rewards/margins"].numpy())
    return means | {"eval_rewards/accuracies_confident": sure, "eval_num_pairs": float(len(policy))}


def confident_accuracy(margins: Float[np.ndarray, "pairs"]) -> float:
    """The share ranked right among the quarter with the widest margins: it stays low where labels are wrong."""
    surest = np.argsort(-np.abs(margins), kind="stable")[: max(1, len(margins) // 4)]
    return float((margins[surest] > 0).mean())


def token_count(pair: TokenPair) -> int:
    """Tokens of the pair's two sequences, prompt counted with each: as a trainer that pads would count."""
    return 2 * len(pair.prompt) + len(pair.chosen) + len(pair.rejected)


def _confidences(batch: Sequence[TokenPair]) -> Float[Tensor, "pairs"]:
    """A pair that says nothing of its label is trusted."""
    return torch.tensor([1.0 if pair.confidence is None else pair.confidence for pair in batch])


def _score(module: nn.Module, batch: Sequence[TokenPair]) -> tuple[CompletionLogProbs, Float[Tensor, "pairs 2"]]:
    scores: CompletionLogProbs = module(groups_of(batch))
    return scores, -(scores.sums() / scores.lengths()).view(-1, 2)


def _score_with_prompt(
    module: nn.Module, batch: Sequence[TokenPair]
) -> tuple[CompletionLogProbs, Float[Tensor, "pairs 2"]]:
    """All tokens after a prompt's first are scored: the prompt is then part of both sequences and is not shared."""
    groups = [
        Group(pair.prompt[:1].tolist(), tuple([*pair.prompt[1:].tolist(), *one.tolist()] for one in pair.completions))
        for pair in batch
    ]
    whole: CompletionLogProbs = module(groups)
    nll = -(whole.sums() / whole.lengths()).view(-1, 2)
    counts = [
        is_completion
        for pair in batch
        for one in pair.completions
        for is_completion in (*[False] * (len(pair.prompt) - 1), *[True] * len(one))
    ]
    return whole.where(torch.tensor(counts)), nll


@torch.no_grad()
def _figures(values: PairValues, method: PairMethod) -> dict[str, Tensor]:
    chosen, rejected = method.rewards(values).unbind(1)
    return {
        "rewards/chosen": chosen,
        "rewards/rejected": rejected,
        "rewards/margins": chosen - rejected,
        "rewards/accuracies": (chosen > rejected).float(),
        "rewards/strongly_wrong": (chosen - rejected < STRONGLY_WRONG).float(),
        "logps/chosen": values.policy[:, 0],
        "logps/rejected": values.policy[:, 1],
        **method.figures(values),
    }
