"""Completions with what was known when they were drawn, and windows of them: what online methods train on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from preftune.data.tokens import TokenIds
from preftune.models.layout import Group
from preftune.models.logprobs import CompletionLogProbs

PerToken: TypeAlias = Float[np.ndarray, "tokens"]
PER_TOKEN = "per_token."


@dataclass(frozen=True)
class Experience:
    """A completion to learn from; ``group`` numbers its prompt within the window.

    ``per_token`` holds, by name, a number for each token of the completion: ``sampled`` the log-prob it was drawn
    with, ``old`` the policy's when the window was made, ``reference`` the reference's, ``advantages``, ``values``,
    ``returns``; which of them is the method's choice.
    """

    id: str
    group: int
    prompt: TokenIds
    completion: TokenIds
    finished: bool
    per_token: Mapping[str, PerToken]

    @property
    def length(self) -> int:
        """Tokens of prompt and completion together."""
        return len(self.prompt) + len(self.completion)

    def having(self, **per_token: PerToken) -> Experience:
        """The same with further numbers a token."""
        return replace(self, per_token={**self.per_token, **per_token})

    def without(self, name: str) -> Experience:
        """The same without the numbers of that name."""
        return replace(self, per_token={key: value for key, value in self.per_token.items() if key != name})

    def having_each(self, name: str, value: float) -> Experience:
        """The same with one number for all its tokens."""
        return self.having(**{name: np.full(len(self.completion), value, dtype=np.float32)})


def branches(batch: Sequence[Experience]) -> list[Group]:
    """The batch as the engines take it: neighbours of one prompt share it."""
    parts = [list(members) for _, members in groupby(batch, key=lambda one: one.group)]
    return [Group(part[0].prompt.tolist(), tuple(one.completion.tolist() for one in part)) for part in parts]


def flat(batch: Sequence[Experience], name: str, device: torch.device) -> Float[Tensor, "targets"]:
    """The numbers of that name, completion after completion, as the engines give theirs."""
    return torch.from_numpy(np.concatenate([one.per_token[name] for one in batch])).float().to(device)


def completion_lengths(batch: Sequence[Experience], device: torch.device) -> Float[Tensor, "sequences"]:
    """Tokens of each completion."""
    return torch.tensor([float(len(one.completion)) for one in batch], device=device)


def per_token_log_probs(
    log_probs: Callable[[Sequence[Group]], CompletionLogProbs], batch: Sequence[Experience], batch_size: int
) -> list[PerToken]:
    """A model's log-probs of each completion's tokens."""
    return per_token_of(lambda groups: log_probs(groups).per_token, batch, batch_size)


@torch.no_grad()
def per_token_of(
    compute: Callable[[Sequence[Group]], Float[Tensor, "targets"]], batch: Sequence[Experience], batch_size: int
) -> list[PerToken]:
    """What ``compute`` says of each completion's tokens, so many completions at a time."""
    found: list[PerToken] = []
    for begin in range(0, len(batch), batch_size):
        part = batch[begin : begin + batch_size]
        found += split_by_length(compute(branches(part)), part)
    return found


def split_by_length(values: Float[Tensor, "targets"], batch: Sequence[Experience]) -> list[PerToken]:
    """Flat numbers as one array a completion."""
    ends = np.cumsum([len(one.completion) for one in batch])[:-1]
    return np.split(values.float().cpu().numpy(), ends)


def pack_window(experiences: Sequence[Experience]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Experiences as tensors and values for a checkpoint; each prompt is kept once."""
    prompts = {one.group: one.prompt for one in experiences}
    tensors = {
        "prompt_tokens": _joined(list(prompts.values()), np.int64),
        "completion_tokens": _joined([one.completion for one in experiences], np.int64),
    }
    for name in experiences[0].per_token if experiences else ():
        tensors[PER_TOKEN + name] = _joined([one.per_token[name] for one in experiences], np.float32)
    values = {
        "prompts": [[group, len(prompt)] for group, prompt in prompts.items()],
        "completions": [[one.id, one.group, len(one.completion), one.finished] for one in experiences],
    }
    return tensors, values


def unpack_window(tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> list[Experience]:
    """What ``pack_window`` packed."""
    lengths = [length for _, length in values["prompts"]]
    prompts = dict(
        zip([group for group, _ in values["prompts"]], _parted(tensors["prompt_tokens"], lengths), strict=True)
    )
    rows = values["completions"]
    lengths = [length for _, _, length, _ in rows]
    completions = _parted(tensors["completion_tokens"], lengths)
    names = [name.removeprefix(PER_TOKEN) for name in tensors if name.startswith(PER_TOKEN)]
    columns = {name: _parted(tensors[PER_TOKEN + name], lengths) for name in names}
    return [
        Experience(id, group, prompts[group], completions[i], finished, {name: columns[name][i] for name in names})
        for i, (id, group, _, finished) in enumerate(rows)
    ]


def _joined(arrays: Sequence[np.ndarray], dtype: Any) -> Tensor:
    return torch.from_numpy(np.concatenate([*arrays, np.empty(0)]).astype(dtype))


def _parted(tensor: Tensor, lengths: Sequence[int]) -> list[np.ndarray]:
    return np.split(tensor.numpy(), np.cumsum(lengths)[:-1]) if lengths else []
