"""Is training better than prompting? The untouched model with a system prompt, or with examples of good answers."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from preftune.data.encoding import TemplateRefusal, render_prompt
from preftune.data.records import Message, Pair, Prompt, PromptRecord, character_count
from preftune.data.split import prompt_key
from preftune.errors import PreftuneError

DEFAULT_SYSTEM: Final = (
    "You are a careful assistant. Do what you are asked, all of it and nothing beside it. Be correct, and say so where "
    "you do not know. Write clearly, and no more than the answer needs."
)
R = TypeVar("R", Pair, PromptRecord)


@dataclass(frozen=True)
class Prompting:
    """What stands before every prompt: a system text, and pairs whose chosen answers are shown as examples.

    ``folded``: the system text opens the first user's turn, for templates that know no system turn.
    """

    name: str
    system: str | None = None
    shots: tuple[Pair, ...] = ()
    folded: bool = False

    def apply(self, record: R) -> R:
        """The record with its prompt so changed."""
        return record.model_copy(update={"prompt": self.before(record.prompt)})

    def before(self, prompt: Prompt) -> Prompt:
        """The prompt with all that stands before it."""
        if isinstance(prompt, str):
            shots = [f"{one.prompt}{one.chosen}" for one in self.shots]
            return "\n\n".join([*([self.system] if self.system else []), *shots, prompt])
        own = [message for message in prompt if message.role == "system"]
        rest = tuple(message for message in prompt if message.role != "system")
        told = "\n\n".join([*([self.system] if self.system else []), *(message.content for message in own)])
        turns = (*(turn for one in self.shots for turn in _shown(one)), *rest)
        return _with_system(told, turns, folded=self.folded and not own)


def fitted(prompting: Prompting, record: PromptRecord, tokenizer: Any) -> Prompting:
    """The prompting, its system text folded into the user's turn where the chat template refuses or drops it."""
    if not prompting.system or not record.is_conversational:
        return prompting
    try:
        is_read = prompting.system in render_prompt(prompting.apply(record), tokenizer)
    except TemplateRefusal:
        is_read = False
    return prompting if is_read else Prompting(prompting.name, prompting.system, prompting.shots, folded=True)


def draw_shots(pairs: Sequence[Pair], count: int, seed: int, *, conversational: bool) -> tuple[Pair, ...]:
    """Pairs of ``count`` different prompts for examples, at random from the shorter half, so that they leave room.

    Their prompts are not to be measured on. PreftuneError where there are too few.
    """
    usable = {
        prompt_key(pair): pair for pair in pairs if pair.is_conversational is conversational and _opens_plainly(pair)
    }
    ordered = sorted(usable.values(), key=lambda one: character_count(one.prompt) + character_count(one.chosen))
    half = ordered[: max(count, len(ordered) // 2)]
    if len(half) < count or count >= len(usable):
        raise PreftuneError(
            f"{count} examples are asked for, and the data has {len(usable)} different prompts with an answer.",
            where="--prompting-shots",
            mend="Ask for fewer, or give more data.",
        )
    return tuple(random.Random(seed).sample(half, count))


def without(records: Sequence[R], shots: Collection[Pair]) -> list[R]:
    """The records whose prompt is none of the examples'."""
    shown = {prompt_key(one) for one in shots}
    return [record for record in records if prompt_key(record) not in shown]


def read_system(given: str | None) -> str:
    """The system text: given, in the file of that name, or the default."""
    if given is None:
        return DEFAULT_SYSTEM
    place = Path(given).expanduser()
    try:
        text = place.read_text(encoding="utf-8").strip() if len(given) < 1024 and place.is_file() else given.strip()
    except (OSError, UnicodeDecodeError) as error:
        raise PreftuneError(f"The system prompt cannot be read ({error}).", where=given) from error
    if not text:
        raise PreftuneError("The system prompt is empty.", where="--prompting-system", mend="Say what to do.")
    return text


def _opens_plainly(pair: Pair) -> bool:
    """Whether the pair can be shown as an example: of messages, one that the user begins and the assistant ends."""
    if isinstance(pair.prompt, str):
        return True
    roles = [message.role for message in _shown(pair)]
    return roles[:1] == ["user"] and roles[-1:] == ["assistant"]


def _shown(pair: Pair) -> tuple[Message, ...]:
    parts = (part for part in (pair.prompt, pair.chosen) if not isinstance(part, str))
    return tuple(message for part in parts for message in part if message.role != "system")


def _with_system(told: str, turns: tuple[Message, ...], *, folded: bool) -> tuple[Message, ...]:
    if not told:
        return turns
    if not folded:
        return Message(role="system", content=told), *turns
    first = next((number for number, message in enumerate(turns) if message.role == "user"), None)
    if first is None:
        return Message(role="user", content=told), *turns
    opened = turns[first].model_copy(update={"content": f"{told}\n\n{turns[first].content}"})
    return *turns[:first], opened, *turns[first + 1 :]
