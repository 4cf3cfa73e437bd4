"""PPO's value model beside its policy: loaded, kept in one module, asked for values, saved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from preftune.errors import PreftuneError
from preftune.methods.context import Context, Given
from preftune.methods.experience import Experience, PerToken, per_token_of
from preftune.methods.policy import Trainee, load_trainee
from preftune.methods.ppo_settings import PPOConfig
from preftune.models.layout import Group
from preftune.models.loading import load_tokenizer
from preftune.models.logprobs import CompletionLogProbs, LogProbEngine
from preftune.models.values import ValueEngine, load_value_model, reward_beneath, scorer_from
from preftune.rewards.scoring import Scorer, read_calibration


class ActorCritic(nn.Module):
    """Policy and value model as one module, so that one optimiser and one data-parallel wrapper hold both."""

    def __init__(self, policy: LogProbEngine, value: ValueEngine) -> None:
        super().__init__()
        self.policy, self.value = policy, value

    @property
    def model(self) -> nn.Module:
        """The policy's model."""
        return self.policy.model

    def forward(self, groups: Sequence[Group]) -> tuple[CompletionLogProbs, Tensor]:
        """The log-prob and the value of every completion token."""
        return self.policy(groups), self.value(groups)


def load_critic(context: Context[Any], reward_folder: str | None) -> Trainee[ValueEngine]:
    """The value model: from ``value_model``, else the reward model, else the policy's own start.

    It reads the policy's tokens, so a reward model of another vocabulary is passed over, with a note.
    """
    config: PPOConfig = context.config
    source = config.value_model or reward_folder
    if source is not None and not _reads_the_same_tokens(context, source):
        if config.value_model or config.share_reward_trunk:
            raise PreftuneError(
                "The value model has another vocabulary than the policy, whose tokens it reads.",
                where=source,
                mend="Give one of the policy's family, or leave value_model and share_reward_trunk out.",
            )
        context.reporter.note(f"the value model starts from the policy: {source} has another vocabulary")
        source = None
    loaded = context.given.model if source is None else None
    model = None if loaded is None else scorer_from(loaded)
    own = replace(context, config=_of(config, source or config.model), given=Given(model=model))
    return load_trainee(own, load_value_model, ValueEngine, task="SEQ_CLS")


def _of(config: PPOConfig, source: str) -> PPOConfig:
    """The config for another model than the policy."""
    if source == config.model:
        return config
    return config.model_copy(update={"model": source, "tokenizer": None, "chat_template_path": None, "revision": None})


def _reads_the_same_tokens(context: Context[Any], source: str) -> bool:
    config: PPOConfig = context.config
    own = context.given.tokenizer or load_tokenizer(config)
    return load_tokenizer(_of(config, source)).get_vocab() == own.get_vocab()


def reward_under_critic(context: Context[Any], critic: Trainee[ValueEngine], folder: str) -> Scorer:
    """The reward model that the value model's adapter lies on: one set of weights for both."""
    calibration = read_calibration(Path(folder).expanduser())
    return Scorer(folder, reward_beneath(critic.engine).eval(), critic.tokenizer, calibration)


def per_token_values(engine: ValueEngine, experiences: Sequence[Experience], batch_size: int) -> list[PerToken]:
    """The value at each token of each completion, in evaluation mode."""
    was_training = engine.training
    engine.eval()
    try:
        return per_token_of(engine, experiences, batch_size)
    finally:
        engine.train(was_training)
