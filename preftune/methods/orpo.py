"""Odds-ratio preference optimisation (Hong et al. 2024, arXiv:2403.07691): no reference, no separate SFT."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from preftune import losses
from preftune.methods.context import Context
from preftune.methods.job import Job
from preftune.methods.pair_run import prepare_pairs
from preftune.methods.pairs import PairMethod
from preftune.methods.settings import PairConfig


class ORPOConfig(PairConfig):
    """Train a model to write the chosen side and, a little, not the rejected one; no reference."""

    learning_rates: ClassVar[tuple[float, float]] = (5e-6, 5e-5)

    beta: float = Field(default=0.1, ge=0, description="Weight of the odds-ratio term; the paper's lambda.")
    nll_of: Literal["completion", "sequence"] = Field(
        default="completion",
        description="What the likelihood term covers: the chosen answer, or prompt and answer as TRL.",
    )


def prepare(context: Context[Any]) -> Job[Any]:
    """A run of ORPO."""
    return prepare_pairs(context, orpo_method(context.config))


def orpo_method(config: ORPOConfig) -> PairMethod:
    """ORPO as a method on pairs."""
    return PairMethod(
        "orpo",
        lambda values: losses.orpo(*values.means.unbind(1), lam=config.beta, nll=values.chosen_nll),
        rewards=lambda values: config.beta * values.means,
        needs_reference=False,
        nll_of_prompt=config.nll_of == "sequence",
        figures=lambda values: {
            "nll_loss": values.chosen_nll,
            "log_odds_chosen": losses.log_odds_ratio(*values.means.unbind(1)),
        },
    )
