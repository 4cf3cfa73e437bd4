"""Direct preference optimisation (Rafailov et al. 2023, arXiv:2305.18290)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from preftune import losses
from preftune.methods.pairs import PairMethod
from preftune.methods.settings import PairConfig
from preftune.models.reference import PairLogProbs


class DPOConfig(PairConfig):
    """Train a policy on pairs directly, against its frozen start."""

    beta: float = Field(0.1, gt=0, description="How dearly leaving the reference is paid; the paper's 0.1.")
    label_smoothing: float = Field(0.0, ge=0, lt=0.5, description="Believed share of flipped labels (cDPO).")
    loss_type: Literal["sigmoid"] = Field("sigmoid", description="DPO's loss.")


def dpo_method(config: DPOConfig) -> PairMethod:
    """DPO as a method on pairs."""

    def pair_losses(policy: PairLogProbs, reference: PairLogProbs) -> Tensor:
        return losses.dpo(
            *policy.unbind(1), *reference.unbind(1), beta=config.beta, label_smoothing=config.label_smoothing
        )

    return PairMethod("dpo", pair_losses, reward_scale=config.beta)
