"""Ways to bring a batch through a model, and which is the cheapest that gives this very model's own numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from preftune.errors import PreftuneError
from preftune.models import attention
from preftune.models.layout import Group, Layout

Path = TypeVar("Path", bound=str)


def causal_model(model: nn.Module) -> nn.Module:
    """The transformers model inside a PEFT wrapper, or the model itself; adapters stay in effect."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]


def refuse_unfit(model: nn.Module) -> None:
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


def cheapest_path(
    model: nn.Module,
    paths: Sequence[Path],
    numbers: Callable[[Path], Tensor],
    *,
    what: str,
    note: Callable[[str], object],
    obstacle: str | None = None,
    scale: float = 1.0,
) -> Path:
    """The first of ``paths`` that gives the ``numbers`` of the last, on a batch that ``numbers`` brings along.

    ``obstacle`` is what keeps all but the last from being tried, ``scale`` the size of numbers below which
    differences count in full. ``note`` is told in one line when it is not the first, and why.
    """
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad():
            truth = numbers(paths[-1])
            chosen, reasons = paths[-1], []
            for path in paths[:-1]:
                reason = obstacle or _why_not(causal_model(model), path, numbers, truth, scale)
                if reason is None:
                    chosen = path
                    break
                reasons.append(f"{path}: {reason}")
    finally:
        for module in training:
            module.training = True
    if reasons:
        note(f"{what} take the '{chosen}' path, which costs more ({'; '.join(reasons)})")
    return chosen


def hidden_states(inner: Any, layout: Layout, path: str) -> Float[Tensor, "positions width"]:
    """The last hidden state at every position of ``layout``, its rows one after the other."""
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
    if path == "packed" and sliding_window(inner) and set(segments.by_window) <= {None}:
        raise NotImplementedError("the layers keep their sliding window to themselves")
    return hidden.flatten(0, 1)


def use_attention(inner: Any, path: str) -> None:
    """Gives the model the attention that ``path`` needs."""
    if path == "packed":
        if not inner._can_set_attn_implementation():
            raise NotImplementedError("attention cannot be exchanged")
        attention.register()
        if inner.config._attn_implementation != attention.NAME:
            inner.set_attn_implementation(attention.NAME)


def probe_groups(inner: nn.Module) -> list[Group]:
    """Two prompts of unlike length with two completions each, of tokens spread over the vocabulary."""
    vocab = int(_text_config(inner, "vocab_size") or 2)
    draw = torch.Generator().manual_seed(0)
    lengths = [(5, 3, 4), (3, 2, 6)]

    def tokens(n: int) -> list[int]:
        return torch.randint(vocab // 4, vocab, (n,), generator=draw).tolist()

    return [Group(tokens(p), (tokens(c), tokens(r))) for p, c, r in lengths]


def _why_not(inner: Any, path: Path, numbers: Callable[[Path], Tensor], truth: Tensor, scale: float) -> str | None:
    """Why ``path`` does not serve this model, or None where it does."""
    if path != "plain" and _text_config(inner, "attention_chunk_size"):
        return "attention is chunked"
    if path == "masked" and sliding_window(inner):
        return "attention has a sliding window"
    before = inner.config._attn_implementation
    try:
        use_attention(inner, path)
        difference = _difference(numbers(path), truth, inner)
    except Exception as error:  # any model code may refuse in any way; the next path is then tried
        _restore_attention(inner, before)
        return f"{type(error).__name__} ({str(error).splitlines()[0][:80] if str(error) else 'no message'})"
    if difference <= _tolerance(truth, inner, scale):
        return None
    _restore_attention(inner, before)
    return f"its numbers differ by {difference:.2g}"


def _restore_attention(inner: Any, name: str | None) -> None:
    if name is not None and inner.config._attn_implementation != name:
        inner.set_attn_implementation(name)


def _difference(found: Tensor, truth: Tensor, inner: Any) -> float:
    """The largest one; below float32 the upper quartile.

    There single tokens amplify rounding: one of SmolLM2-135M in 4 bits differs by 3.7 nats in bfloat16 where it
    differs by 1e-4 in float32. A wrong mask moves nearly every token.
    """
    differences = (found - truth).abs().float().flatten()
    return float(differences.max() if inner.dtype == torch.float32 else differences.quantile(0.75))


def _tolerance(truth: Tensor, inner: Any, scale: float) -> float:
    """How far two paths may differ through rounding alone."""
    relative = 1e-5 if inner.dtype == torch.float32 else 2e-2
    return relative * (scale + float(truth.abs().max()))


def sliding_window(inner: Any) -> int | None:
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
