"""The settings of PPO, by the names of TRL's last PPOConfig where it had them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from preftune.methods.online_settings import OnlineConfig


def _of_kl_penalty(value: Any) -> tuple[str, str]:
    """What people call the KL penalty is its price, where it is a number, and in old TRL and verl its estimator."""
    is_word = isinstance(value, str) and not re.fullmatch(r"[-+0-9.eE]+", value)
    if is_word:
        return "kl_estimator", "the price is kl_coef"
    return "kl_coef", "the price of the KL from the reference"


class PPOConfig(OnlineConfig):
    """Train a policy by PPO against rewards, with a value model and a price on the KL from its start."""

    other_names: ClassVar[Mapping[str, Any]] = {
        **OnlineConfig.other_names,
        "kl_penalty": _of_kl_penalty,
        "beta": ("kl_coef", ""),
        "init_kl_coef": ("kl_coef", ""),
        "target_kl": ("early_stop_kl", "nats a token at which a window is left; kl_target is what kl_coef would hold"),
        "target": ("kl_target", "nats a completion that kl_coef is adapted to hold"),
        "horizon": ("kl_horizon", ""),
        "ppo_epochs": ("num_ppo_epochs", ""),
        "num_iterations": ("num_ppo_epochs", ""),
        "epsilon": ("cliprange", ""),
        "sft_model_path": ("model", ""),
    }

    learning_rates: ClassVar[tuple[float, float]] = (1e-6, 1e-5)

    num_generations: int = Field(default=1, ge=1, description="Completions drawn for each prompt.")
    adam_epsilon: float = Field(default=1e-5, gt=0, description="AdamW's epsilon; PPO's usual one.")

    num_ppo_epochs: int = Field(default=4, ge=1, description="Passes over the completions drawn at once.")
    num_mini_batches: int = Field(default=1, ge=1, description="Optimiser steps of a pass.")
    cliprange: float = Field(default=0.2, gt=0, description="How far from 1 the ratio of policies counts.")
    cliprange_value: float = Field(default=0.2, gt=0, description="How far from its old value a value may go.")
    vf_coef: float = Field(default=0.1, ge=0, description="Weight of the value model's loss.")
    gamma: float = Field(default=1.0, gt=0, le=1, description="Discount of later rewards, a token.")
    lam: float = Field(default=0.95, ge=0, le=1, description="GAE's lambda: 1 trusts rewards, 0 trusts values.")
    whiten_rewards: bool = Field(default=False, description="Token rewards with deviation 1; their mean stays.")
    whiten_advantages: bool = Field(default=True, description="Advantages with mean 0, deviation 1 over the window.")

    kl_coef: float = Field(default=0.05, ge=0, description="Price of the KL from the reference, a nat.")
    kl_estimator: Literal["k1", "k2", "k3"] = Field(
        default="k1", description="How a token's KL is estimated; old TRL's and verl's kl, mse, low_var_kl too."
    )
    kl_target: float | None = Field(
        default=None, gt=0, description="Nats a completion that kl_coef is adapted to hold; unset: it is fixed."
    )
    kl_horizon: float = Field(default=10_000, gt=0, description="Completions over which kl_coef adapts.")

    reward_clip_range: tuple[float, float] | None = Field(default=None, description="Rewards are kept within.")

    value_model: str | None = Field(
        default=None, description="What the value model starts from; unset: the first reward model, else the policy."
    )
    share_reward_trunk: bool = Field(
        default=False, description="The value model is an adapter over the reward model's weights (with use_peft)."
    )

    @field_validator("kl_estimator", mode="before")
    @classmethod
    def _in_todays_words(cls, value: Any) -> Any:
        return {"kl": "k1", "mse": "k2", "low_var_kl": "k3"}.get(value, value)

    @model_validator(mode="after")
    def _shares_by_an_adapter(self) -> Self:
        if self.kl_target is not None and self.kl_coef == 0:
            raise ValueError("kl_coef: 0 times anything is 0, so kl_target cannot be held; start it above 0.")
        if self.reward_clip_range is not None and self.reward_clip_range[0] >= self.reward_clip_range[1]:
            raise ValueError("reward_clip_range: the first number is to be below the second.")
        if self.share_reward_trunk and not self.use_peft:
            raise ValueError("share_reward_trunk: it needs --use_peft, for the reward model's weights must stay.")
        return self

    @property
    def mini_batches(self) -> int:
        return self.num_mini_batches

    @property
    def passes(self) -> int:
        return self.num_ppo_epochs
