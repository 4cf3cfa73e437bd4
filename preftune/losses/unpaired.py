"""Losses on single answers with a thumb up or down: no pair is needed."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from preftune.errors import PreftuneError

LARGEST_KTO_RATIO = 4 / 3


def kto(
    policy: Float[Tensor, "rows"],
    ref: Float[Tensor, "rows"],
    labels: Bool[Tensor, "rows"],
    kl: float | Float[Tensor, ""],
    beta: float = 0.1,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> Float[Tensor, "rows"]:
    """Kahneman-Tversky optimisation, one loss an answer: desirable above the reference point, others below.

    ``lambda_D (1 - sigmoid(beta (r - z0)))`` for a desirable answer, ``lambda_U (1 - sigmoid(beta (z0 - r)))`` for
    an undesirable one, with r = log pi(y|x)/pi_ref(y|x) and the reference point z0 = max(0, kl) (Ethayarajh et al.
    2024, arXiv:2402.01306, eq. 7 and 8). No gradient goes through z0.

    Log-probs are summed over completion tokens, in nats; ``labels`` are true for desirable; ``kl`` is
    `mismatched_kl`, averaged over processes where there are several, still with its sign. With kl 0 this is the
    unpaired form of `apo_zero`. At the start a loss is half its weight: 0.5.
    """
    log_ratios = policy - ref
    reference_point = torch.as_tensor(kl, dtype=log_ratios.dtype, device=log_ratios.device).detach().clamp(min=0)
    desirable = desirable_weight * (1 - torch.sigmoid(beta * (log_ratios - reference_point)))
    undesirable = undesirable_weight * (1 - torch.sigmoid(beta * (reference_point - log_ratios)))
    return torch.where(labels.bool(), desirable, undesirable)


def mismatched_kl(policy: Float[Tensor, "rows"], ref: Float[Tensor, "rows"]) -> Float[Tensor, ""]:
    """KTO's estimate of KL(pi || pi_ref): the mean log-ratio of answers to other rows' prompts, without gradient.

    Log-probs are of answer j given prompt i != j, summed, in nats. Matched rows would make it the implicit reward
    itself. It keeps its sign: average over processes first; `kto` then clamps at 0, as the paper does.
    """
    return (policy - ref).detach().mean()


def suggested_kto_weights(n_desirable: int, n_undesirable: int) -> tuple[float, float]:
    """Desirable and undesirable weight for so many examples of each; both 1 where that will do.

    The rule (Ethayarajh et al. 2024, and TRL's check) is ``lambda_D n_D / (lambda_U n_U)`` in [1, 4/3]: desirable
    answers as a whole weigh as much as the others, or a little more. Outside it the scarcer side's weight is raised
    until both weigh the same (ratio 1) and the other stays 1, so the plentiful side learns as fast as before.

    Raises PreftuneError when a side has no examples: no weight makes up for that.
    """
    if n_desirable < 1 or n_undesirable < 1:
        missing = "desirable" if n_desirable < 1 else "undesirable"
        raise PreftuneError(
            f"there are no {missing} examples, so KTO has nothing to weigh the others against.",
            where="label",
            mend="Add some, or train on the desirable ones with SFT.",
        )
    if 1 <= n_desirable / n_undesirable <= LARGEST_KTO_RATIO:
        return 1.0, 1.0
    if n_desirable < n_undesirable:
        return n_undesirable / n_desirable, 1.0
    return 1.0, n_desirable / n_undesirable


def bco(
    policy: Float[Tensor, "rows"],
    ref: Float[Tensor, "rows"],
    labels: Bool[Tensor, "rows"],
    delta: float | Float[Tensor, ""],
    beta: float = 0.1,
) -> Float[Tensor, "rows"]:
    """Binary classifier optimisation, one loss an answer: the implicit reward as a classifier's logit.

    ``-log sigmoid(r - delta)`` for a desirable answer, ``-log sigmoid(-(r - delta))`` for an undesirable one, with
    r = beta log pi(y|x)/pi_ref(y|x) (Jung et al. 2024, arXiv:2404.04656). ``delta`` is the mean of desirable and
    undesirable mean rewards, which the paper keeps as a moving average; no gradient goes through it. The paper's
    importance weights for prompts that differ between the two sides are the caller's to multiply.

    Log-probs are summed over completion tokens, in nats; ``labels`` are true for desirable. At the start, with
    delta 0, every loss is ln 2 = 0.6931.
    """
    rewards = beta * (policy - ref)
    shift = torch.as_tensor(delta, dtype=rewards.dtype, device=rewards.device).detach()
    return torch.where(labels.bool(), -F.logsigmoid(rewards - shift), -F.logsigmoid(shift - rewards))
