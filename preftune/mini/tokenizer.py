"""Bytes as tokens: 256 of them, no vocabulary to load. Two bytes that UTF-8 never uses mark an answer's ends."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

ANSWER = 0xFE  # stands between prompt and answer, so that the boundary is never in doubt and no prompt is empty
END = 0xFF  # the answer's last token, and what shorter rows are padded with
BYTES = 256


@dataclass(frozen=True)
class Example:
    """A prompt with its answer: ``tokens[start:]`` is the answer with its end token; ``cut`` tokens were left out."""

    tokens: tuple[int, ...]
    start: int
    cut: int = 0

    @property
    def length(self) -> int:
        return len(self.tokens)

    @property
    def answer(self) -> tuple[int, ...]:
        return self.tokens[self.start :]


def encode(text: str) -> list[int]:
    """The UTF-8 bytes of ``text``; halves of characters, which strings may hold, get three bytes each."""
    return list(text.encode("utf-8", errors="surrogatepass"))


def decode(tokens: Iterable[int]) -> str:
    """The text of ``tokens``, without marks; bytes that are no UTF-8 become the replacement character."""
    return bytes(token for token in tokens if token not in (ANSWER, END)).decode("utf-8", errors="replace")


def encode_answer(prompt: str, answer: str, max_tokens: int) -> Example:
    """``prompt``, mark, ``answer``, end: at most ``max_tokens`` tokens.

    What is too much is taken from the prompt's beginning, and only then from the answer's end.
    """
    before, after = encode(prompt), [*encode(answer), END]
    kept = after[: max_tokens - 1]
    room = max_tokens - 1 - len(kept)
    shown = before[max(0, len(before) - room) :]
    cut = len(before) - len(shown) + len(after) - len(kept)
    return Example((*shown, ANSWER, *kept), len(shown) + 1, cut)


def encode_answers(texts: Sequence[tuple[str, str]], max_tokens: int) -> list[Example]:
    """An example for each (prompt, answer), in order; one warning tells how many had to be cut."""
    examples = [encode_answer(prompt, answer, max_tokens) for prompt, answer in texts]
    cut = sum(example.cut > 0 for example in examples)
    if cut:
        warnings.warn(
            f"{cut} of {len(examples)} texts are longer than max_seq_len={max_tokens} bytes and were cut, "
            "the beginning of the prompt first.",
            stacklevel=3,
        )
    return examples
