"""What training cost in general: how well a model still predicts plain text that has nothing to do with the task."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from jaxtyping import Float

from preftune.data.batches import by_length
from preftune.data.encoding import encode_prompts
from preftune.errors import PreftuneError
from preftune.evaluate.likelihood import ratio
from preftune.evaluate.measures import Measure
from preftune.evaluate.not_taken import CannotTake
from preftune.models.layout import Group

RETENTION: Final = "retention_loss"
BUILT_IN: Final = "built-in passages"
_WHAT = "Mean of -log p over the tokens of {}; exp of it is the perplexity, {:.2f}."


@dataclass(frozen=True)
class Passages:
    """Texts to predict, where they come from, and how many rows of the source held none."""

    texts: tuple[str, ...]
    source: str
    left_out: int = 0


@dataclass(frozen=True)
class PassageLosses:
    """Of each passage the summed -log p in nats, its predicted tokens, and their bytes as UTF-8."""

    totals: Float[np.ndarray, "passages"]
    tokens: Float[np.ndarray, "passages"]
    bytes: Float[np.ndarray, "passages"]
    source: str


def read_passages(path: str | Path | None = None) -> Passages:
    """The passages of a file, or those that come with the package.

    Of a .txt file each paragraph (blank lines between) is one; of a .jsonl file each row's ``text``. PreftuneError
    where the file cannot be read or holds none.
    """
    if path is None:
        text = files("preftune.evaluate").joinpath("passages.txt").read_text(encoding="utf-8")
        return Passages(tuple(_paragraphs(text)), BUILT_IN)
    place = Path(path)
    try:
        text = place.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise PreftuneError("The passages are not UTF-8 text.", where=str(place), mend="Save them as UTF-8.") from error
    except OSError as error:
        what = f"The passages cannot be read: {error.strerror}."
        raise PreftuneError(what, where=str(place), mend="Check the path.") from error
    texts = _rows(text) if place.suffix in (".jsonl", ".json") else list(_paragraphs(text))
    kept = tuple(one for one in texts if one)
    if not kept:
        mend = "Give paragraphs with blank lines between, or JSON lines with a field `text`."
        raise PreftuneError("There is no passage in it.", where=str(place), mend=mend)
    return Passages(kept, str(place), len(texts) - len(kept))


def passage_losses(
    engine: Any,
    tokenizer: Any,
    passages: Passages,
    *,
    max_length: int | None,
    batch_size: int,
    progress: Callable[[int], object] | None = None,
) -> PassageLosses:
    """Each passage's loss under ``engine``'s model, the first token (a BOS or its own) given; long ones are cut."""
    encoded = [ids[:max_length] for ids in encode_prompts(list(passages.texts), tokenizer, is_chat=False)]
    totals, tokens, sizes = (np.full(len(encoded), np.nan) for _ in range(3))
    usable = [number for number, ids in enumerate(encoded) if len(ids) > 1]
    for batch in by_length([len(encoded[number]) for number in usable], batch_size):
        members = [usable[place] for place in batch]
        with torch.no_grad():
            sums = engine([Group(encoded[i][:1], (encoded[i][1:],)) for i in members]).sums()
        totals[members] = -sums.double().cpu().numpy()
        if progress is not None:
            progress(len(members))
    for number in usable:
        tokens[number] = len(encoded[number]) - 1
        sizes[number] = len(tokenizer.decode(encoded[number][1:], skip_special_tokens=True).encode())
    return PassageLosses(totals, tokens, sizes, passages.source)


def retention_measure(losses: PassageLosses) -> Measure:
    """The loss a token, its interval over passages."""
    known = np.isfinite(losses.totals)
    if not known.any():
        raise CannotTake("No passage has two tokens, so there is nothing to predict.")
    totals, tokens = losses.totals[known], losses.tokens[known]
    what = _WHAT.format(losses.source, float(np.exp(totals.sum() / tokens.sum())))
    return ratio(totals, tokens, "nats a token", "Loss on general text", what, _keys(known))


def retention_change(before: PassageLosses, after: PassageLosses) -> Measure:
    """After minus before on the same passages; a byte where the two read other tokens."""
    known = np.isfinite(before.totals) & np.isfinite(after.totals)
    if not known.any():
        raise CannotTake("No passage was read by both models.")
    is_alike = bool((before.tokens[known] == after.tokens[known]).all())
    per = before.tokens if is_alike else np.maximum(before.bytes, 1.0)
    unit = "nats a token" if is_alike else "nats a byte"
    what = "After minus before on the same passages: above 0 something was forgotten."
    title = "Change of the loss on general text"
    return ratio((after.totals - before.totals)[known], per[known], unit, title, what, _keys(known))


def _paragraphs(text: str) -> list[str]:
    return [" ".join(part.split()) for part in text.replace("\r\n", "\n").split("\n\n") if part.strip()]


def _rows(text: str) -> list[str]:
    """The text of each row; empty where the row holds none."""
    found = []
    for line in text.splitlines():
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        content = row.get("text") if isinstance(row, dict) else row
        found.append(content.strip() if isinstance(content, str) else "")
    return found


def _keys(known: np.ndarray) -> list[bytes]:
    """A name for each passage: each stands for itself."""
    return [str(number).encode() for number in np.flatnonzero(known)]
