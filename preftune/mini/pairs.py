"""Pairs and texts as plain Python gives them, checked field by field."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from preftune.errors import PreftuneError

PREFERRED = ("preferred", "chosen")  # either name will do; the first that is there is read


@dataclass(frozen=True)
class TextPair:
    """An answer that was preferred to another one."""

    prompt: str
    preferred: str
    rejected: str


def read_pairs(pairs: Sequence[Mapping[str, Any]]) -> list[TextPair]:
    """The pairs in order, other fields left aside. Raises ``PreftuneError`` at the first field that is amiss."""
    _refuse_none(pairs, "pairs")
    return [
        TextPair(_text(row, number, "prompt"), _text(row, number, *PREFERRED), _text(row, number, "rejected"))
        for number, row in enumerate(pairs, start=1)
    ]


def read_answers(texts_or_pairs: Sequence[str | Mapping[str, Any]]) -> list[tuple[str, str]]:
    """(prompt, answer) of each row: a plain text is an answer to no prompt, of a pair the preferred side is taken."""
    _refuse_none(texts_or_pairs, "texts_or_pairs")
    return [
        ("", row) if isinstance(row, str) else (_text(row, number, "prompt"), _text(row, number, *PREFERRED))
        for number, row in enumerate(texts_or_pairs, start=1)
    ]


def _refuse_none(rows: Sequence[Any], name: str) -> None:
    if isinstance(rows, str | Mapping):
        raise PreftuneError(
            f"This is one row, not a list of rows: {type(rows).__name__}.", where=name, mend="Use [row]."
        )
    if not rows:
        raise PreftuneError("There is nothing to learn from: the list is empty.", where=name, mend="Give some rows.")


def _text(row: Any, number: int, *names: str) -> str:
    place = f"row {number}, field '{names[0]}'"
    if not isinstance(row, Mapping):
        raise PreftuneError(
            f"The row is of type {type(row).__name__}.",
            where=f"row {number}",
            mend="Give a dictionary with 'prompt', 'preferred' and 'rejected'.",
        )
    found = next((row[name] for name in names if name in row), None)
    if found is None:
        wanted = " or ".join(f"'{name}'" for name in names)
        raise PreftuneError(
            f"The field is missing; the row has {', '.join(map(repr, row)) or 'no fields'}.",
            where=place,
            mend=f"Add {wanted} to the row, or leave the row out.",
        )
    if not isinstance(found, str):
        raise PreftuneError(f"The field is of type {type(found).__name__}.", where=place, mend="Give it as text.")
    return found
