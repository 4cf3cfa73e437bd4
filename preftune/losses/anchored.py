"""Losses that hold each side of a pair by itself, so that chosen cannot fall while the margin rises.

DPO asks only that chosen rises against rejected; both may fall together (likelihood displacement). These say where
each log-ratio is to go. ``r = beta log pi(y|x)/pi_ref(y|x)`` is the implicit reward in all of them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from preftune.losses.pairwise import dpo, log_ratio_margin
from preftune.losses.reference_free import sft


def dpop(
    policy_chosen: Float[Tensor, "pairs"],
    policy_rejected: Float[Tensor, "pairs"],
    ref_chosen: Float[Tensor, "pairs"],
    ref_rejected: Float[Tensor, "pairs"],
    beta: float = 0.1,
    lam: float = 5.0,
) -> Float[Tensor, "pairs"]:
    """DPO-Positive (Smaug), one loss a pair: a chosen answer below its reference takes from the margin.

    ``-log sigmoid(beta (h - lam max(0, log pi_ref(y_w|x) - log pi(y_w|x))))`` with DPO's margin h (Pal et al. 2024,
    arXiv:2402.13228). The penalty is inside the sigmoid and fades with the rest once the margin is won.

    Inputs are summed log-probs, in nats. ``lam`` is the price of a lost nat of chosen, 5 to 50 in use; 0 is DPO.
    At the start every loss is ln 2 = 0.6931. TRL has no such loss.
    """
    lost = torch.relu(ref_chosen - policy_chosen)
    return -F.logsigmoid(
        beta * (log_ratio_margin(policy_chosen, policy_rejected, ref_chosen, ref_rejected) - lam * lost)
    )


def rpo(
    policy_chosen: Float[Tensor, "pairs"],
    policy_rejected: Float[Tensor, "pairs"],
    ref_chosen: Float[Tensor, "pairs"],
    ref_rejected: Float[Tensor, "pairs"],
    chosen_lengths: Int[Tensor, "pairs"],
    beta: float = 0.1,
    alpha: float = 1.0,
) -> Float[Tensor, "pairs"]:
    """DPO with a likelihood term on chosen (iterative RPO), one loss a pair.

    ``-log sigmoid(beta h) - alpha log pi(y_w|x) / |y_w|`` with DPO's margin h (Pang et al. 2024, arXiv:2404.19733).
    Each pair's term is its own mean over tokens, as in the paper; TRL (``loss_type=["sigmoid", "sft"]``) averages
    over all chosen tokens of the batch, so there long answers weigh more.

    Inputs are summed log-probs, in nats; lengths are completion tokens. ``alpha`` weighs the likelihood term, 0 is
    DPO. At the start a loss is ln 2 plus alpha times the chosen answer's mean negative log-prob.
    """
    preference = dpo(policy_chosen, policy_rejected, ref_chosen, ref_rejected, beta)
    return preference + alpha * sft(policy_chosen, chosen_lengths)


def nca_pair(
    policy_chosen: Float[Tensor, "pairs"],
    policy_rejected: Float[Tensor, "pairs"],
    ref_chosen: Float[Tensor, "pairs"],
    ref_rejected: Float[Tensor, "pairs"],
    beta: float = 0.1,
) -> Float[Tensor, "pairs"]:
    """Noise contrastive alignment on pairs, one loss a pair: chosen is drawn to a finite reward above 0.

    ``-log sigmoid(r_w) - log sigmoid(-r_w)/2 - log sigmoid(-r_l)/2`` (Chen et al. 2024, arXiv:2402.05369, the case
    of two answers, one of them right). Chosen ends at r_w = ln 2; rejected falls without end.

    Inputs are summed log-probs, in nats. At the start every loss is 2 ln 2 = 1.3863.
    """
    chosen_rewards = beta * (policy_chosen - ref_chosen)
    rejected_rewards = beta * (policy_rejected - ref_rejected)
    noise = -F.logsigmoid(-chosen_rewards) / 2 - F.logsigmoid(-rejected_rewards) / 2
    return -F.logsigmoid(chosen_rewards) + noise


def bco_pair(
    policy_chosen: Float[Tensor, "pairs"],
    policy_rejected: Float[Tensor, "pairs"],
    ref_chosen: Float[Tensor, "pairs"],
    ref_rejected: Float[Tensor, "pairs"],
    beta: float = 0.1,
    delta: float | Float[Tensor, ""] | None = None,
) -> Float[Tensor, "pairs"]:
    """Binary classifier optimisation on pairs, one loss a pair: chosen above the mean reward, rejected below.

    ``-log sigmoid(r_w - delta) - log sigmoid(-(r_l - delta))`` with delta = (E[r_w] + E[r_l])/2 and no gradient
    through it (Jung et al. 2024, arXiv:2404.04656). ``delta`` None takes the mean of this batch; the paper keeps a
    moving average, which the caller may hand in. TRL leaves delta out: pass 0 for its numbers.

    Inputs are summed log-probs, in nats. At the start every loss is 2 ln 2 = 1.3863.
    """
    chosen_rewards = beta * (policy_chosen - ref_chosen)
    rejected_rewards = beta * (policy_rejected - ref_rejected)
    if delta is None:
        delta = (chosen_rewards.detach().mean() + rejected_rewards.detach().mean()) / 2
    return -F.logsigmoid(chosen_rewards - delta) - F.logsigmoid(delta - rejected_rewards)


def sppo_hard(
    policy_chosen: Float[Tensor, "pairs"],
    policy_rejected: Float[Tensor, "pairs"],
    ref_chosen: Float[Tensor, "pairs"],
    ref_rejected: Float[Tensor, "pairs"],
    beta: float = 0.1,
) -> Float[Tensor, "pairs"]:
    """Self-play preference optimisation with hard labels, one loss a pair: each log-ratio to its own target.

    ``(log pi(y_w|x)/pi_ref(y_w|x) - 1/(2 beta))^2 + (log pi(y_l|x)/pi_ref(y_l|x) + 1/(2 beta))^2`` (Wu et al. 2024,
    arXiv:2405.00675, eq. 4.7 with win probability 1 for chosen, 0 for rejected, and eta = 1/beta).

    Inputs are summed log-probs, in nats. At the start every loss is 1/(2 beta^2): 50 at beta 0.1.
    """
    target = 1 / (2 * beta)
    return (policy_chosen - ref_chosen - target) ** 2 + (policy_rejected - ref_rejected + target) ** 2


def apo_zero(
    policy_chosen: Float[Tensor, "pairs"],
    policy_rejected: Float[Tensor, "pairs"],
    ref_chosen: Float[Tensor, "pairs"],
    ref_rejected: Float[Tensor, "pairs"],
    beta: float = 0.1,
) -> Float[Tensor, "pairs"]:
    """Anchored preference optimisation for chosen answers better than the model's own, one loss a pair.

    ``1 - sigmoid(r_w) + sigmoid(r_l)``: chosen up, rejected down, each by itself (D'Oosterlinck et al. 2024,
    arXiv:2408.06266, eq. 7). The constant 1, TRL's, keeps the loss in [0, 2].

    Inputs are summed log-probs, in nats. At the start every loss is 1.
    """
    chosen_rewards = beta * (policy_chosen - ref_chosen)
    rejected_rewards = beta * (policy_rejected - ref_rejected)
    return 1 - torch.sigmoid(chosen_rewards) + torch.sigmoid(rejected_rewards)


def apo_down(
    policy_chosen: Float[Tensor, "pairs"],
    policy_rejected: Float[Tensor, "pairs"],
    ref_chosen: Float[Tensor, "pairs"],
    ref_rejected: Float[Tensor, "pairs"],
    beta: float = 0.1,
) -> Float[Tensor, "pairs"]:
    """Anchored preference optimisation for chosen answers worse than the model's own, one loss a pair.

    ``sigmoid(r_w) + 1 - sigmoid(r_w - r_l)``: both down, rejected more (D'Oosterlinck et al. 2024,
    arXiv:2408.06266, eq. 8). The constant 1, TRL's, keeps the loss in [0, 2].

    Inputs are summed log-probs, in nats. At the start every loss is 1, and chosen has no gradient yet.
    """
    chosen_rewards = beta * (policy_chosen - ref_chosen)
    rejected_rewards = beta * (policy_rejected - ref_rejected)
    return torch.sigmoid(chosen_rewards) + 1 - torch.sigmoid(chosen_rewards - rejected_rewards)
