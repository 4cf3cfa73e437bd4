"""The loss of a reward model: chosen is to score above rejected."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from preftune.losses.pairwise import smoothed_logistic


def bradley_terry(
    chosen_scores: Float[Tensor, "pairs"],
    rejected_scores: Float[Tensor, "pairs"],
    margin: float | Float[Tensor, "pairs"] | None = None,
    center_rewards_coefficient: float = 0.0,
    label_smoothing: float = 0.0,
) -> Float[Tensor, "pairs"]:
    """Bradley-Terry, one loss a pair: the negative log-probability that chosen beats rejected.

    ``-(1 - e) log sigmoid(d) - e log sigmoid(-d) + eta (r_w + r_l)^2`` with d = r_w - r_l - m. Bradley and Terry
    1952; ``margin`` m, how clearly chosen is better, from Llama 2 (arXiv:2307.09288);
    ``center_rewards_coefficient`` eta, which fixes the shift that the rest leaves open, from Eisenstein et al. 2023
    (arXiv:2312.09244), 0.01 in use; ``label_smoothing`` e as in `dpo`.

    Scores are the reward model's, without unit; keep them in float32, where close answers do not tie. Where both
    sides score 0 every loss is ln 2 = 0.6931.
    """
    difference = chosen_scores - rejected_scores
    if margin is not None:
        difference = difference - margin
    centring = center_rewards_coefficient * (chosen_scores + rejected_scores) ** 2
    return smoothed_logistic(difference, label_smoothing) + centring
