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
from jaxtyping import Float, Int
from torch import Tensor, nn

from preftune.errors import PreftuneError
from preftune.models import attention
from preftune.models.head import find_head
from preftune.models.layout import Group, Layout, lay_out

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

    def mean_entropy(self) -> Float[Tensor, ""]:
        """Mean entropy of the next-token distributions, in nats a token."""
        return self.entropy.mean()

    def _add(self, values: Tensor) -> Tensor:
        return values.new_zeros(self.n_sequences).index_add(0, self.sequence, values)


class LogProbEngine(nn.Module):
    """A causal language model as a function from groups of tokens to the log-probs of their completions.

    A module of its own, so that data-parallel wrappers see its forward pass. ``note`` is told in one line
    when the cheapest path cannot be used, and why.
    """

    def __init__(
        self, model: nn.Module, *, path: Path | None = None, note: Callable[[str], object] | None = None
    ) -> None:
        super().__init__()
        _refuse_unfit(model)
        self.model = model
        self.path: Path = path or choose_path(model, note or (lambda _: None))
        _use_attention(causal_model(model), self.path)

    def forward(self, groups: Sequence[Group]) -> CompletionLogProbs:
        return completion_log_probs(self.model, groups, self.path)


def completion_log_probs(model: nn.Module, groups: Sequence[Group], path: Path) -> CompletionLogProbs:
    """Log-probs of every completion of ``groups``, in order, computed by ``path``."""
    inner: Any = causal_model(model)
    layout = lay_out(groups, share_prompt=path in ("packed", "masked"), pad_to_rows=path != "packed")
    targets = layout.targets.to(inner.device)
    head = find_head(inner)
    if path == "logits" or head is None:
        per_token, entropy = _from_logits(inner, layout, targets)
    else:
        per_token, entropy = head.log_probs(_hidden_states(inner, layout, path), targets)
    return CompletionLogProbs(per_token, entropy, layout.sequence.to(inner.device), layout.n_sequences)


def choose_path(model: nn.Module, note: Callable[[str], object]) -> Path:
    """The cheapest path that gives the full-logits numbers on a small batch of this very model."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        truth = _probe(model, "logits")
        reasons = []
        for path in PATHS[:-1]:
            reason = _why_not(model, path, truth)
            if reason is None:
                break
            reasons.append(f"{path}: {reason}")
        else:
            path = "logits"
    finally:
        for module in training:
            module.training = True
    if reasons:
        note(f"log-probs take the '{path}' path, which costs more ({'; '.join(reasons)})")
    return path


def _refuse_unfit(model: nn.Module) -> None:
    """Raises for models whose completions are not continuations of the tokens given."""
    if getattr(causal_model(model).config, "is_encoder_decoder", False):
        raise PreftuneError(
            "An encoder-decoder model does not continue its prompt.",
            where=type(model).__name__,
            mend="Use a causal language model.",
        )
    if getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False):
        raise PreftuneError(
            "Adapters that put virtual tokens before the prompt are not supported.",
            where=type(model).__name__,
            mend="Use LoRA or another adapter inside the layers.",
        )


def causal_model(model: nn.Module) -> nn.Module:
    """The transformers model inside a PEFT wrapper, or the model itself; adapters stay in effect."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]


def _hidden_states(inner: Any, layout: Layout, path: Path) -> Float[Tensor, "targets width"]:
    body, device = inner.base_model, inner.device
    arguments: dict[str, Any] = {"use_cache": False, "position_ids": layout.position_ids.to(device)}
    segments = attention.SegmentMasks(layout, inner.dtype, device)
    if path == "packed":
        # A ready 4-D mask keeps transformers from building one; the segments say what is seen.
        arguments["attention_mask"] = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device)
        arguments["segments"] = segments
    elif path == "masked":
        arguments["attention_mask"] = layout.attention_mask_4d().to(device)
    else:
        arguments["attention_mask"] = layout.attention_mask().to(device)
    hidden = body(input_ids=layout.input_ids.to(device), **arguments).last_hidden_state
    if path == "packed" and _window(inner) and set(segments.by_window) <= {None}:
        raise NotImplementedError("the layers keep their sliding window to themselves")
    return hidden.flatten(0, 1)[layout.predicted_from.to(device)]


def _from_logits(inner: Any, layout: Layout, targets: Tensor) -> tuple[Tensor, Tensor]:
    device = inner.device
    arguments = {
        "input_ids": layout.input_ids.to(device),
        "attention_mask": layout.attention_mask().to(device),
        "use_cache": False,
    }
    logits = inner(**arguments).logits.flatten(0, 1)[layout.predicted_from.to(device)]
    log_probs = logits.float().log_softmax(-1)
    entropy = -(log_probs.exp() * log_probs).sum(-1).detach()
    return log_probs.gather(1, targets[:, None])[:, 0], entropy


def _why_not(model: nn.Module, path: Path, truth: Tensor) -> str | None:
    """Why ``path`` does not serve this model, or None where it does."""
    inner: Any = causal_model(model)
    if find_head(inner) is None:
        return "the LM head is more than one matrix"
    if path != "plain" and _text_config(inner, "attention_chunk_size"):
        return "attention is chunked"
    if path == "masked" and _window(inner):
        return "attention has a sliding window"
    before = inner.config._attn_implementation
    try:
        _use_attention(inner, path)
        difference = float((_probe(model, path) - truth).abs().max())
    except Exception as error:  # any model code may refuse in any way; the next path is then tried
        _restore_attention(inner, before)
        return f"{type(error).__name__} ({str(error).splitlines()[0][:80] if str(error) else 'no message'})"
    if difference <= _tolerance(truth, inner):
        return None
    _restore_attention(inner, before)
    return f"its numbers differ by {difference:.2g} nats"


def _use_attention(inner: Any, path: Path) -> None:
    if path == "packed":
        if not inner._can_set_attn_implementation():
            raise NotImplementedError("attention cannot be exchanged")
        attention.register()
        if inner.config._attn_implementation != attention.NAME:
            inner.set_attn_implementation(attention.NAME)


def _restore_attention(inner: Any, name: str | None) -> None:
    if name is not None and inner.config._attn_implementation != name:
        inner.set_attn_implementation(name)


@torch.no_grad()
def _probe(model: nn.Module, path: Path) -> Tensor:
    return completion_log_probs(model, _probe_groups(causal_model(model)), path).per_token


def _probe_groups(inner: nn.Module) -> list[Group]:
    """Two prompts of unlike length with two completions each, of tokens spread over the vocabulary."""
    vocab = int(_text_config(inner, "vocab_size") or 2)
    draw = torch.Generator().manual_seed(0)
    lengths = [(5, 3, 4), (3, 2, 6)]

    def tokens(n: int) -> list[int]:
        return torch.randint(vocab // 4, vocab, (n,), generator=draw).tolist()

    return [Group(tokens(p), (tokens(c), tokens(r))) for p, c, r in lengths]


def _tolerance(truth: Tensor, inner: Any) -> float:
    """Nats by which two paths may differ through rounding alone."""
    relative = 1e-5 if inner.dtype == torch.float32 else 2e-2
    return relative * (1.0 + float(truth.abs().max()))


def _window(inner: Any) -> int | None:
    """How far back sliding attention looks; None where no layer slides."""
    layer_types = _text_config(inner, "layer_types")
    if layer_types and "sliding_attention" not in layer_types:
        return None
    names = ("sliding_window", "sliding_window_size", "window_size", "local_attention")
    return next((window for name in names if (window := _text_config(inner, name))), None)


def _text_config(inner: Any, name: str) -> Any:
    config = inner.config
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    return getattr(config, name, None)
