"""The Python API of the online methods, with TRL's names.

from preftune import GRPOConfig, GRPOTrainer

trainer = GRPOTrainer(model="Qwen/Qwen3-0.6B", reward_funcs=["accuracy", "format"], args=GRPOConfig(output_dir="out"),
                      train_dataset=questions)
trainer.train()
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar, TypeAlias

from torch import nn

from preftune.errors import PreftuneError
from preftune.methods.grpo import GRPOConfig
from preftune.methods.online_dpo import OnlineDPOConfig
from preftune.methods.online_settings import OnlineConfig
from preftune.methods.ppo import PPOConfig
from preftune.methods.rloo import RLOOConfig
from preftune.models.scores import ScoreEngine
from preftune.rewards.scoring import Scorer
from preftune.trainers import Trainer

Reward: TypeAlias = str | Callable[..., Any] | nn.Module | Scorer


class OnlineTrainer(Trainer):
    """One run of an online method; ``reward_funcs`` are names, folders, functions or reward models.

    ``reward_processing_classes`` are the tokenizers of those given as loaded models.
    """

    config_class: ClassVar[type[OnlineConfig]]  # type: ignore[assignment]

    def __init__(
        self,
        model: str | nn.Module | None = None,
        reward_funcs: Reward | Sequence[Reward] | None = None,
        args: OnlineConfig | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        reward_processing_classes: Any = None,
        **others: Any,
    ) -> None:
        rewards = _listed(reward_funcs)
        if all(isinstance(one, str) for one in rewards) and rewards:  # then the run's config.yaml names them
            args = (args or self.config_class()).model_copy(update={"reward_funcs": tuple(rewards)})
            rewards = []
        super().__init__(
            model=model,
            args=args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            **others,
        )
        tokenizers = [one for one in _listed(reward_processing_classes) if one is not None]
        opened = _opened(rewards, tokenizers)
        self.given = replace(self.given, rewards=opened)
        if not opened and not getattr(self.args, "reward_funcs", ()):
            raise PreftuneError(
                "There is no reward.", where="reward_funcs", mend="Give a name, a function, or a reward model."
            )


class GRPOTrainer(OnlineTrainer):
    """GRPO and its descendants on prompts."""

    method, config_class = "grpo", GRPOConfig


class RLOOTrainer(OnlineTrainer):
    """RLOO or REINFORCE++ on prompts."""

    method, config_class = "rloo", RLOOConfig


class PPOTrainer(OnlineTrainer):
    """PPO on prompts; ``reward_model`` and ``value_model`` are the names of TRL's last PPOTrainer."""

    method, config_class = "ppo", PPOConfig

    def __init__(
        self, *arguments: Any, reward_model: Reward | None = None, value_model: str | None = None, **named: Any
    ) -> None:
        if reward_model is not None:
            named["reward_funcs"] = [*_listed(named.get("reward_funcs")), reward_model]
        if value_model is not None:
            if not isinstance(value_model, str):
                raise PreftuneError(
                    "A loaded value model is not supported.", where="value_model", mend="Give the folder it lies in."
                )
            named["args"] = (named.get("args") or PPOConfig()).model_copy(update={"value_model": value_model})
        super().__init__(*arguments, **named)


class OnlineDPOTrainer(OnlineTrainer):
    """DPO on pairs of the policy's own completions."""

    method, config_class = "online-dpo", OnlineDPOConfig


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def _opened(rewards: Sequence[Reward], tokenizers: Sequence[Any]) -> list[Any]:
    """Loaded reward models with their tokenizers; the rest as it is."""
    models = [one for one in rewards if isinstance(one, nn.Module)]
    if len(models) != len(tokenizers):
        raise PreftuneError(
            f"{len(models)} loaded reward models have {len(tokenizers)} tokenizers.",
            where="reward_processing_classes",
            mend="Give one tokenizer for each, or the reward models' folders.",
        )
    remaining = iter(tokenizers)
    return [_scorer(one, next(remaining)) if isinstance(one, nn.Module) else one for one in rewards]


def _scorer(model: nn.Module, tokenizer: Any) -> Scorer:
    name = getattr(getattr(model, "config", None), "_name_or_path", "") or type(model).__name__
    return Scorer(name, ScoreEngine(model.requires_grad_(False)).eval(), tokenizer)
