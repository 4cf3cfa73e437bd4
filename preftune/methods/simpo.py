"""SimPO (Meng et al. 2024, arXiv:2405.14734) and CPO (Xu et al. 2024, arXiv:2401.08417): no reference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal, Self, TypeAlias

from pydantic import Field, model_validator
from torch import Tensor

from preftune import losses
from preftune.methods.context import Context
from preftune.methods.job import Job
from preftune.methods.pair_run import prepare_pairs
from preftune.methods.pairs import PairLosses, PairMethod, PairValues
from preftune.methods.settings import PairConfig

LossType: TypeAlias = Literal["sigmoid", "hinge", "ipo", "simpo", "alphapo"]


class CPOConfig(PairConfig):
    """Train a model on pairs without a reference, with the likelihood of the chosen side added."""

    beta: float = Field(default=0.1, gt=0, description="Scale of the log-probs in the loss.")
    loss_type: LossType = Field(
        default="sigmoid",
        description="Of summed log-probs: sigmoid, hinge; of their means a token: ipo, simpo, alphapo.",
    )
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5, description="Believed share of flipped labels.")
    cpo_alpha: float | None = Field(
        default=None, ge=0, description="Weight of the chosen side's likelihood a token; unset: 1, for alphapo 0."
    )
    simpo_gamma: float = Field(
        default=0.5, ge=0, description="simpo: the margin asked for; gamma_beta_ratio times beta."
    )
    alpha: float | None = Field(
        default=None, description="alphapo: the exponent of its reward; 0 is simpo's; unset: 0.25."
    )

    @model_validator(mode="after")
    def _has_use_for_alpha(self) -> Self:
        if self.alpha and self.loss_type != "alphapo":
            raise ValueError("alpha belongs to loss_type alphapo")
        return self

    @property
    def likelihood_weight(self) -> float:
        """What the likelihood term is multiplied by."""
        if self.cpo_alpha is not None:
            return self.cpo_alpha
        return 0.0 if self.loss_type == "alphapo" else 1.0


class SimPOConfig(CPOConfig):
    """Train a model on pairs by mean log-probs with a margin, without a reference."""

    beta: float = Field(default=2.0, gt=0, description="Scale of the mean log-probs; the authors use 2 to 10.")
    loss_type: LossType = Field(default="simpo", description="simpo is SimPO's; the others are CPO's.")
    cpo_alpha: float | None = Field(
        default=0.0, ge=0, description="Weight of the chosen side's likelihood a token; SimPO has none."
    )
    simpo_gamma: float = Field(
        default=1.0, ge=0, description="The margin asked for; the authors' gamma_beta_ratio times beta."
    )


def prepare(context: Context[Any]) -> Job[Any]:
    """A run of SimPO or CPO."""
    return prepare_pairs(context, cpo_method(context.config))


def cpo_method(config: CPOConfig) -> PairMethod:
    """SimPO or CPO as a method on pairs."""
    is_cpo = config.loss_type in ("sigmoid", "hinge", "ipo")
    by_mean = config.loss_type not in ("sigmoid", "hinge")
    weight = config.likelihood_weight

    def pair_losses(values: PairValues) -> PairLosses:
        chosen, rejected = (values.means if by_mean else values.policy).unbind(1)
        preference = LOSSES[config.loss_type](chosen, rejected, config)
        return preference + weight * values.chosen_nll if weight else preference

    return PairMethod(
        "cpo" if is_cpo else "simpo",
        pair_losses,
        rewards=lambda values: config.beta * (values.means if by_mean else values.policy),
        needs_reference=False,
        figures=lambda values: {"nll_loss": values.chosen_nll} if weight else {},
    )


# Of summed log-probs, or of means a token where the config's loss_type says so; the likelihood is added above.
LOSSES: Final[dict[str, Callable[[Tensor, Tensor, CPOConfig], Tensor]]] = {
    "sigmoid": lambda chosen, rejected, c: losses.cpo(
        chosen, rejected, beta=c.beta, label_smoothing=c.label_smoothing, nll_weight=0.0
    ),
    "hinge": lambda chosen, rejected, c: losses.cpo_hinge(chosen, rejected, beta=c.beta, nll_weight=0.0),
    "ipo": lambda chosen, rejected, c: losses.cpo_ipo(chosen, rejected, beta=c.beta, nll_weight=0.0),
    "simpo": lambda chosen, rejected, c: losses.simpo(
        chosen, rejected, beta=c.beta, gamma=c.simpo_gamma, label_smoothing=c.label_smoothing
    ),
    "alphapo": lambda chosen, rejected, c: losses.alphapo(
        chosen, rejected, beta=c.beta, gamma=c.simpo_gamma, alpha=0.25 if c.alpha is None else c.alpha
    ),
}
