"""The preference record: a prompt with the completion that won and the one that lost."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, StrictStr, model_validator

FiniteFloat: TypeAlias = Annotated[float, Field(allow_inf_nan=False)]


class Message(BaseModel):
    """One turn of a chat; keys beyond role and content (tool calls, names) are kept as they came."""

    model_config = ConfigDict(frozen=True, extra="allow")

    role: Annotated[StrictStr, Field(min_length=1)]
    content: StrictStr

    def as_row(self) -> dict[str, Any]:
        """The message as the plain dict a chat template takes."""
        return {"role": self.role, "content": self.content, **(self.model_extra or {})}


Prompt: TypeAlias = StrictStr | tuple[Message, ...]
Completion: TypeAlias = Prompt


class Vote(BaseModel):
    """One annotator's choice on a pair; ``seconds`` is the time it took."""

    model_config = ConfigDict(frozen=True, extra="allow")

    id: StrictStr
    choice: Literal["first", "second", "tie", "both_bad"]
    seconds: Annotated[FiniteFloat, Field(ge=0)] | None = None

    def as_row(self) -> dict[str, Any]:
        """The vote as a plain dict, absent values left out."""
        return self.model_dump(exclude_none=True)


class Pair(BaseModel):
    """A preference: ``chosen`` won over ``rejected`` as the answer to ``prompt``.

    The three are either all text or all messages. ``id`` defaults to a short hash of the three, so it is the
    same in every run; ``confidence`` is the probability that the label is right, ``margin`` its strength;
    ``meta`` is kept and never read.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: Prompt
    chosen: Completion
    rejected: Completion
    id: StrictStr = Field(default_factory=lambda data: _content_id(data))
    source: StrictStr | dict[str, Any] | None = None
    annotators: tuple[Vote, ...] = ()
    confidence: Annotated[FiniteFloat, Field(ge=0, le=1)] | None = None
    margin: FiniteFloat | None = None
    meta: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _is_of_one_kind(self) -> Pair:
        if len({isinstance(side, str) for side in (self.prompt, self.chosen, self.rejected)}) > 1:
            raise ValueError("prompt, chosen and rejected must be all text or all messages")
        return self

    @property
    def is_conversational(self) -> bool:
        """True where prompt, chosen and rejected are messages."""
        return not isinstance(self.prompt, str)

    def as_row(self) -> dict[str, Any]:
        """The pair as a plain dict in TRL's format, with our optional fields where they are set."""
        row: dict[str, Any] = content_row(self)
        row["id"] = self.id
        optional = {
            "source": self.source,
            "annotators": [vote.as_row() for vote in self.annotators] or None,
            "confidence": self.confidence,
            "margin": self.margin,
            "meta": self.meta or None,
        }
        return row | {name: value for name, value in optional.items() if value is not None}


def content_row(pair: Pair) -> dict[str, Any]:
    """Prompt, chosen and rejected as plain values: what the pair says, without what is said about it."""
    return {name: _plain(getattr(pair, name)) for name in ("prompt", "chosen", "rejected")}


def character_count(content: Prompt) -> int:
    """The length in characters; of messages, their contents together."""
    return len(content) if isinstance(content, str) else sum(len(message.content) for message in content)


def readable_text(content: Prompt) -> str:
    """The content for people: the words, with the roles where there are several turns."""
    if isinstance(content, str):
        return content
    if len(content) == 1:
        return content[0].content
    return "\n\n".join(f"{message.role}: {message.content}" for message in content)


def normal_text(content: Prompt) -> str:
    """The text by which contents are compared: NFC, white space folded.

    A single message without extra keys reads as its text: "hello" and a user's "hello" are one prompt.
    """
    if isinstance(content, str):
        return _fold(content)
    if len(content) == 1 and not content[0].model_extra:
        return _fold(content[0].content)
    return "\n".join(_tagged(message) for message in content)


def _content_id(fields: Mapping[str, Any]) -> str:
    content = [_plain(fields.get(name)) for name in ("prompt", "chosen", "rejected")]
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _plain(content: Prompt | None) -> str | list[dict[str, Any]] | None:
    if content is None or isinstance(content, str):
        return content
    return [message.as_row() for message in content]


def _tagged(message: Message) -> str:
    extra = json.dumps(message.model_extra, sort_keys=True, default=str) if message.model_extra else ""
    return f"{message.role}\t{_fold(message.content)}\t{extra}"


def _fold(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).split())
