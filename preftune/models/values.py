"""A value model: how much reward is still expected at each token of a completion, as PPO's critic says it.

V(s_t) is the score head's output on the hidden state that predicts token t: of the prompt for the first token, of the
prompt and ``completion[:t]`` for the others. Values therefore lie where ``models/logprobs.py`` has log-probs.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from preftune.errors import PreftuneError
from preftune.models.adapters import add_adapter, has_adapter
from preftune.models.layout import Group, lay_out
from preftune.models.merging import merged_copy
from preftune.models.paths import causal_model
from preftune.models.reward_models import is_reward_model, load_scorer
from preftune.models.scores import Path, ScoreEngine, find_score_head, own_scores, prepare_path, read_head
from preftune.models.settings import ModelConfig


class ValueEngine(nn.Module):
    """A model with one score as a function from groups of tokens to one float32 value a completion token.

    Values are flat, group by group and completion by completion, as ``CompletionLogProbs.per_token`` is. ``note`` is
    told in one line when the cheapest path cannot be used, and why; the paths are those of ``models/scores.py``.
    """

    def __init__(
        self, model: nn.Module, *, path: Path | None = None, note: Callable[[str], object] | None = None
    ) -> None:
        super().__init__()
        self.model = model
        self.path: Path = prepare_path(model, completion_values, "values", path, note)

    def forward(self, groups: Sequence[Group]) -> Float[Tensor, "targets"]:
        return completion_values(self.model, groups, self.path)


class RewardBeneath(ScoreEngine):
    """The reward model that a value model's adapter lies on: its scores with the adapter off, without gradients."""

    def forward(self, groups: Sequence[Group]) -> Float[Tensor, "sequences"]:
        was_training = self.model.training
        self.model.eval()
        try:
            with torch.no_grad(), self.model.disable_adapter():  # type: ignore[operator]
                return super().forward(groups)
        finally:
            self.model.train(was_training)


def completion_values(model: nn.Module, groups: Sequence[Group], path: Path) -> Float[Tensor, "targets"]:
    """The value at every completion token of ``groups``, in order, computed by ``path``.

    ``own`` brings each beginning of each completion through the model by itself: exact for any head, and slow.
    """
    inner: Any = causal_model(model)
    head = find_score_head(inner)
    if path == "own" or head is None:
        return own_scores(inner, [row for group in groups for row in _beginnings(group)])
    layout = lay_out(groups, share_prompt=path == "packed", pad_to_rows=path != "packed")
    return read_head(inner, head, layout, layout.predicted_from, path)


def load_value_model(config: ModelConfig, device: torch.device) -> nn.Module:
    """A value model in its training precision, on ``device``, in evaluation mode, to be trained.

    A reward model keeps its head, so that values start as its scores of unfinished answers (Huang et al. 2024,
    arXiv:2403.17031). A language model gets a head of zeros: no value is better than a random one (Ziegler et al.
    2019, arXiv:1909.08593). Errors are those of ``load_scorer``.
    """
    model = load_scorer(config, device)
    if not is_reward_model(config):
        _zero_head(model)
    return model


def scorer_from(model: nn.Module) -> nn.Module:
    """A value model with the weights of a loaded language model, its adapter merged, and a head of zeros."""
    from transformers import AutoModelForSequenceClassification

    inner: Any = merged_copy(model) if has_adapter(model) else model
    config = copy.deepcopy(inner.config)
    config.num_labels = 1
    scorer: Any = AutoModelForSequenceClassification.from_config(config).to(inner.dtype)
    scorer.base_model.load_state_dict(inner.base_model.state_dict())
    _zero_head(scorer)
    return scorer.to(inner.device).eval()


def adapter_over_reward(
    reward_model: nn.Module, config: ModelConfig, *, note: Callable[[str], object] | None = None
) -> ValueEngine:
    """A value model as a new LoRA adapter, with a head of its own, over a reward model that stays as it is.

    Both live on one trunk: ``reward_beneath`` gives the reward model's scores. At the start the values are its own
    head's. ``reward_model`` is itself adapted; its weights are frozen, and may be quantised.
    """
    if has_adapter(reward_model):
        raise PreftuneError(
            "The reward model is an adapter itself, and a value model's adapter needs whole weights beneath it.",
            mend="Merge it first: preftune.models.merging.load_base does.",
        )
    return ValueEngine(add_adapter(reward_model.requires_grad_(False), config, task="SEQ_CLS"), note=note)


def reward_beneath(values: ValueEngine) -> RewardBeneath:
    """The scores of the reward model that ``values`` is an adapter over."""
    if not has_adapter(values.model):
        raise PreftuneError(
            "The value model shares no weights with a reward model.",
            mend="Make it by adapter_over_reward, or load the reward model beside it.",
        )
    return RewardBeneath(values.model, path=values.path)


def _beginnings(group: Group) -> list[list[int]]:
    """What stands before each token of each completion, the prompt included."""
    return [[*group.prompt, *one[:t]] for one in group.completions for t in range(len(one))]


@torch.no_grad()
def _zero_head(model: nn.Module) -> None:
    head = find_score_head(causal_model(model))
    assert head is not None, "load_scorer refuses language models whose new head is no matrix"
    head.weight.zero_()
    if head.bias is not None:
        head.bias.zero_()
