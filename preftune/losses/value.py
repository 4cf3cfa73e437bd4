"""The loss of PPO's value function, and how much of the returns it explains."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def clipped_value_loss(
    values: Float[Tensor, "targets"],
    old_values: Float[Tensor, "targets"],
    returns: Float[Tensor, "targets"],
    cliprange: float = 0.2,
) -> Float[Tensor, "targets"]:
    """PPO's value loss, one a token: squared error, and nothing gained by moving far from the old value.

    ``0.5 max((V - G)^2, (clip(V, V_old - c, V_old + c) - G)^2)``, the form of the PPO authors' code (openai/baselines,
    ppo2; Huang et al. 2024, arXiv:2403.17031). ``cliprange`` c is in units of the reward; `math.inf` leaves
    the plain squared error. At the start of a window V is V_old and nothing is clipped.
    """
    clipped = torch.clamp(values, old_values - cliprange, old_values + cliprange)
    return 0.5 * torch.maximum((values - returns).square(), (clipped - returns).square())


def explained_variance(values: Float[Tensor, "targets"], returns: Float[Tensor, "targets"]) -> Float[Tensor, ""]:
    """Share of the returns' variance that the values explain: ``1 - Var(G - V)/Var(G)``.

    1 is a perfect value function, 0 one as good as a constant, below 0 one that is worse; a constant error does not
    count against it. NaN where all returns are the same. Without gradient.
    """
    with torch.no_grad():
        variance = returns.var(correction=0)
        return torch.where(variance > 0, 1 - (returns - values).var(correction=0) / variance, torch.nan)
