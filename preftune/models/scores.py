"""A reward model's score of each completion, by the cheapest path the model allows.

The score is read at the last token of prompt and completion, EOS included. Paths, cheapest first, for whatever is
read from the head; each is checked on a small batch of the model itself against the last before it is used:

``packed``  prompts shared, segments end to end in one unpadded row
``plain``   one padded row a sequence
``own``     the model's own forward pass, a sequence at a time and therefore without padding
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from preftune.data.batches import by_length
from preftune.errors import PreftuneError
from preftune.models.head import in_effect
from preftune.models.layout import Group, Layout, Tokens, lay_out
from preftune.models.paths import causal_model, cheapest_path, hidden_states, probe_groups, refuse_unfit, use_attention
from preftune.models.reference import Item, groups_of

Path = Literal["packed", "plain", "own"]
PATHS: tuple[Path, ...] = ("packed", "plain", "own")
HEAD_NAMES = ("score", "classifier")

Compute: TypeAlias = Callable[[nn.Module, Sequence[Group], Path], Tensor]


class ScoreEngine(nn.Module):
    """A reward model as a function from groups of tokens to one float32 score a completion.

    A module of its own, so that data-parallel wrappers see its forward pass. ``note`` is told in one line when the
    cheapest path cannot be used, and why.
    """

    def __init__(
        self, model: nn.Module, *, path: Path | None = None, note: Callable[[str], object] | None = None
    ) -> None:
        super().__init__()
        self.model = model
        self.path: Path = prepare_path(model, completion_scores, "scores", path, note)

    def forward(self, groups: Sequence[Group]) -> Float[Tensor, "sequences"]:
        return completion_scores(self.model, groups, self.path)


def completion_scores(model: nn.Module, groups: Sequence[Group], path: Path) -> Float[Tensor, "sequences"]:
    """The score of every completion of ``groups``, in order, computed by ``path``.

    The last token's place is known from the lengths, never guessed from token ids: an EOS that also pads is read
    where it ends a completion, and padding on the left is no question.
    """
    inner: Any = causal_model(model)
    head = find_score_head(inner)
    if path == "own" or head is None:
        return own_scores(inner, [[*group.prompt, *one] for group in groups for one in group.completions])
    layout = lay_out(groups, share_prompt=path == "packed", pad_to_rows=path != "packed", keep_last=True)
    return read_head(inner, head, layout, layout.last, path)


def read_head(
    inner: Any, head: nn.Linear, layout: Layout, places: Int[Tensor, "places"], path: Path
) -> Float[Tensor, "places"]:
    """The head's output at ``places`` of the layout's hidden states, flat; ``path`` is not ``own``.

    The product is float32, so that bfloat16 makes no ties by rounding.
    """
    hidden = hidden_states(inner, layout, path)[places.to(inner.device)]
    bias = None if head.bias is None else head.bias.float()
    with torch.autocast(hidden.device.type, enabled=False):
        return F.linear(hidden.float(), head.weight.float(), bias)[:, 0]


def own_scores(inner: Any, rows: Sequence[Tokens]) -> Float[Tensor, "rows"]:
    """transformers' own scores of whole sequences, one at a time."""
    logits = []
    with _no_padding(inner.config):
        for row in rows:
            ids = torch.tensor([list(row)], device=inner.device)
            logits.append(inner(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits)
    return torch.cat(logits)[:, 0].float()


def prepare_path(
    model: nn.Module, compute: Compute, what: str, path: Path | None, note: Callable[[str], object] | None
) -> Path:
    """``path``, or the cheapest that fits where it is None; the model then has the attention it needs.

    Raises ``PreftuneError`` for models that give no scores.
    """
    refuse_unfit(model)
    _require_one_label(causal_model(model))
    found = path or choose_path(model, note or (lambda _: None), compute, what)
    use_attention(causal_model(model), found)
    return found


def choose_path(
    model: nn.Module, note: Callable[[str], object], compute: Compute = completion_scores, what: str = "scores"
) -> Path:
    """The cheapest path by which ``compute`` gives the model's own numbers on a small batch of this very model."""
    inner = causal_model(model)
    head, probe = find_score_head(inner), probe_groups(inner)
    with _telling(head):
        return cheapest_path(
            model,
            PATHS,
            lambda path: compute(model, probe, path),
            what=what,
            note=note,
            obstacle="the score head is more than one matrix" if head is None else None,
            scale=1.0 if head is None else float(head.weight.detach().float().norm()),
        )


def find_score_head(inner: nn.Module) -> nn.Linear | None:
    """The head where it is a plain matrix, of an adapter's copies the one in effect; None for anything else."""
    module: Any = next((getattr(inner, name) for name in HEAD_NAMES if hasattr(inner, name)), None)
    module = in_effect(module)
    return module if type(module) is nn.Linear else None


@torch.no_grad()
def score_items(
    engine: ScoreEngine,
    items: Sequence[Item],
    batch_size: int,
    progress: Callable[[int], object] | None = None,
) -> Float[np.ndarray, "items completions"]:
    """The scores of each item's completions, in their order, in evaluation mode; batches are of like length."""
    scores = np.empty((len(items), len(items[0].completions) if items else 0))
    was_training = engine.training
    engine.eval()
    try:
        for batch in by_length([item.length for item in items], batch_size):
            found = engine(groups_of([items[i] for i in batch]))
            scores[batch] = found.view(len(batch), -1).double().cpu().numpy()
            if progress is not None:
                progress(len(batch))
    finally:
        engine.train(was_training)
    return scores


def _require_one_label(inner: Any) -> None:
    if not type(inner).__name__.endswith("ForSequenceClassification"):
        raise PreftuneError(
            f"{type(inner).__name__} gives no scores.",
            mend="Load it by preftune.models.reward_models.load_scorer, which puts a score head on it.",
        )
    if inner.config.num_labels != 1:
        raise PreftuneError(
            f"{type(inner).__name__} has {inner.config.num_labels} labels; a reward model has one.",
            mend="Give a reward model, or the language model to make one from.",
        )


@contextmanager
def _telling(head: nn.Linear | None) -> Iterator[None]:
    """A head of zeros says the same of right and wrong hidden states; in here it is a random one."""
    if head is None or head.weight.any():
        yield
        return
    draw = torch.Generator().manual_seed(0)
    try:
        with torch.no_grad():
            head.weight.copy_(torch.randn(head.weight.shape, generator=draw))
        yield
    finally:
        with torch.no_grad():
            head.weight.zero_()


@contextmanager
def _no_padding(config: Any) -> Iterator[None]:
    """The model's own forward pass then reads the last token, whatever it is."""
    parts = {id(part): part for part in (config, config.get_text_config())}.values()
    before = [part.pad_token_id for part in parts]
    try:
        for part in parts:
            part.pad_token_id = None
        yield
    finally:
        for part, pad in zip(parts, before, strict=True):
            part.pad_token_id = pad
