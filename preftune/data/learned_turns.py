"""Which tokens of a demonstration are learned, found for any chat template.

A turn is found by rendering growing prefixes of the conversation: it stands between the text before it, with the
answer opened, and the text that ends with it. Some templates write a turn differently once others follow (Qwen3
takes out the thinking, Mistral moves the system message). There the turn is found by rendering the conversation
with a mark in its place, and what stands around the mark must stand around the turn.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from preftune.data.encoding import (
    TemplateRefusal,
    Tokenizer,
    closing_place,
    common_prefix,
    encode_answers,
    encode_texts,
    end_turn,
    is_blank_token,
    render,
    special_ids,
)
from preftune.data.records import Demonstration, Message

_MARK = "HereStandsTheAnswerThatIsLookedFor"


class RewrittenTurn(Exception):
    """A turn that cannot be found again in the whole conversation; the message says what helps."""


@dataclass(frozen=True)
class LearnedTurns:
    """A demonstration as token ids, with the spans ``[begin, end)`` that are learned, in order.

    ``prompt_alone`` is the number of tokens that the prompt has without the rest.
    """

    ids: list[int]
    spans: tuple[tuple[int, int], ...]
    prompt_alone: int


@dataclass(frozen=True)
class _Turn:
    """A turn's place in the text, in characters; ``before`` is the text that asks a model for it.

    ``is_bare`` where ``end`` is the end of its content, so that the token that ends the turn may follow.
    """

    message: Message
    before: str
    begin: int
    end: int
    is_bare: bool


@dataclass(frozen=True)
class _Rendered:
    whole: str
    turns: tuple[_Turn, ...]

    def texts(self) -> list[str]:
        """What is tokenised: all of it, the prompt, and all up to where each turn begins and ends."""
        cuts = [self.whole[:cut] for turn in self.turns for cut in (turn.begin, turn.end)]
        return [self.whole, *(turn.before for turn in self.turns[:1]), *cuts]


def plain_answers(records: Sequence[Demonstration], tokenizer: Tokenizer) -> Iterator[LearnedTurns]:
    """Demonstrations that are text: the completion is learned."""
    texts = [(str(each.prompt), f"{each.prompt}{each.completion}") for each in records]
    for (prompt, completion), alone in encode_answers(texts, tokenizer, is_chat=False):
        yield LearnedTurns([*prompt, *completion], ((len(prompt), len(prompt) + len(completion)),), alone)


def whole_chats(
    records: Sequence[Demonstration], tokenizer: Tokenizer
) -> Iterator[LearnedTurns | TemplateRefusal | RewrittenTurn]:
    """Conversations of which everything after the first token is learned."""
    special = special_ids(tokenizer)
    for record in records:
        try:
            (ids,) = encode_texts([render(tokenizer, _messages(record))], tokenizer, is_chat=True)
        except TemplateRefusal as refusal:
            yield refusal
            continue
        ids = end_turn(ids, tokenizer, special)
        yield LearnedTurns(ids, ((1, len(ids)),), 1)


def learned_turns(
    records: Sequence[Demonstration], tokenizer: Tokenizer
) -> Iterator[LearnedTurns | TemplateRefusal | RewrittenTurn]:
    """Conversations up to their last assistant's turn; learned are the assistant's turns of the completion."""
    rendered = [_rendered(record, tokenizer) for record in records]
    texts = [text for each in rendered if isinstance(each, _Rendered) for text in each.texts()]
    encoded = iter(encode_texts(texts, tokenizer, is_chat=True))
    special = special_ids(tokenizer)
    for each in rendered:
        if isinstance(each, _Rendered):
            yield _found(each, [next(encoded) for _ in each.texts()], tokenizer, special)
        else:
            yield each


def _rendered(record: Demonstration, tokenizer: Tokenizer) -> _Rendered | TemplateRefusal | RewrittenTurn:
    messages = _messages(record)
    places = [i for i in range(len(record.prompt), len(messages)) if messages[i].role == "assistant"]
    if not places:
        return _Rendered("", ())
    messages = messages[: places[-1] + 1]
    try:
        whole = render(tokenizer, messages)
        return _Rendered(whole, tuple(_turn(messages, i, whole, tokenizer) for i in places))
    except (TemplateRefusal, RewrittenTurn) as problem:
        return problem


def _messages(record: Demonstration) -> tuple[Message, ...]:
    assert not isinstance(record.prompt, str) and not isinstance(record.completion, str)
    return *record.prompt, *record.completion


def _turn(messages: Sequence[Message], i: int, whole: str, tokenizer: Tokenizer) -> _Turn:
    before = render(tokenizer, messages[:i], opens_turn=True)
    through = whole if i == len(messages) - 1 else render(tokenizer, messages[: i + 1])
    begin = len(before) if whole.startswith(before) else _begin_in_opening(messages[:i], before, whole, tokenizer)
    end = next((len(text) for text in (through, through.rstrip()) if whole.startswith(text)), None)
    if begin is not None and end is not None:
        return _Turn(messages[i], before, begin, end, is_bare=False)
    content = _around(messages, i, whole, tokenizer)
    begin = _after_opening(messages[:i], before, whole[: content[0]], tokenizer) if begin is None else begin
    return _Turn(messages[i], before, begin, content[1] if end is None else end, is_bare=end is None)


def _begin_in_opening(messages: Sequence[Message], before: str, whole: str, tokenizer: Tokenizer) -> int | None:
    """Where the opening of an answer parts from the turn as it was written, as an opened thought does.

    None where the turns before it are written differently already.
    """
    said = render(tokenizer, messages).rstrip()
    return common_prefix(before, whole) if whole.startswith(said) else None


def _around(messages: Sequence[Message], i: int, whole: str, tokenizer: Tokenizer) -> tuple[int, int]:
    """Where the turn's content begins and ends in ``whole``, by the conversation with a mark in its place."""
    marked = [*messages[:i], Message(role=messages[i].role, content=_MARK), *messages[i + 1 :]]
    try:
        head, mark, tail = render(tokenizer, marked).partition(_MARK)
    except TemplateRefusal:
        raise _rewritten(messages[i]) from None
    stands_there = whole.startswith(head) and whole.endswith(tail) and len(head) + len(tail) <= len(whole)
    if not mark or not stands_there:
        raise _rewritten(messages[i])
    return len(head), len(whole) - len(tail)


def _after_opening(messages: Sequence[Message], before: str, start: str, tokenizer: Tokenizer) -> int:
    """Where a turn begins whose content begins at the end of ``start``.

    What the template itself writes between an answer's opening and its content, as an empty thought, is learned
    too, since a model must write it; unless the opening found is that of an earlier turn.
    """
    opening = before.removeprefix(render(tokenizer, messages))
    place = start.rfind(opening) + len(opening) if opening != before and opening in start else len(start)
    asked = messages[-1].content.strip()
    return len(start) if asked and asked in start[place:] else place


def _found(
    rendered: _Rendered, encoded: Sequence[list[int]], tokenizer: Tokenizer, special: set[int]
) -> LearnedTurns | RewrittenTurn:
    if not rendered.turns:
        return LearnedTurns([], (), 0)
    ids, before, *cuts = encoded
    ended = end_turn(ids, tokenizer, special)
    places = [common_prefix(cut, ids) for cut in cuts]
    spans: list[tuple[int, int]] = []
    for turn, begin, end in zip(rendered.turns, places[::2], places[1::2], strict=True):
        if spans and begin < spans[-1][1]:
            return _rewritten(turn.message)
        end = len(ended) if turn is rendered.turns[-1] else _closed(ids, begin, end, turn.is_bare, tokenizer, special)
        spans.append((begin, end))
    return LearnedTurns(ended, tuple(span for span in spans if span[0] < span[1]), len(before))


def _closed(ids: Sequence[int], begin: int, end: int, is_bare: bool, tokenizer: Tokenizer, special: set[int]) -> int:
    """The place after the token that ends the turn, where the template ends turns with one."""
    if not is_bare:
        closed = closing_place(ids[:end], tokenizer, special)
        return end if closed is None or closed <= begin else closed
    if closing_place(ids, tokenizer, special) is None:  # the last turn ends with none, so neither does this one
        return end
    following = end
    while following < len(ids) and ids[following] not in special and is_blank_token(ids[following], tokenizer):
        following += 1
    return following + 1 if following < len(ids) and ids[following] in special else end


def _rewritten(turn: Message) -> RewrittenTurn:
    beginning = " ".join(turn.content.split())[:40]
    return RewrittenTurn(
        f'The chat template writes the turn "{beginning}" differently once others follow; give each answer as a '
        "demonstration of its own, or name another template by --chat_template_path."
    )
