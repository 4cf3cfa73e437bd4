"""The records: a pair of answers of which one won, two answers with votes, an answer with a label, an answer to learn
from, a prompt alone."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictStr, model_validator

_CANONICAL = json.JSONEncoder(sort_keys=True, default=str)

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
Source: TypeAlias = StrictStr | dict[str, Any]
Confidence: TypeAlias = Annotated[FiniteFloat, Field(ge=0, le=1)]
Choice: TypeAlias = Literal["first", "second", "tie", "both_bad"]


class Vote(BaseModel):
    """One annotator's choice on a pair; ``seconds`` is the time it took."""

    model_config = ConfigDict(frozen=True, extra="allow")

    id: StrictStr
    choice: Choice
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
    id: StrictStr = Field(default_factory=lambda data: _content_id(data, "prompt", "chosen", "rejected"))
    source: Source | None = None
    annotators: tuple[Vote, ...] = ()
    confidence: Confidence | None = None
    margin: FiniteFloat | None = None
    meta: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _is_of_one_kind(self) -> Pair:
        _require_one_kind(prompt=self.prompt, chosen=self.chosen, rejected=self.rejected)
        return self

    @property
    def is_conversational(self) -> bool:
        """True where prompt, chosen and rejected are messages."""
        return not isinstance(self.prompt, str)

    def as_row(self) -> dict[str, Any]:
        """The pair as a plain dict in TRL's format, with our optional fields where they are set."""
        return content_row(self) | _present(
            id=self.id,
            source=self.source,
            annotators=[vote.as_row() for vote in self.annotators] or None,
            confidence=self.confidence,
            margin=self.margin,
            meta=self.meta or None,
        )


class Comparison(BaseModel):
    """Two answers to ``prompt`` and what annotators chose: "first" is ``response_1``, "second" ``response_2``.

    Prompt and answers are all text or all messages. Answers may be empty or the same, for such were voted on too;
    without annotators nobody has voted yet. ``id`` defaults to a short hash of the three.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: Prompt
    response_1: Completion
    response_2: Completion
    annotators: tuple[Vote, ...] = ()
    id: StrictStr = Field(default_factory=lambda data: _content_id(data, "prompt", "response_1", "response_2"))
    source: Source | None = None
    meta: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _is_of_one_kind(self) -> Comparison:
        _require_one_kind(prompt=self.prompt, response_1=self.response_1, response_2=self.response_2)
        return self

    @property
    def is_conversational(self) -> bool:
        """True where prompt and answers are messages."""
        return not isinstance(self.prompt, str)

    def as_row(self) -> dict[str, Any]:
        """The comparison as a plain dict, its optional fields where they are set."""
        return content_row(self) | _present(
            annotators=[vote.as_row() for vote in self.annotators],
            id=self.id,
            source=self.source,
            meta=self.meta or None,
        )


class Label(BaseModel):
    """A judged answer: ``label`` is True where ``completion`` is a desirable answer to ``prompt``.

    Prompt and completion are both text or both messages; the other fields are those of a pair.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: Prompt
    completion: Completion
    label: StrictBool
    id: StrictStr = Field(default_factory=lambda data: _content_id(data, "prompt", "completion", "label"))
    source: Source | None = None
    confidence: Confidence | None = None
    meta: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _is_of_one_kind(self) -> Label:
        _require_one_kind(prompt=self.prompt, completion=self.completion)
        return self

    @property
    def is_conversational(self) -> bool:
        """True where prompt and completion are messages."""
        return not isinstance(self.prompt, str)

    def as_row(self) -> dict[str, Any]:
        """The label as a plain dict in TRL's unpaired format, with our optional fields where they are set."""
        return content_row(self) | _present(
            id=self.id, source=self.source, confidence=self.confidence, meta=self.meta or None
        )


class Demonstration(BaseModel):
    """An answer to learn from: ``completion`` follows ``prompt``, both text or both messages.

    Of a conversation the prompt is what stands before the first answer to learn, and the completion is the
    rest, in which the assistant's turns are learned and the others are not. Plain text to model has the empty
    prompt, and all of it is learned. ``confidence`` is the probability that the answer is a good one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: Prompt
    completion: Completion
    id: StrictStr = Field(default_factory=lambda data: _content_id(data, "prompt", "completion"))
    source: Source | None = None
    confidence: Confidence | None = None
    meta: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _is_of_one_kind(self) -> Demonstration:
        _require_one_kind(prompt=self.prompt, completion=self.completion)
        return self

    @property
    def is_conversational(self) -> bool:
        """True where prompt and completion are messages."""
        return not isinstance(self.prompt, str)

    @property
    def is_plain_text(self) -> bool:
        """True for text to model, which has no prompt."""
        return self.prompt == ""

    def as_row(self) -> dict[str, Any]:
        """A plain dict in the one of TRL's formats that says the same: text, messages, or prompt and completion."""
        return self._content() | _present(
            id=self.id, source=self.source, confidence=self.confidence, meta=self.meta or None
        )

    def _content(self) -> dict[str, Any]:
        if self.is_plain_text:
            return {"text": self.completion}
        if isinstance(self.prompt, str) or isinstance(self.completion, str) or len(self.completion) == 1:
            return content_row(self)
        if opening_length((*self.prompt, *self.completion)) != len(self.prompt):
            return content_row(self)
        return {"messages": _plain((*self.prompt, *self.completion))}


class PromptRecord(BaseModel):
    """A prompt to answer: what a model samples its own completions to.

    ``columns`` is what else the row says, such as the right answer; reward functions get it by name. ``id`` defaults
    to a short hash of both.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: Prompt
    columns: dict[str, Any] = Field(default_factory=dict)
    id: StrictStr = Field(default_factory=lambda data: _content_id(data, "prompt", "columns"))
    source: Source | None = None
    meta: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _columns_are_others(self) -> PromptRecord:
        if own := sorted(self.columns.keys() & PromptRecord.model_fields.keys()):
            raise ValueError(f"{', '.join(own)} cannot be columns: a prompt has fields of these names")
        return self

    @property
    def is_conversational(self) -> bool:
        """True where the prompt is messages."""
        return not isinstance(self.prompt, str)

    def as_row(self) -> dict[str, Any]:
        """The prompt as a plain dict in TRL's prompt-only format, its columns beside it."""
        about = _present(id=self.id, source=self.source, meta=self.meta or None)
        return content_row(self) | self.columns | about


Record: TypeAlias = Pair | Comparison | Label | Demonstration | PromptRecord


def content_row(record: Record) -> dict[str, Any]:
    """The content as plain values: what the record says, without what is said about it."""
    return {name: _plain(getattr(record, name)) for name in _CONTENT[type(record)]}


def asked(record: Record) -> Prompt:
    """What a record answers, by which records are grouped: its prompt, or of plain text the text itself."""
    if isinstance(record, Demonstration) and record.is_plain_text:
        return record.completion
    return record.prompt


def opening_length(messages: Sequence[Message]) -> int | None:
    """How many messages stand before the first assistant's turn that answers another's; None where none does.

    A conversation that the assistant opens with a greeting has that greeting in its prompt.
    """
    roles = [message.role for message in messages]
    return next((i for i in range(1, len(roles)) if roles[i] == "assistant" and set(roles[:i]) != {"assistant"}), None)


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


def _require_one_kind(**sides: Prompt) -> None:
    if len({isinstance(side, str) for side in sides.values()}) > 1:
        *first, last = sides
        raise ValueError(f"{', '.join(first)} and {last} must be all text or all messages")


def _content_id(fields: Mapping[str, Any], *names: str) -> str:
    content = [_plain(fields.get(name)) for name in names]
    return hashlib.sha256(_CANONICAL.encode(content).encode()).hexdigest()[:16]


def _present(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _plain(value: Prompt | dict[str, Any] | bool | None) -> str | bool | dict[str, Any] | list[dict[str, Any]] | None:
    if value is None or isinstance(value, str | bool | dict):
        return value
    return [message.as_row() for message in value]


def _tagged(message: Message) -> str:
    extra = json.dumps(message.model_extra, sort_keys=True, default=str) if message.model_extra else ""
    return f"{message.role}\t{_fold(message.content)}\t{extra}"


def _fold(text: str) -> str:
    composed = text if text.isascii() else unicodedata.normalize("NFC", text)  # ASCII is its own normal form
    # Of all white space only the plain space is printable, so such a text of single spaces is folded already.
    if composed.isprintable() and "  " not in composed and not (composed[:1] == " " or composed[-1:] == " "):
        return composed
    return " ".join(composed.split())


_CONTENT: dict[type, tuple[str, ...]] = {
    Pair: ("prompt", "chosen", "rejected"),
    Comparison: ("prompt", "response_1", "response_2"),
    Label: ("prompt", "completion", "label"),
    Demonstration: ("prompt", "completion"),
    PromptRecord: ("prompt",),
}
