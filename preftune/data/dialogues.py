"""Messages and transcripts: how a dialogue is recognised, compared and taken apart."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from itertools import takewhile

from preftune.data.records import Message
from preftune.data.row_parts import Content, Messages

_TURN = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": "assistant"}


def is_transcript(text: str) -> bool:
    """True for a dialogue written with "Human:" and "Assistant:"."""
    opening = _TURN.match(text)
    return bool(opening) and opening[1] == "Human" and "\n\nAssistant:" in text


def awaits_answer(prompt: str) -> bool:
    """True for a transcript that stops at the user's turn or at an open "Assistant:"."""
    opening = _TURN.match(prompt)
    if not opening or opening[1] != "Human":
        return False
    last = turns_of(prompt)[-1]
    return last.role == "user" or not last.content


def turns_of(transcript: str) -> Messages:
    """The turns of a transcript."""
    pieces = _TURN.split(transcript)[1:]  # the first piece is what stands before the first speaker: white space
    speakers, texts = pieces[::2], pieces[1::2]
    return tuple(
        Message(role=_ROLES[speaker], content=text.strip()) for speaker, text in zip(speakers, texts, strict=True)
    )


def asked_turns(prompt: str) -> Messages:
    """The turns of a transcript that awaits an answer, without the open one."""
    turns = turns_of(prompt)
    return turns[:-1] if turns[-1].role == "assistant" and not turns[-1].content else turns


def answer_turns(text: str) -> Messages:
    """The answer to a transcript, with or without its speaker's name."""
    return turns_of(text) if _TURN.match(text) else as_messages(text.strip(), "assistant")


def as_messages(content: Content, role: str) -> Messages:
    """Messages as they are; text as one turn of ``role``."""
    return content if not isinstance(content, str) else (Message(role=role, content=content),)


def begins_with(side: Messages, prompt: Messages) -> bool:
    """True where ``side`` repeats the prompt first."""
    return same_turns(side[: len(prompt)], prompt)


def same_turns(left: Messages, right: Messages) -> bool:
    """True where two dialogues say the same."""
    return len(left) == len(right) and comparable(left) == comparable(right)


def comparable(content: Content) -> object:
    """What is equal for contents that say the same: Unicode's form and outer white space do not count."""
    if isinstance(content, str):
        return (content if content.isascii() else unicodedata.normalize("NFC", content)).strip()
    return [(turn.role, comparable(turn.content), turn.model_extra) for turn in content]


def common_length(left: Sequence[object], right: Sequence[object]) -> int:
    """How many leading items are equal."""
    return sum(1 for _ in takewhile(lambda both: both[0] == both[1], zip(left, right, strict=False)))
