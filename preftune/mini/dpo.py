"""Direct preference optimisation of a small model, by the package's own loss and loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from preftune import losses
from preftune.evaluate.measures import Measure
from preftune.evaluate.preferences import MARGIN, PREFERENCE, reward_measures
from preftune.mini.log_probs import answer_log_probs, scored_by_length
from preftune.mini.model import MiniGPT, refuse_shared_weights
from preftune.mini.pairs import TextPair, read_pairs
from preftune.mini.tokenizer import Example, encode_answers
from preftune.mini.training import Progress, Recipe, curve, require_positive, train_epochs
from preftune.models.reference import Reference, ReferenceGuard
from preftune.models.weights import all_parameters, fingerprint_weights
from preftune.training.loop import Computed


def dpo_train(
    policy: MiniGPT,
    reference: MiniGPT,
    pairs: Sequence[Mapping[str, Any]],
    num_epochs: int = 5,
    lr: float = 5e-6,
    beta: float = 0.1,
    *,
    batch_size: int = 8,
    seed: int = 0,
    progress: Progress | None = None,
) -> tuple[MiniGPT, list[float], list[float]]:
    """``policy``, trained in place, and by epoch the mean loss and the mean reward margin of the pairs as they came.

    The margin is ``beta`` times how much further the policy moved towards the preferred answer than towards the other
    one, in nats; it starts at 0 and the loss at ln 2 where policy and reference agree. ``seed`` draws the order.
    A pair has ``prompt``, ``preferred`` (or ``chosen``) and ``rejected``. Raises ``PreftuneError`` for a pair without
    them, where policy and reference share weights, and if the reference moves.
    """
    require_positive("beta", beta)
    recipe = Recipe(num_epochs, lr, batch_size, seed, progress)
    refuse_shared_weights(policy, reference, "reference")
    sides = _encode(read_pairs(pairs), policy, reference)
    frozen = _frozen(reference)
    guard = ReferenceGuard(frozen)

    def compute(module: nn.Module, batch: list[int]) -> Computed:
        examples = [side for i in batch for side in sides[i]]  # chosen, rejected, chosen ...
        ours = answer_log_probs(module, examples).view(-1, 2)
        four = (*ours.unbind(1), *frozen.log_probs(examples).unbind(1))
        margins = beta * losses.log_ratio_margin(*four).detach()
        tokens = sum(example.length for example in examples)
        return Computed(losses.dpo(*four, beta=beta).sum(), len(batch), tokens, {"margin": (margins.sum(), len(batch))})

    lengths = [chosen.length + rejected.length for chosen, rejected in sides]
    rows = train_epochs(policy, lengths, compute, recipe, after_epoch=lambda: guard.check("the end of an epoch"))
    return policy, curve(rows, "loss"), curve(rows, "margin")


def evaluate_preference_accuracy(policy: MiniGPT, reference: MiniGPT, pairs: Sequence[Mapping[str, Any]]) -> Measure:
    """How often the policy, against the reference, raised the preferred answer more than the other, with its interval.

    A tie counts one half: where policy and reference agree every pair is one, and the value is 0.5.
    """
    return preference_measures(policy, reference, pairs)[0]


def preference_measures(
    policy: MiniGPT, reference: MiniGPT, pairs: Sequence[Mapping[str, Any]]
) -> tuple[Measure, Measure]:
    """Accuracy of the implicit reward, and its mean margin with ``beta`` 1: the difference of log-ratios, in nats."""
    rows = read_pairs(pairs)
    examples = [side for pair in _encode(rows, policy, reference) for side in pair]
    ours, theirs = (
        scored_by_length(partial(answer_log_probs, model), examples).view(-1, 2).double().numpy()
        for model in (policy, reference)
    )
    found = reward_measures(ours - theirs, [row.prompt.encode() for row in rows])
    margin = "How much further the policy raised the log-prob of the preferred answer than of the other one."
    return (
        replace(found[PREFERENCE], title="Preference accuracy"),
        replace(found[MARGIN], title="Log-ratio margin", explanation=margin),
    )


def _encode(pairs: Sequence[TextPair], policy: MiniGPT, reference: MiniGPT) -> list[tuple[Example, Example]]:
    """The preferred and the rejected side of each pair, cut to what both models have room for."""
    room = min(policy.max_seq_len, reference.max_seq_len)
    texts = [(pair.prompt, answer) for pair in pairs for answer in (pair.preferred, pair.rejected)]
    examples = encode_answers(texts, room)
    return list(zip(examples[::2], examples[1::2], strict=True))


def _frozen(reference: nn.Module) -> Reference:
    """The reference as the package knows it: asked anew for each batch, without gradients."""

    @torch.no_grad()
    def log_probs(examples: Sequence[Example]) -> Float[Tensor, "pairs 2"]:
        return answer_log_probs(reference, examples).view(-1, 2)

    return Reference("separate model", log_probs, lambda: fingerprint_weights(all_parameters(reference)))
