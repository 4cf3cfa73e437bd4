"""Per-token and per-sequence log-probs of completions, by the cheapest path the model allows.

Paths, cheapest first; each gives the same numbers (float32: within 1e-5 relative), and each is checked
against the last on a small batch before it is used:

``packed``  prompts shared, segments end to end in one unpadded row, LM head on completion tokens only
``masked``  prompts shared, one padded row a prompt with a 4-D attention mask, LM head on completions only
``plain``   one padded row a sequence, LM head on completion tokens only
``logits``  one padded row a sequence, the model's own full logits
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from preftune.errors import PreftuneError
from preftune.models.head import find_head
from preftune.models.layout import Group, Layout, lay_out
from preftune.models.paths import causal_model, cheapest_path, hidden_states, probe_groups, refuse_unfit, use_attention

Path = Literal["packed", "masked", "plain", "logits"]
PATHS: tuple[Path, ...] = ("packed", "masked", "plain", "logits")


@dataclass(frozen=True)
class CompletionLogProbs:
    """Log-probs (nats) of every completion token, and which sequence each belongs to."""

    per_token: Float[Tensor, "targets"]
    entropy: Float[Tensor, "targets"]
    sequence: Int[Tensor, "targets"]
    n_sequences: int

    def sums(self) -> Float[Tensor, "sequences"]:
        """log p(completion | prompt) of each sequence."""
        return self._add(self.per_token)

    def lengths(self) -> Float[Tensor, "sequences"]:
        """Completion tokens of each sequence."""
        return self._add(torch.ones_like(self.per_token))

    def weighted_sums(self, weights: Float[Tensor, "targets"]) -> Float[Tensor, "sequences"]:
        """Of each sequence the sum of its tokens' log-probs, each times its weight."""
        return self._add(self.per_token * weights.to(self.per_token))

    def where(self, counts: Bool[Tensor, "targets"]) -> CompletionLogProbs:
        """The same of the tokens that count."""
        counts = counts.to(self.sequence.device)
        return CompletionLogProbs(self.per_token[counts], self.entropy[counts], self.sequence[counts], self.n_sequences)

    def _add(self, values: Tensor) -> Tensor:
        return values.new_zeros(self.n_sequences).index_add(0, self.sequence, values)


class LogProbEngine(nn.Module):
    """A causal language model as a function from groups of tokens to the log-probs of their completions.

    A module of its own, so that data-parallel wrappers see its forward pass. ``note`` is told in one line
    when the cheapest path cannot be used, and why. Log-probs are of the distribution that is drawn from at
    ``temperature``.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        path: Path | None = None,
        note: Callable[[str], object] | None = None,
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        if not temperature > 0:
            mend = "Draw at a temperature above 0: the greedy distribution has no log-probs to learn from."
            raise PreftuneError(f"Log-probs are asked for at temperature {temperature:g}.", mend=mend)
        self.temperature = temperature
        refuse_unfit(model)
        self.model = model
        self.path: Path = path or choose_path(model, note or (lambda _: None))
        use_attention(causal_model(model), self.path)

    def forward(self, groups: Sequence[Group]) -> CompletionLogProbs:
        return completion_log_probs(self.model, groups, self.path, self.temperature)


def completion_log_probs(
    model: nn.Module, groups: Sequence[Group], path: Path, temperature: float = 1.0
) -> CompletionLogProbs:
    """Log-probs of every completion of ``groups``, in order, computed by ``path``."""
    inner: Any = causal_model(model)
    layout = lay_out(groups, share_prompt=path in ("packed", "masked"), pad_to_rows=path != "packed")
    targets = layout.targets.to(inner.device)
    head = find_head(inner)
    if path == "logits" or head is None:
        per_token, entropy = _from_logits(inner, layout, targets, temperature)
    else:
        hidden = hidden_states(inner, layout, path)[layout.predicted_from.to(inner.device)]
        per_token, entropy = head.log_probs(hidden, targets, temperature)
    return CompletionLogProbs(per_token, entropy, layout.sequence.to(inner.device), layout.n_sequences)


def choose_path(model: nn.Module, note: Callable[[str], object]) -> Path:
    """The cheapest path that gives the full-logits numbers on a small batch of this very model."""
    inner = causal_model(model)
    probe = probe_groups(inner)
    return cheapest_path(
        model,
        PATHS,
        lambda path: completion_log_probs(model, probe, path).per_token,
        what="log-probs",
        note=note,
        obstacle="the LM head is more than one matrix" if find_head(inner) is None else None,
    )


def _from_logits(inner: Any, layout: Layout, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    device = inner.device
    arguments = {
        "input_ids": layout.input_ids.to(device),
        "attention_mask": layout.attention_mask().to(device),
        "use_cache": False,
    }
    logits = inner(**arguments).logits.flatten(0, 1)[layout.predicted_from.to(device)]
    logits = logits.float() if temperature == 1.0 else logits.float() / temperature
    log_probs = logits.log_softmax(-1)
    entropy = -(log_probs.exp() * log_probs).sum(-1).detach()
    return log_probs.gather(1, targets[:, None])[:, 0], entropy
