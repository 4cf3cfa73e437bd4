"""Losses that need no reference model: SFT, ORPO, SimPO, AlphaPO and CPO.

Nothing holds these policies near where they began, but their likelihood term or a short run.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from preftune.losses.divergences import alpha_divergence
from preftune.losses.pairwise import dpo, hinge, ipo, smoothed_logistic

# The largest mean log-prob whose odds are told apart from infinity; 1 - exp(-1e-7) still has digits in float32.
SUREST_MEAN_LOG_PROB = -1e-7


def sft(log_probs: Float[Tensor, "rows"], lengths: Int[Tensor, "rows"]) -> Float[Tensor, "rows"]:
    """Negative log-likelihood a token, one loss an answer: ``-log pi(y|x) / |y|``.

    Log-probs are summed over completion tokens, in nats. Each answer weighs the same; for a mean over all tokens of
    a batch, as in SFT training, weigh each loss by its length.
    """
    return -log_probs / lengths.clamp(min=1)


def orpo(
    chosen_mean: Float[Tensor, "pairs"],
    rejected_mean: Float[Tensor, "pairs"],
    lam: float = 0.1,
    nll: Float[Tensor, "pairs"] | Float[Tensor, ""] | None = None,
) -> Float[Tensor, "pairs"]:
    """Odds ratio preference optimisation, one loss a pair: likelihood of chosen and a term against rejected.

    ``-log p_w + lam (-log sigmoid(log odds(p_w) - log odds(p_l)))`` with log p the mean token log-prob of an answer
    (Hong et al. 2024, arXiv:2403.07691, eq. 4 to 7). ``nll`` replaces the first term: TRL's is the mean over prompt
    and answer tokens of the batch.

    Inputs are log-probs averaged over completion tokens, in nats a token; with sums p is about 0 and the odds ratio
    a plain log-ratio. ``lam`` weighs the odds term. The result is float32 or wider. Where both sides are equally
    likely the loss is nll + lam ln 2.
    """
    likelihood = -chosen_mean if nll is None else nll
    return likelihood + lam * -F.logsigmoid(log_odds_ratio(chosen_mean, rejected_mean))


def log_odds_ratio(
    chosen_mean: Float[Tensor, "pairs"], rejected_mean: Float[Tensor, "pairs"]
) -> Float[Tensor, "pairs"]:
    """log(odds(p_w) / odds(p_l)) for mean token log-probs, as in ORPO's eq. 7."""
    return log_odds(chosen_mean) - log_odds(rejected_mean)


def log_odds(log_probs: Float[Tensor, "pairs"]) -> Float[Tensor, "pairs"]:
    """log(p/(1 - p)) from log p <= 0, finite and with a finite gradient even at p = 1, in float32 or wider.

    Written as log p - log1p(-exp(log p)) it is infinite in bfloat16 from log p = -0.001 up, in float32 from -1e-8.
    Above -1e-7 it stays at its value there, 16.1, and the gradient is 0; TRL's has no such bound and gives infinity
    at 0.
    """
    wide = log_probs.to(torch.promote_types(log_probs.dtype, torch.float32)).clamp(max=SUREST_MEAN_LOG_PROB)
    return wide - _log1mexp(wide)


def _log1mexp(values: Float[Tensor, "pairs"]) -> Float[Tensor, "pairs"]:
    """log(1 - exp(x)) for x <= -1e-7, each form where it keeps its digits.

    The clamp is for the gradient: where exp is off by one ulp, exp(-1e-7) is 1, and `torch.where` would multiply the
    infinite slope of the form not taken by 0, which is NaN.
    """
    middle = -math.log(2)
    unlikely = torch.log1p(-torch.exp(values.clamp(max=middle)))
    likely = torch.log(-torch.expm1(values))
    return torch.where(values < middle, unlikely, likely)


def simpo(
    chosen_mean: Float[Tensor, "pairs"],
    rejected_mean: Float[Tensor, "pairs"],
    beta: float = 2.0,
    gamma: float = 1.0,
    label_smoothing: float = 0.0,
) -> Float[Tensor, "pairs"]:
    """SimPO, one loss a pair: mean log-probs as rewards, and a margin to win by.

    ``-log sigmoid(beta/|y_w| log pi(y_w|x) - beta/|y_l| log pi(y_l|x) - gamma)`` (Meng et al. 2024,
    arXiv:2405.14734). ``gamma`` is the paper's, subtracted inside the sigmoid; the authors' code asks for gamma/beta
    (0.3 to 0.8, start at 0.5) and RLHF texts often print that ratio under the same name. TRL's ``simpo_gamma`` is
    this gamma, but its defaults (beta 0.1, gamma 0.5, and a likelihood term of weight 1) are not SimPO.
    ``label_smoothing`` as in `dpo`; the paper has none.

    Inputs are log-probs averaged over completion tokens, in nats a token. Where both sides are equally likely the
    loss is log(1 + exp(gamma)): 1.3133 at gamma 1.
    """
    return smoothed_logistic(beta * (chosen_mean - rejected_mean) - gamma, label_smoothing)


def alphapo(
    chosen_mean: Float[Tensor, "pairs"],
    rejected_mean: Float[Tensor, "pairs"],
    beta: float = 2.0,
    gamma: float = 1.0,
    alpha: float = 0.25,
) -> Float[Tensor, "pairs"]:
    """AlphaPO, one loss a pair: SimPO with a bent reward.

    ``-log sigmoid(r_w - r_l - gamma)`` with r = beta (1 - p^-alpha)/alpha and log p the mean token log-prob (Gupta
    et al. 2025, arXiv:2501.03884); alpha towards 0 is SimPO. Above 0 the reward falls ever faster as an answer
    becomes unlikely.

    Inputs are log-probs averaged over completion tokens, in nats a token. The result is float32 or wider. Where both
    sides are equally likely the loss is log(1 + exp(gamma)).
    """
    bent = alpha_divergence(chosen_mean, alpha) - alpha_divergence(rejected_mean, alpha)
    return -F.logsigmoid(beta * bent - gamma)


def cpo(
    policy_chosen: Float[Tensor, "pairs"],
    policy_rejected: Float[Tensor, "pairs"],
    beta: float = 0.1,
    label_smoothing: float = 0.0,
    nll_weight: float = 1.0,
    nll: Float[Tensor, "pairs"] | Float[Tensor, ""] | None = None,
) -> Float[Tensor, "pairs"]:
    """Contrastive preference optimisation, one loss a pair: DPO against a uniform reference, and likelihood.

    ``-log sigmoid(beta (log pi(y_w|x) - log pi(y_l|x))) - log pi(y_w|x)`` (Xu et al. 2024, arXiv:2401.08417).
    ``nll_weight`` weighs the second term (TRL's ``cpo_alpha``) and ``nll`` replaces it; TRL's is the mean over
    the answer tokens of the batch, much smaller than the paper's sum.

    Inputs are log-probs summed over completion tokens, in nats. Without the likelihood term the loss is ln 2 where
    both sides are equally likely.
    """
    none = torch.zeros_like(policy_chosen)
    preference = dpo(policy_chosen, policy_rejected, none, none, beta, label_smoothing)
    return preference + _likelihood_term(policy_chosen, nll_weight, nll)


def cpo_hinge(
    policy_chosen: Float[Tensor, "pairs"],
    policy_rejected: Float[Tensor, "pairs"],
    beta: float = 0.1,
    nll_weight: float = 1.0,
    nll: Float[Tensor, "pairs"] | Float[Tensor, ""] | None = None,
) -> Float[Tensor, "pairs"]:
    """CPO with SLiC's hinge, one loss a pair: ``max(0, 1 - beta (log pi(y_w|x) - log pi(y_l|x)))`` and likelihood.

    The reference-free hinge of SLiC-HF (Zhao et al. 2023, arXiv:2305.10425); the likelihood term as in `cpo`.
    Inputs are log-probs summed over completion tokens, in nats.
    """
    none = torch.zeros_like(policy_chosen)
    preference = hinge(policy_chosen, policy_rejected, none, none, beta)
    return preference + _likelihood_term(policy_chosen, nll_weight, nll)


def cpo_ipo(
    policy_chosen: Float[Tensor, "pairs"],
    policy_rejected: Float[Tensor, "pairs"],
    beta: float = 0.1,
    nll_weight: float = 1.0,
    nll: Float[Tensor, "pairs"] | Float[Tensor, ""] | None = None,
) -> Float[Tensor, "pairs"]:
    """CPO with IPO's square, one loss a pair: ``(log pi(y_w|x) - log pi(y_l|x) - 1/(2 beta))^2`` and likelihood.

    `ipo` against a uniform reference; the likelihood term as in `cpo`. Inputs are log-probs summed over completion
    tokens, in nats; TRL takes means here, which may be handed in just as well, with an ``nll`` to match.
    """
    none = torch.zeros_like(policy_chosen)
    return ipo(policy_chosen, policy_rejected, none, none, beta) + _likelihood_term(policy_chosen, nll_weight, nll)


def _likelihood_term(
    policy_chosen: Float[Tensor, "pairs"], weight: float, nll: Float[Tensor, "pairs"] | Float[Tensor, ""] | None
) -> Float[Tensor, "pairs"]:
    return weight * (-policy_chosen if nll is None else nll)
