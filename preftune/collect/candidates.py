"""Completions to choose from: drawn by a model, or given in the rows of a data set."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from preftune.collect.generation import Text, chat_of, no_text
from preftune.collect.writing import LeftOut
from preftune.data.records import PromptRecord, content_row
from preftune.data.row_parts import RowProblem, encodable, number

GIVEN: Final = "completions"  # the column of the completions a row brings along
SCORES: Final = "scores"
_TEXTS: Final = ("text", "completion", "content", "response")
_SCORE: Final = ("score", "reward")

Content: TypeAlias = str | list[dict[str, Any]]


@dataclass(frozen=True)
class Candidate:
    """A completion as text; ``tokens`` where they are known, ``score`` and ``model`` where the row says them."""

    text: str
    tokens: tuple[int, ...] | None = None
    finished: bool = True
    score: float | None = None
    model: str | None = None

    @property
    def token_ids(self) -> list[int]:
        """The tokens, or a number for each word where no tokenizer is known."""
        return list(self.tokens) if self.tokens is not None else [zlib.crc32(w.encode()) for w in self.text.split()]


@dataclass(frozen=True)
class Group:
    """A prompt with its completions; ``asked`` is how many there were, those without text included."""

    name: str
    record: PromptRecord
    prompt: Content
    candidates: tuple[Candidate, ...]
    asked: int

    def written(self, text: str) -> Content:
        """The completion in the form of the prompt."""
        return text if isinstance(self.prompt, str) else [{"role": "assistant", "content": text}]

    @property
    def columns(self) -> dict[str, Any]:
        """The other columns of the row, for rewards."""
        return {name: value for name, value in self.record.columns.items() if name not in (GIVEN, SCORES)}


def drawn_group(name: str, record: PromptRecord, texts: Sequence[Text], *, is_chat: bool) -> Group | LeftOut:
    """The completions that a model drew; without at least two texts there is nothing to choose from."""
    prompt = asked_prompt(record, is_chat=is_chat)
    found = [
        Candidate(one.text, one.tokens, one.finished) for one in texts if one.text is not None and one.text.strip()
    ]
    if len(found) < 2:
        failed = next((one for one in texts if one.failure), None)
        if failed is not None:
            return LeftOut(name, *no_text(failed, "completion"), {"prompt": prompt})
        mend = f"Of {len(texts)} completions {len(found)} have text: raise --n, or use another model."
        return LeftOut(name, "too-few-completions", mend, {"prompt": prompt})
    return Group(name, record, prompt, tuple(found), len(texts))


def given_group(name: str, record: PromptRecord) -> Group | LeftOut:
    """The completions in the row's column ``completions``.

    Each is a text, or an object with ``text`` and, where they are known, ``score`` and ``model``; scores may also stand
    in a column of their own, in the same order.
    """
    prompt = content_row(record)["prompt"]
    try:
        found = _given(record)
    except RowProblem as problem:
        return LeftOut(name, problem.reason, f"{problem.field}: {problem.mend}", {"prompt": prompt})
    usable = tuple(one for one in found if one.text.strip())
    if len(usable) < 2:
        mend = f"The row has {len(usable)} completions with text; two are the least."
        return LeftOut(name, "too-few-completions", mend, {"prompt": prompt})
    return Group(name, record, prompt, usable, len(found))


def asked_prompt(record: PromptRecord, *, is_chat: bool) -> Content:
    """The prompt as it is, or as the user's message where ``is_chat``."""
    prompt = content_row(record)["prompt"]
    return chat_of(prompt) if is_chat else prompt


def _given(record: PromptRecord) -> list[Candidate]:
    value = record.columns.get(GIVEN)
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise RowProblem("wrong-type", GIVEN, "Make it a list of texts, or of objects with text.")
    scores = record.columns.get(SCORES)
    if scores is not None and (
        not isinstance(scores, Sequence) or isinstance(scores, str) or len(scores) != len(value)
    ):
        raise RowProblem("wrong-type", SCORES, f"Give one score for each of the {len(value)} completions.")
    return [
        _candidate(one, None if scores is None else scores[place], f"{GIVEN}[{place}]")
        for place, one in enumerate(value)
    ]


def _candidate(value: Any, score: Any, field: str) -> Candidate:
    if isinstance(value, str):
        return Candidate(encodable(value, field), score=number(score, SCORES))
    if not isinstance(value, Mapping):
        raise RowProblem("wrong-type", field, "Make it text, or an object with text.")
    text = next((value[name] for name in _TEXTS if value.get(name) is not None), None)
    if not isinstance(text, str):
        raise RowProblem("missing-field", field, "Give the completion a text.")
    own = next((value[name] for name in _SCORE if value.get(name) is not None), score)
    model = value.get("model")
    return Candidate(encodable(text, field), score=number(own, field), model=None if model is None else str(model))
