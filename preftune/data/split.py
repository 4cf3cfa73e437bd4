"""Training and evaluation sets that share no prompt."""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TypeVar

from preftune.data.records import Record, asked, normal_text
from preftune.errors import PreftuneError

R = TypeVar("R", bound=Record)


def prompt_key(record: Record) -> str:
    """A hash that is equal for prompts that differ only in Unicode form, white space or case.

    A conversation's prompt is what stands before its first answer, so conversations that begin alike stay
    together; plain text, which has no prompt, is its own.
    """
    folded = unicodedata.normalize("NFC", normal_text(asked(record)).casefold())
    return hashlib.sha256(folded.encode()).hexdigest()[:32]


def split_by_prompt(records: Sequence[R], eval_fraction: float, seed: int) -> tuple[tuple[R, ...], tuple[R, ...]]:
    """Training and evaluation records, each in the given order; all records of a prompt go to one side.

    Which prompts are held out depends on the seed and the prompts, not on the order of rows. The evaluation
    set misses ``eval_fraction`` of the rows by at most half of the smallest prompt left in training, unless
    one side would be empty. Raises PreftuneError for a fraction outside [0, 1) and fewer than two prompts.
    """
    if not 0 <= eval_fraction < 1:
        mend = "Give a share from 0 up to, but not including, 1."
        raise PreftuneError(f"eval_fraction is {eval_fraction}.", mend=mend)
    if eval_fraction == 0:
        return tuple(records), ()
    keys = [prompt_key(record) for record in records]
    held_out = _held_out(Counter(keys), eval_fraction * len(records), seed)
    sides: tuple[list[R], list[R]] = [], []
    for key, record in zip(keys, records, strict=True):
        sides[key in held_out].append(record)
    return tuple(sides[0]), tuple(sides[1])


def leaked_prompts(train: Iterable[R], evaluation: Iterable[R]) -> tuple[R, ...]:
    """The evaluation records whose prompt also occurs in training."""
    seen = {prompt_key(record) for record in train}
    return tuple(record for record in evaluation if prompt_key(record) in seen)


def _held_out(sizes: Counter[str], target: float, seed: int) -> set[str]:
    """Prompts in hash order while they fit, then one more where that comes nearer to ``target`` rows."""
    if len(sizes) < 2:
        raise PreftuneError(
            f"A split by prompt needs two different prompts; the data has {len(sizes)}.",
            mend="Give evaluation data of its own, or set the evaluation fraction to 0.",
        )
    order = sorted(sizes, key=lambda key: hashlib.sha256(f"{seed}:{key}".encode()).digest())
    held_out: set[str] = set()
    rows = 0
    for key in order:
        if rows + sizes[key] <= target:
            held_out.add(key)
            rows += sizes[key]
    left = [key for key in order if key not in held_out]
    smallest = min(left, key=lambda key: sizes[key])
    comes_nearer = rows + sizes[smallest] - target < target - rows
    if not held_out or (comes_nearer and len(left) > 1):
        held_out.add(smallest)
    return held_out
