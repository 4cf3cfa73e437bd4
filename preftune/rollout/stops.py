"""Strings that end a completion, found as its text grows token by token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_UNFINISHED = "\N{REPLACEMENT CHARACTER}"


class StopText:
    """Reads a completion along with its tokens until one of ``stops`` stands in its text.

    Special tokens are part of the text, so that a stop may name one. Each token is decoded with those before it
    that decoders need (white space, bytes of a character); of the text, as much is kept as a stop may reach back.
    """

    def __init__(self, tokenizer: Any, stops: Sequence[str]) -> None:
        self._tokenizer, self._stops = tokenizer, [stop for stop in stops if stop]
        self._reach = max(map(len, self._stops), default=1) - 1
        self._tail = ""
        self._context = self._read = 0

    def is_complete(self, tokens: Sequence[int]) -> bool:
        """Whether a stop stands in the text of ``tokens``: those of the last call and what came since."""
        known = self._decode(tokens[self._context : self._read])
        fresh = self._decode(tokens[self._context :])[len(known) :]
        text = self._tail + fresh
        if any(stop in text for stop in self._stops):
            return True
        if not fresh.endswith(_UNFINISHED):  # else the next token may still make a character of it
            self._tail = text[-self._reach :] if self._reach else ""
            self._context, self._read = self._read, len(tokens)
        return False

    def _decode(self, tokens: Sequence[int]) -> str:
        return self._tokenizer.decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False)
