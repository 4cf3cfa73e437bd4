"""A small policy and its value model side by side, and what both say of each answer token."""

from __future__ import annotations

import copy

import torch
from jaxtyping import Float
from torch import Tensor, nn

from preftune.mini.log_probs import Padded, device_of
from preftune.mini.model import Body, MiniGPT, RewardModel


class ValueModel(nn.Module):
    """The reward still expected before each answer token is seen, token after token, flat: (targets,)."""

    def __init__(self, body: Body, head: nn.Linear) -> None:
        super().__init__()
        self.body, self.head = body, head

    def forward(self, batch: Padded) -> Float[Tensor, "targets"]:
        values = self.head(self.body(batch.tokens[:, :-1])).squeeze(-1).float()
        return values[batch.is_answer[:, 1:]]


class ActorCritic(nn.Module):
    """Policy and value model as one module, so that one optimiser holds both."""

    def __init__(self, policy: MiniGPT, value: ValueModel) -> None:
        super().__init__()
        self.policy, self.value = policy, value

    def forward(self, batch: Padded, temperature: float) -> tuple[Float[Tensor, "targets"], Float[Tensor, "targets"]]:
        """The log-prob and the value of every answer token."""
        return taken(tempered_log_probs(self.policy, batch, temperature), batch), self.value(batch)


def value_model(policy: MiniGPT, reward: object) -> ValueModel:
    """A value model to train: a copy of the reward model where ``reward`` is one, else the policy's body, saying 0."""
    if isinstance(reward, RewardModel):
        value = ValueModel(copy.deepcopy(reward.body), copy.deepcopy(reward.score))
    else:
        with torch.random.fork_rng(devices=[]):  # a new layer draws, and the caller's draws are not to change
            head = nn.Linear(policy.head.in_features, 1)
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
        value = ValueModel(copy.deepcopy(policy.body), head)
    return value.requires_grad_(True).to(device_of(policy))


def tempered_log_probs(model: nn.Module, batch: Padded, temperature: float) -> Float[Tensor, "rows targets vocab"]:
    """log p of every possible token at each place but the first, as drawn at ``temperature``, in float32."""
    return (model(batch.tokens[:, :-1]).float() / temperature).log_softmax(-1)


def taken(log_probs: Float[Tensor, "rows targets vocab"], batch: Padded) -> Float[Tensor, "targets"]:
    """Of those, the answers' tokens, answer after answer."""
    return log_probs.gather(-1, batch.tokens[:, 1:, None]).squeeze(-1)[batch.is_answer[:, 1:]]
