"""The methods by the name of their command; what is behind a name is imported when it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from preftune.errors import PreftuneError

if TYPE_CHECKING:
    from preftune.methods.context import Context
    from preftune.methods.job import Job
    from preftune.methods.settings import RunConfig


@dataclass(frozen=True)
class Method:
    """A method's module, the name of its config there, and its line in the list of commands.

    The module's ``prepare(context)`` makes it ready to train.
    """

    module: str
    config: str
    line: str

    def config_class(self) -> type[RunConfig]:
        """The class of its settings."""
        return getattr(import_module(f"preftune.methods.{self.module}"), self.config)

    def prepare(self) -> Callable[[Context[Any]], Job[Any]]:
        """The function that makes it ready."""
        return import_module(f"preftune.methods.{self.module}").prepare


METHODS: Final[dict[str, Method]] = {
    "sft": Method("sft", "SFTConfig", "Train a model to give demonstrated answers."),
    "reward": Method("reward", "RewardConfig", "Train a reward model on preference pairs."),
    "dpo": Method("dpo", "DPOConfig", "Train on preference pairs with DPO or one of its variants."),
    "ipo": Method("dpo", "IPOConfig", "Train on pairs with IPO, which bounds over-fitting."),
    "kto": Method("kto", "KTOConfig", "Train on answers labelled good or bad with KTO."),
    "orpo": Method("orpo", "ORPOConfig", "Train on pairs with ORPO, without a reference."),
    "simpo": Method("simpo", "SimPOConfig", "Train on pairs with SimPO, without a reference."),
    "ppo": Method("ppo", "PPOConfig", "Train on rewards of its own completions with PPO."),
    "grpo": Method("grpo", "GRPOConfig", "Train on completions judged against each other with GRPO."),
    "rloo": Method("rloo", "RLOOConfig", "Train on rewards with RLOO or REINFORCE++."),
    "online-dpo": Method("online_dpo", "OnlineDPOConfig", "Train by DPO on pairs of its own, ranked by rewards."),
}


def find_method(name: str) -> Method:
    """The method of that name; PreftuneError names the known ones."""
    if name not in METHODS:
        raise PreftuneError(f"There is no method {name}.", mend=f"Known are {', '.join(METHODS)}.")
    return METHODS[name]
