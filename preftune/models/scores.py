"""A reward model's score of each completion, by the cheapest path the model allows.

The score is read at the last token of prompt and completion, EOS included. Paths, cheapest first; each is checked
on a small batch of the model itself against the last before it is used:

``packed``  prompts shared, segments end to end in one unpadded row
``plain``   one padded row a sequence
``own``     the model's own forward pass, a sequence at a time and therefore without padding
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from preftune.data.batches import by_length
from preftune.errors import PreftuneError
from preftune.models.head import in_effect
from preftune.models.layout import Group, lay_out
from preftune.models.paths import causal_model, cheapest_path, hidden_states, probe_groups, refuse_unfit, use_attention
from preftune.models.reference import Item, groups_of

Path = Literal["packed", "plain", "own"]
PATHS: tuple[Path, ...] = ("packed", "plain", "own")
HEAD_NAMES = ("score", "classifier")


class ScoreEngine(nn.Module):
    """A reward model as a function from groups of tokens to one float32 score a completion.

    A module of its own, so that data-parallel wrappers see its forward pass. ``note`` is told in one line when the
    cheapest path cannot be used, and why.
    """

    def __init__(
        self, model: nn.Module, *, path: Path | None = None, note: Callable[[str], object] | None = None
    ) -> None:
        super().__init__()
        refuse_unfit(model)
        _require_one_label(causal_model(model))
        self.model = model
        self.path: Path = path or choose_path(model, note or (lambda _: None))
        use_attention(causal_model(model), self.path)

    def forward(self, groups: Sequence[Group]) -> Float[Tensor, "sequences"]:
        return completion_scores(self.model, groups, self.path)


def completion_scores(model: nn.Module, groups: Sequence[Group], path: Path) -> Float[Tensor, "sequences"]:
    """The score of every completion of ``groups``, in order, computed by ``path``.

    The last token's place is known from the lengths, never guessed from token ids: an EOS that also pads is read
    where it ends a completion, and padding on the left is no question. The head's product is float32, so that
    bfloat16 makes no ties by rounding scores.
    """
    inner: Any = causal_model(model)
    head = find_score_head(inner)
    if path == "own" or head is None:
        return _own_scores(inner, groups)
    layout = lay_out(groups, share_prompt=path == "packed", pad_to_rows=path != "packed", keep_last=True)
    hidden = hidden_states(inner, layout, path)[layout.last.to(inner.device)]
    bias = None if head.bias is None else head.bias.float()
    with torch.autocast(hidden.device.type, enabled=False):
        return F.linear(hidden.float(), head.weight.float(), bias)[:, 0]


def choose_path(model: nn.Module, note: Callable[[str], object]) -> Path:
    """The cheapest path that gives the model's own scores on a small batch of this very model."""
    inner = causal_model(model)
    head, probe = find_score_head(inner), probe_groups(inner)
    return cheapest_path(
        model,
        PATHS,
        lambda path: completion_scores(model, probe, path),
        what="scores",
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


def _own_scores(inner: Any, groups: Sequence[Group]) -> Float[Tensor, "sequences"]:
    rows = [[*group.prompt, *completion] for group in groups for completion in group.completions]
    logits = []
    with _no_padding(inner.config):
        for row in rows:
            ids = torch.tensor([row], device=inner.device)
            logits.append(inner(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits)
    return torch.cat(logits)[:, 0].float()


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
