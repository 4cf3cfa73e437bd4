"""Losses of DPO's margin: how much further the policy moved towards chosen than towards rejected.

Pure functions: no model, no config, no I/O. Every one takes the same four log-probs and gives one loss a pair.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from preftune.errors import PreftuneError


def dpo(
    policy_chosen: Float[Tensor, "pairs"],
    policy_rejected: Float[Tensor, "pairs"],
    ref_chosen: Float[Tensor, "pairs"],
    ref_rejected: Float[Tensor, "pairs"],
    beta: float = 0.1,
    label_smoothing: float = 0.0,
) -> Float[Tensor, "pairs"]:
    """Direct preference optimisation, one loss a pair.

    With h = log pi(y_w|x)/pi_ref(y_w|x) - log pi(y_l|x)/pi_ref(y_l|x), the loss is
    ``-(1 - e) log sigmoid(beta h) - e log sigmoid(-beta h)``; e = 0 is DPO (Rafailov et al. 2023,
    arXiv:2305.18290, eq. 7), e > 0 is conservative DPO, whose optimum is finite: beta h* = logit(1 - e).

    Inputs are log-probs summed over the completion's tokens, in nats. ``beta`` sets how dearly leaving the
    reference is paid; ``label_smoothing`` (e) is the believed share of flipped labels, in [0, 0.5).
    At the start, where policy and reference agree, every loss is ln 2 = 0.6931.
    """
    logits = beta * log_ratio_margin(policy_chosen, policy_rejected, ref_chosen, ref_rejected)
    return smoothed_logistic(logits, label_smoothing)


def robust(
    policy_chosen: Float[Tensor, "pairs"],
    policy_rejected: Float[Tensor, "pairs"],
    ref_chosen: Float[Tensor, "pairs"],
    ref_rejected: Float[Tensor, "pairs"],
    beta: float = 0.1,
    label_smoothing: float = 0.0,
) -> Float[Tensor, "pairs"]:
    """Robust DPO (rDPO), one loss a pair: in the mean over random flips, DPO's loss on the clean labels.

    ``[-(1 - e) log sigmoid(beta h) + e log sigmoid(-beta h)] / (1 - 2e)`` with DPO's margin h (Chowdhury et al.
    2024, arXiv:2403.00409). It takes away the bias of flipped labels, not over-fitting to labels that never
    contradict each other: the loss has no lower bound, and its gradient is 1/(1 - 2e) times as noisy. Conservative
    DPO and IPO bound the margin instead.

    Inputs are summed log-probs, in nats. ``label_smoothing`` (e) is the probability that a label is flipped, in
    [0, 0.5), else PreftuneError; 0 is DPO. At the start every loss is ln 2 = 0.6931.
    """
    if not 0 <= label_smoothing < 0.5:
        raise PreftuneError(
            f"the robust loss cannot correct a share of {label_smoothing:g} flipped labels.",
            where="label_smoothing",
            mend="Give a share from 0 to below 0.5, for example 0.1.",
        )
    logits = beta * log_ratio_margin(policy_chosen, policy_rejected, ref_chosen, ref_rejected)
    e = label_smoothing
    return (-(1 - e) * F.logsigmoid(logits) + e * F.logsigmoid(-logits)) / (1 - 2 * e)


def ipo(
    policy_chosen: Float[Tensor, "pairs"],
    policy_rejected: Float[Tensor, "pairs"],
    ref_chosen: Float[Tensor, "pairs"],
    ref_rejected: Float[Tensor, "pairs"],
    beta: float = 0.1,
    *,
    chosen_lengths: Int[Tensor, "pairs"] | None = None,
    rejected_lengths: Int[Tensor, "pairs"] | None = None,
) -> Float[Tensor, "pairs"]:
    """Identity preference optimisation, one loss a pair: the margin is drawn to a finite target.

    ``(h - 1/(2 beta))^2`` with DPO's margin h (Azar et al. 2023, arXiv:2310.12036, eq. 17); ``beta`` is the paper's
    tau. Without lengths h is the margin of summed log-probs, as the equation reads. With both lengths (tokens a
    completion) each log-ratio is first divided by its own length, as TRL does on the authors' word. The target
    1/(2 beta) is then nats a token instead of nats, so a tuned beta is worth nothing in the other form.

    Inputs are summed log-probs, in nats, in both forms; one length without the other raises PreftuneError.
    At the start every loss is 1/(4 beta^2): 25 at beta 0.1.
    """
    if (chosen_lengths is None) != (rejected_lengths is None):
        raise PreftuneError("IPO was given the lengths of one side only.", mend="Give the lengths of both, or of none.")
    if chosen_lengths is None or rejected_lengths is None:
        margin = log_ratio_margin(policy_chosen, policy_rejected, ref_chosen, ref_rejected)
    else:
        margin = token_mean_margin(
            policy_chosen, policy_rejected, ref_chosen, ref_rejected, chosen_lengths, rejected_lengths
        )
    return (margin - ipo_target_margin(beta)) ** 2


def ipo_target_margin(beta: float) -> float:
    """The margin IPO draws every pair to: 1/(2 beta), in nats, or nats a token when lengths are given."""
    return 1 / (2 * beta)


def hinge(
    policy_chosen: Float[Tensor, "pairs"],
    policy_rejected: Float[Tensor, "pairs"],
    ref_chosen: Float[Tensor, "pairs"],
    ref_rejected: Float[Tensor, "pairs"],
    beta: float = 0.1,
) -> Float[Tensor, "pairs"]:
    """Hinge loss on DPO's margin, one a pair: nothing more is asked once the margin reaches 1/beta nats.

    ``max(0, 1 - beta h)``, the hinge of SLiC-HF (Zhao et al. 2023, arXiv:2305.10425, there without a reference) on
    log-ratios, as in RSO (Liu et al. 2023, arXiv:2309.06657).

    Inputs are summed log-probs, in nats. ``beta`` is the inverse of the margin asked for. At the start every loss
    is 1.
    """
    return torch.relu(1 - beta * log_ratio_margin(policy_chosen, policy_rejected, ref_chosen, ref_rejected))


def sigmoid_norm(
    policy_chosen: Float[Tensor, "pairs"],
    policy_rejected: Float[Tensor, "pairs"],
    ref_chosen: Float[Tensor, "pairs"],
    ref_rejected: Float[Tensor, "pairs"],
    chosen_lengths: Int[Tensor, "pairs"],
    rejected_lengths: Int[Tensor, "pairs"],
    beta: float = 5.0,
) -> Float[Tensor, "pairs"]:
    """Length-normalised DPO (Tülu 3), one loss a pair: each log-ratio counts a token, not a sequence.

    ``-log sigmoid(beta/|y_w| log pi(y_w|x)/pi_ref(y_w|x) - beta/|y_l| log pi(y_l|x)/pi_ref(y_l|x))`` (Lambert et
    al. 2024, arXiv:2411.15124). Margins a token are small, hence a beta near 5 where DPO takes 0.1.

    Inputs are summed log-probs, in nats; lengths are completion tokens. At the start every loss is ln 2 = 0.6931.
    """
    return -F.logsigmoid(
        beta
        * token_mean_margin(policy_chosen, policy_rejected, ref_chosen, ref_rejected, chosen_lengths, rejected_lengths)
    )


def exo_pair(
    policy_chosen: Float[Tensor, "pairs"],
    policy_rejected: Float[Tensor, "pairs"],
    ref_chosen: Float[Tensor, "pairs"],
    ref_rejected: Float[Tensor, "pairs"],
    beta: float = 0.1,
    label_smoothing: float = 1e-3,
) -> Float[Tensor, "pairs"]:
    """EXO on pairs, one loss a pair: the reverse KL from the policy's choice to the smoothed label.

    ``q log(q/(1 - e)) + (1 - q) log((1 - q)/e)`` with q = sigmoid(beta h) and DPO's margin h (Ji et al. 2024,
    arXiv:2402.00856, eq. 16). Conservative DPO is the same KL the other way round; both end at
    beta h* = logit(1 - e), where this loss is 0.

    Inputs are summed log-probs, in nats. ``label_smoothing`` (e) lies in (0, 0.5), else PreftuneError: at 0 the
    loss is infinite. At the start every loss is -ln 2 - ln(e (1 - e))/2: 2.7612 at e = 0.001.
    """
    if not 0 < label_smoothing < 0.5:
        raise PreftuneError(
            f"the EXO loss is not finite or not a preference with {label_smoothing:g}.",
            where="label_smoothing",
            mend="Give a share above 0 and below 0.5; the paper's is 0.001.",
        )
    logits = beta * log_ratio_margin(policy_chosen, policy_rejected, ref_chosen, ref_rejected)
    chosen_term = torch.sigmoid(logits) * (F.logsigmoid(logits) - math.log1p(-label_smoothing))
    rejected_term = torch.sigmoid(-logits) * (F.logsigmoid(-logits) - math.log(label_smoothing))
    return chosen_term + rejected_term


def discopop(
    policy_chosen: Float[Tensor, "pairs"],
    policy_rejected: Float[Tensor, "pairs"],
    ref_chosen: Float[Tensor, "pairs"],
    ref_rejected: Float[Tensor, "pairs"],
    beta: float = 0.1,
    tau: float = 0.05,
) -> Float[Tensor, "pairs"]:
    """DiscoPOP's log-ratio modulated loss, one a pair: DPO on the wrong side of 0, exponential on the right.

    ``(1 - m) (-log sigmoid(beta h)) + m exp(-beta h)`` with m = sigmoid(beta h / tau) and DPO's margin h (Lu et al.
    2024, arXiv:2406.08414, eq. 5). Not convex: at tau 0.05 the loss rises from a local minimum at beta h = -0.119 to
    a maximum at 0.072, so at the start, between the two, a pair alone is first pushed the wrong way.

    Inputs are summed log-probs, in nats. ``tau`` in (0, 1) is the width of the passage from one to the other.
    At the start every loss is (ln 2 + 1)/2 = 0.8466.
    """
    logits = beta * log_ratio_margin(policy_chosen, policy_rejected, ref_chosen, ref_rejected)
    logistic = torch.sigmoid(-logits / tau) * -F.logsigmoid(logits)
    # One exponential of the sum of logarithms: sigmoid times exp is 0 times infinity at a margin of -1000.
    exponential = torch.exp(F.logsigmoid(logits / tau) - logits)
    return logistic + exponential


def log_ratio_margin(
    policy_chosen: Float[Tensor, "pairs"],
    policy_rejected: Float[Tensor, "pairs"],
    ref_chosen: Float[Tensor, "pairs"],
    ref_rejected: Float[Tensor, "pairs"],
) -> Float[Tensor, "pairs"]:
    """How much further the policy moved towards chosen than towards rejected, in nats (h in DPO's eq. 7)."""
    return (policy_chosen - ref_chosen) - (policy_rejected - ref_rejected)


def token_mean_margin(
    policy_chosen: Float[Tensor, "pairs"],
    policy_rejected: Float[Tensor, "pairs"],
    ref_chosen: Float[Tensor, "pairs"],
    ref_rejected: Float[Tensor, "pairs"],
    chosen_lengths: Int[Tensor, "pairs"],
    rejected_lengths: Int[Tensor, "pairs"],
) -> Float[Tensor, "pairs"]:
    """DPO's margin with each log-ratio divided by its completion's tokens, in nats a token.

    A completion without tokens counts as one token long: its log-ratio is 0 anyway.
    """
    chosen = (policy_chosen - ref_chosen) / chosen_lengths.clamp(min=1)
    return chosen - (policy_rejected - ref_rejected) / rejected_lengths.clamp(min=1)


def smoothed_logistic(logits: Float[Tensor, "pairs"], label_smoothing: float = 0.0) -> Float[Tensor, "pairs"]:
    """Cross-entropy of sigmoid(logit) with the label 1 - e: ``-(1 - e) log sigmoid(x) - e log sigmoid(-x)``."""
    return -(1 - label_smoothing) * F.logsigmoid(logits) - label_smoothing * F.logsigmoid(-logits)
