"""Direct preference optimisation (Rafailov et al. 2023, arXiv:2305.18290) and the losses that grew out of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final, Literal, Self, TypeAlias

import torch
from pydantic import Field, model_validator
from torch import Tensor

from preftune import losses
from preftune.data.tokens import TokenPair
from preftune.methods.context import Context
from preftune.methods.job import Job
from preftune.methods.pair_run import prepare_pairs
from preftune.methods.pairs import PairLosses, PairMethod, PairValues
from preftune.methods.settings import PairConfig, ReferenceConfig
from preftune.models.logprobs import CompletionLogProbs
from preftune.models.reference import SequenceLogProbs

LossType: TypeAlias = Literal[
    "sigmoid",
    "robust",
    "hinge",
    "ipo",
    "sigmoid_norm",
    "length_regularised",
    "dpop",
    "exo_pair",
    "nca_pair",
    "bco_pair",
    "sppo_hard",
    "aot",
    "aot_unpaired",
    "apo_zero",
    "apo_down",
    "discopop",
    "sft",
]
Divergence: TypeAlias = Literal["reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"]
# The losses that are functions of the difference of two log-ratios, in which another divergence can stand.
OF_DIFFERENCE: Final = {"sigmoid", "robust", "hinge", "ipo", "sigmoid_norm", "exo_pair", "discopop"}


class DPOConfig(ReferenceConfig, PairConfig):
    """Train a policy on pairs directly, against its frozen start."""

    beta: float = Field(default=0.1, gt=0, description="How dearly leaving the reference is paid; IPO's tau.")
    loss_type: tuple[LossType, ...] = Field(
        default=("sigmoid",), min_length=1, description="DPO's loss or variants of it; several are summed."
    )
    loss_weights: tuple[float, ...] | None = Field(default=None, description="A weight for each loss_type; unset: 1.")
    label_smoothing: float = Field(
        default=0.0,
        ge=0,
        lt=0.5,
        description="Believed share of flipped labels: sigmoid (then cDPO), robust, aot, exo_pair.",
    )
    rpo_alpha: float | None = Field(
        default=None, ge=0, description="Weight of the chosen side's likelihood, added (RPO)."
    )
    ld_alpha: float | None = Field(
        default=None, ge=0, le=1, description="Weight of the tokens beyond the shorter side's length (LD-DPO)."
    )
    ipo_normalize: Literal["token", "none"] = Field(
        default="token", description="ipo: log-ratios a token, as TRL, or of the whole completion, as the paper writes."
    )
    length_alpha: float = Field(
        default=0.01, ge=0, description="length_regularised (R-DPO): what a longer chosen side is charged a token."
    )
    bco_delta: Literal["batch", "none"] = Field(
        default="batch", description="bco_pair: rewards count from the batch's mean, or from zero as in TRL."
    )
    dpop_lambda: float = Field(
        default=5.0, ge=0, description="dpop: weight on the chosen side falling below the reference."
    )
    discopop_tau: float = Field(default=0.05, gt=0, description="discopop: temperature of the blend.")
    f_divergence_type: Divergence = Field(default="reverse_kl", description="What holds the policy near its reference.")
    f_alpha_divergence_coef: float = Field(
        default=0.5, description="alpha_divergence: one minus the paper's alpha, as TRL."
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.loss_weights is not None and len(self.loss_weights) != len(self.loss_type):
            raise ValueError(
                f"loss_weights has {len(self.loss_weights)} values for {len(self.loss_type)} loss_type: give one each"
            )
        unfit = [name for name in self.loss_type if name not in OF_DIFFERENCE | {"sft"}]
        if self.f_divergence_type != "reverse_kl" and unfit:
            raise ValueError(f"f_divergence_type {self.f_divergence_type} does not go with loss_type {unfit[0]}")
        return self


class IPOConfig(DPOConfig):
    """Train a policy on pairs towards a fixed margin (Azar et al. 2023, arXiv:2310.12036), against its frozen start."""

    loss_type: tuple[LossType, ...] = Field(
        default=("ipo",), min_length=1, description="IPO's loss; several are summed."
    )


def prepare(context: Context[Any]) -> Job[Any]:
    """A run of DPO or of the variants its config names."""
    config: DPOConfig = context.config
    job = prepare_pairs(context, dpo_method(config))
    if "ipo" in config.loss_type:
        unit = "nats a token" if config.ipo_normalize == "token" else "nats"
        context.reporter.note(
            f"ipo moves the margin of log-ratios towards {losses.ipo_target_margin(config.beta):.3g} {unit}"
        )
    return job


def dpo_method(config: DPOConfig) -> PairMethod:
    """The losses of the config, weighted and summed, as a method on pairs."""
    weights = config.loss_weights or (1.0,) * len(config.loss_type)
    parts = [(weight, LOSSES[name]) for weight, name in zip(weights, config.loss_type, strict=True)]

    def pair_losses(values: PairValues) -> PairLosses:
        total = torch.stack([weight * part(values, config) for weight, part in parts]).sum(0)
        return total if config.rpo_alpha is None else total + config.rpo_alpha * values.chosen_nll

    method = PairMethod(
        "ipo" if isinstance(config, IPOConfig) else "dpo",
        pair_losses,
        rewards=lambda values: config.beta * (values.policy - values.reference),
        figures=lambda values: {"nll_loss": values.chosen_nll} if _uses_likelihood(config) else {},
    )
    if config.ld_alpha is None:
        return method
    return replace(method, reduce=_length_desensitised(config.ld_alpha), reduction=f"ld_alpha {config.ld_alpha}")


def _uses_likelihood(config: DPOConfig) -> bool:
    return config.rpo_alpha is not None or "sft" in config.loss_type


def _length_desensitised(alpha: float) -> Callable[[CompletionLogProbs, Any], SequenceLogProbs]:
    """Sums in which tokens beyond the shorter side's length count ``alpha`` (LD-DPO)."""

    def reduce(scores: CompletionLogProbs, pairs: Sequence[TokenPair]) -> SequenceLogProbs:
        chosen, rejected = (torch.tensor([len(pair.completions[side]) for pair in pairs]) for side in (0, 1))
        longest = int(torch.maximum(chosen, rejected).max())
        rows = torch.stack(losses.ld_token_weights(chosen, rejected, longest, alpha), 1).flatten(0, 1)
        lengths = torch.stack([chosen, rejected], 1).flatten()
        return scores.weighted_sums(rows[torch.arange(longest) < lengths[:, None]])

    return reduce


def _four(values: PairValues, config: DPOConfig) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Policy and reference, chosen and rejected; with another divergence its scores against zero."""
    policy, reference = values.policy, values.reference
    if config.f_divergence_type != "reverse_kl":
        ratios = policy - reference
        # TRL's coefficient, whose name this is, is one minus the paper's alpha.
        policy = losses.divergence_score(ratios, config.f_divergence_type, 1 - config.f_alpha_divergence_coef)
        reference = torch.zeros_like(policy)
    return *policy.unbind(1), *reference.unbind(1)  # type: ignore[return-value]


def _ipo(values: PairValues, config: DPOConfig) -> Tensor:
    if config.ipo_normalize == "none":
        return losses.ipo(*_four(values, config), beta=config.beta)
    chosen, rejected = values.lengths.unbind(1)
    return losses.ipo(*_four(values, config), beta=config.beta, chosen_lengths=chosen, rejected_lengths=rejected)


LOSSES: Final[dict[str, Callable[[PairValues, DPOConfig], Tensor]]] = {
    "sigmoid": lambda v, c: losses.dpo(*_four(v, c), beta=c.beta, label_smoothing=c.label_smoothing),
    "robust": lambda v, c: losses.robust(*_four(v, c), beta=c.beta, label_smoothing=c.label_smoothing),
    "hinge": lambda v, c: losses.hinge(*_four(v, c), beta=c.beta),
    "ipo": _ipo,
    "sigmoid_norm": lambda v, c: losses.sigmoid_norm(*_four(v, c), *v.lengths.unbind(1), beta=c.beta),
    "length_regularised": lambda v, c: losses.length_regularised(
        *_four(v, c), *v.lengths.unbind(1), beta=c.beta, alpha=c.length_alpha
    ),
    "dpop": lambda v, c: losses.dpop(*_four(v, c), beta=c.beta, lam=c.dpop_lambda),
    "exo_pair": lambda v, c: losses.exo_pair(*_four(v, c), beta=c.beta, label_smoothing=c.label_smoothing or 1e-3),
    "nca_pair": lambda v, c: losses.nca_pair(*_four(v, c), beta=c.beta),
    "bco_pair": lambda v, c: losses.bco_pair(*_four(v, c), beta=c.beta, delta=None if c.bco_delta == "batch" else 0.0),
    "sppo_hard": lambda v, c: losses.sppo_hard(*_four(v, c), beta=c.beta),
    "aot": lambda v, c: losses.aot(*_four(v, c), beta=c.beta, label_smoothing=c.label_smoothing),
    "aot_unpaired": lambda v, c: losses.aot_unpaired(*_four(v, c), beta=c.beta, label_smoothing=c.label_smoothing),
    "apo_zero": lambda v, c: losses.apo_zero(*_four(v, c), beta=c.beta),
    "apo_down": lambda v, c: losses.apo_down(*_four(v, c), beta=c.beta),
    "discopop": lambda v, c: losses.discopop(*_four(v, c), beta=c.beta, tau=c.discopop_tau),
    "sft": lambda v, c: v.chosen_nll,
}
