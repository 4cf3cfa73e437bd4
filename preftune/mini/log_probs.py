"""log p(answer | prompt) under a small model: padded batches, the end token counted, prompt and padding not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from preftune.data.batches import by_length
from preftune.mini.tokenizer import END, Example


@dataclass(frozen=True)
class Padded:
    """Examples as one tensor, shorter ones filled up on the right; ``is_answer`` marks what is scored."""

    tokens: Int[Tensor, "rows tokens"]
    is_answer: Bool[Tensor, "rows tokens"]
    lengths: Int[Tensor, "rows"]


def pad(examples: Sequence[Example], device: torch.device) -> Padded:
    """``examples`` side by side. Attention looks back only, so that padding on the right is seen by no token."""
    longest = max(example.length for example in examples)
    rows = [[*example.tokens, *[END] * (longest - example.length)] for example in examples]
    lengths = torch.tensor([example.length for example in examples])
    starts = torch.tensor([example.start for example in examples])
    places = torch.arange(longest)
    is_answer = (places >= starts[:, None]) & (places < lengths[:, None])
    return Padded(torch.tensor(rows).to(device), is_answer.to(device), lengths.to(device))


def answer_log_probs(model: nn.Module, examples: Sequence[Example]) -> Float[Tensor, "rows"]:
    """log p of each answer with its end token, given its prompt: summed over tokens, in nats."""
    batch = pad(examples, device_of(model))
    log_probs = next_token_log_probs(model, batch)
    taken = log_probs.gather(-1, batch.tokens[:, 1:, None]).squeeze(-1)  # (rows, tokens - 1)
    return torch.where(batch.is_answer[:, 1:], taken, 0.0).sum(1)


def next_token_log_probs(model: nn.Module, batch: Padded) -> Float[Tensor, "rows targets vocab"]:
    """log p of every possible token at each place but the first, in float32."""
    return model(batch.tokens[:, :-1]).float().log_softmax(-1)


@torch.no_grad()
def scored_by_length(
    score: Callable[[Sequence[Example]], Float[Tensor, "rows"]], examples: Sequence[Example], batch_size: int = 32
) -> Float[Tensor, "rows"]:
    """What ``score`` gives for any number of examples, in their order, without gradients, on the CPU.

    Batches depend on lengths only: equal models give equal numbers to the last bit.
    """
    scores = torch.empty(len(examples))
    for rows in by_length([example.length for example in examples], batch_size):
        scores[torch.tensor(rows)] = score([examples[i] for i in rows]).cpu()
    return scores


def device_of(model: nn.Module) -> torch.device:
    """Where the model's weights are."""
    return next(model.parameters()).device
