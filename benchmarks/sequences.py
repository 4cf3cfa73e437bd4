"""What a contender trains on as token sequences, in one form for both sides: a hash tells whether they agree."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import takewhile
from typing import Any, Final, TypeAlias

Row: TypeAlias = Mapping[str, Any]
# The prompt's length and the tokens of prompt and answer; 0 for a reward model, which scores the whole.
TokenSequence: TypeAlias = tuple[int, Sequence[int]]

SIDES: Final = ("chosen", "rejected")
IGNORED: Final = -100  # what a label says of a token that is not learned


def receipt(sequences: Iterable[TokenSequence]) -> dict[str, Any]:
    """The number of ``tokens``, and a ``fingerprint`` of all of them, their order, and where answers begin."""
    digest, tokens = hashlib.sha256(), 0
    for prompt_length, ids in sequences:
        digest.update(array("i", [prompt_length, len(ids), *ids]).tobytes())
        tokens += len(ids)
    return {"tokens": tokens, "fingerprint": digest.hexdigest()}


def expected_sequences(method: str, pairs: Sequence[Any], batch_size: int) -> list[TokenSequence]:
    """What ``method`` makes of ``TokenPair``s.

    SFT has the chosen answers. KTO has the answers of a batch of pairs as labels: all chosen, then all rejected,
    so that a trainer that mismatches neighbours (TRL) gives no answer to its own prompt.
    """
    if method == "kto":
        batches = [pairs[begin : begin + batch_size] for begin in range(0, len(pairs), batch_size)]
        answers = [(pair, pair.completions[side]) for batch in batches for side in (0, 1) for pair in batch]
    else:
        answers = [(pair, one) for pair in pairs for one in pair.completions[: 1 if method == "sft" else 2]]
    return [_joined(method, pair.prompt, answer) for pair, answer in answers]


def our_sequences(method: str, items: Iterable[Any]) -> list[TokenSequence]:
    """What preftune trains on: the items of its ``Job``."""
    found = []
    for item in items:
        for one in getattr(item, "members", (item,)):
            answers = (one.completion,) if method == "kto" else one.completions  # the mismatch is no training data
            found += [_joined(method, one.prompt, answer) for answer in answers]
    return found


def trl_sequences(method: str, rows: Iterable[Row]) -> list[TokenSequence]:
    """What TRL trains on: the rows of its trainer's data set."""
    return [sequence for row in rows for sequence in TRL_ROWS[method](row)]


def _joined(method: str, prompt: Any, answer: Any) -> TokenSequence:
    return 0 if method == "reward" else len(prompt), [*prompt.tolist(), *answer.tolist()]


def _after_prompt(prompt: Sequence[int], answer: Sequence[int]) -> TokenSequence:
    return len(prompt), [*prompt, *answer]


def _by_labels(ids: Sequence[int], labels: Sequence[int]) -> TokenSequence:
    return sum(1 for _ in takewhile(lambda label: label == IGNORED, labels)), ids


TRL_ROWS: Final[dict[str, Callable[[Row], list[TokenSequence]]]] = {
    "dpo": lambda row: [_after_prompt(row["prompt_ids"], row[f"{side}_ids"]) for side in SIDES],
    "kto": lambda row: [_after_prompt(row["prompt_ids"], row["completion_ids"])],
    "orpo": lambda row: [_by_labels(row[f"{side}_input_ids"], row[f"{side}_labels"]) for side in SIDES],
    "reward": lambda row: [(0, row[f"{side}_ids"]) for side in SIDES],
    "sft": lambda row: [_by_labels(row["input_ids"], row["labels"])],
}
