"""Preference data in, an aligned language model out, with the evidence that it is one.

    from preftune import DPOConfig, DPOTrainer

Nothing heavy is imported before a name is asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from preftune import losses, mini, rewards
    from preftune.advise.advice import advise
    from preftune.audit.everything import audit
    from preftune.diagnose.given import diagnose_run as diagnose
    from preftune.errors import PreftuneError
    from preftune.evaluate.everything import evaluate
    from preftune.online_trainers import (
        GRPOConfig,
        GRPOTrainer,
        OnlineDPOConfig,
        OnlineDPOTrainer,
        PPOConfig,
        PPOTrainer,
        RLOOConfig,
        RLOOTrainer,
    )
    from preftune.trainers import (
        CPOConfig,
        CPOTrainer,
        DPOConfig,
        DPOTrainer,
        IPOConfig,
        IPOTrainer,
        KTOConfig,
        KTOTrainer,
        ORPOConfig,
        ORPOTrainer,
        RewardConfig,
        RewardTrainer,
        SFTConfig,
        SFTTrainer,
        SimPOConfig,
        SimPOTrainer,
    )

__all__ = [
    "CPOConfig",
    "CPOTrainer",
    "DPOConfig",
    "DPOTrainer",
    "GRPOConfig",
    "GRPOTrainer",
    "IPOConfig",
    "IPOTrainer",
    "KTOConfig",
    "KTOTrainer",
    "ORPOConfig",
    "ORPOTrainer",
    "OnlineDPOConfig",
    "OnlineDPOTrainer",
    "PPOConfig",
    "PPOTrainer",
    "PreftuneError",
    "RLOOConfig",
    "RLOOTrainer",
    "RewardConfig",
    "RewardTrainer",
    "SFTConfig",
    "SFTTrainer",
    "SimPOConfig",
    "SimPOTrainer",
    "advise",
    "audit",
    "diagnose",
    "evaluate",
    "losses",
    "mini",
    "rewards",
]

_MODULES = ("advise", "audit", "diagnose", "evaluate", "losses", "mini", "rewards")
_ONLINE = ("GRPO", "OnlineDPO", "PPO", "RLOO")


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"preftune.{name}")
    if name == "PreftuneError":
        return import_module("preftune.errors").PreftuneError
    if name in __all__:
        home = "online_trainers" if name.startswith(_ONLINE) else "trainers"
        return getattr(import_module(f"preftune.{home}"), name)
    raise AttributeError(f"preftune has no {name}")
