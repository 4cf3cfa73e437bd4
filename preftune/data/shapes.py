"""From one raw row to a Pair: the shapes in which preference data is found, and what is wrong with a row."""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any, TypeAlias

from pydantic import ValidationError

from preftune.data.records import Message, Pair, Vote

Messages: TypeAlias = tuple[Message, ...]
Content: TypeAlias = str | Messages

_SIDES = ("chosen", "rejected")
_CONTENT_FIELDS = ("prompt", "chosen", "rejected")
_OWN_FIELDS = {"prompt", "chosen", "rejected", "id", "source", "annotators", "confidence", "margin", "meta"}
_TURN = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": "assistant"}
_HALF_A_CHARACTER = "The text holds half of a surrogate pair; save it as UTF-8."
_DEEPEST = 64  # levels of nesting; far above any chat or tool call, far below Python's recursion limit


class RowProblem(Exception):
    """Why one row cannot be used; ``reason`` is a short stable slug that is counted, ``mend`` a sentence."""

    def __init__(self, reason: str, field: str | None, mend: str) -> None:
        self.reason, self.field, self.mend = reason, field, mend
        super().__init__(f"{reason} ({field}): {mend}" if field else f"{reason}: {mend}")


def pair_from_row(row: object) -> Pair:
    """The pair in a raw row of any known shape; columns that are not ours are kept in ``meta``.

    Known: text or messages, with the prompt given or as the common beginning of both sides, and transcripts
    with "Human:" and "Assistant:". Raises RowProblem for everything else; column names are never guessed.
    """
    if isinstance(row, Pair):
        row = row.as_row()
    if not isinstance(row, Mapping):
        kind = _kind(row)
        raise RowProblem("not-an-object", None, f"A row must be an object with chosen and rejected, not {kind}.")
    sides = [_content(row, name) for name in _SIDES]
    prompt = _content(row, "prompt") if "prompt" in row else None
    if isinstance(sides[0], str) != isinstance(sides[1], str):
        raise RowProblem("wrong-type", "rejected", "Make chosen and rejected both text or both lists of messages.")
    _refuse_identical(*sides)
    prompt, chosen, rejected = _split(prompt, sides[0], sides[1])
    _refuse_empty(prompt, chosen, rejected)
    _refuse_identical(chosen, rejected)
    return _build(prompt, chosen, rejected, row)


def _content(row: Mapping[Any, Any], name: str) -> Content:
    value = _present(row, name)
    if isinstance(value, str):
        return _encodable(value, name)
    if isinstance(value, list | tuple):
        return tuple(_message(turn, f"{name}[{place}]") for place, turn in enumerate(value))
    raise RowProblem("wrong-type", name, f"Make {name} text or a list of messages; it is {_kind(value)}.")


def _present(row: Mapping[Any, Any], name: str) -> Any:
    if name not in row:
        present = _names(row)
        mend = f"The row has {present}; rename its columns to prompt, chosen and rejected."
        raise RowProblem("missing-field", name, mend if row else "The row is empty; delete it.")
    if row[name] is None:
        raise RowProblem("null-field", name, f"Give {name} a value or delete the row.")
    return row[name]


def _message(turn: object, field: str) -> Message:
    if isinstance(turn, Message):
        return turn
    if not isinstance(turn, Mapping):
        raise RowProblem("wrong-type", field, f"A message is an object with role and content, not {_kind(turn)}.")
    # Tables fill the keys that only other messages have with nulls, so a null key is a key that is not there.
    keys = {str(key): plain_value(value, field) for key, value in turn.items() if value is not None}
    if "content" not in keys and "tool_calls" in keys:
        keys["content"] = ""
    for name in ("role", "content"):
        if name not in keys:
            reason = "null-field" if name in turn else "missing-field"
            raise RowProblem(reason, f"{field}.{name}", f"Give the message a {name}; it has {_names(turn)}.")
        if not isinstance(keys[name], str):
            raise RowProblem("wrong-type", f"{field}.{name}", f"Make it text; it is {_kind(keys[name])}.")
    if not keys["role"].strip():
        raise RowProblem("bad-value", f"{field}.role", "Name the role: system, user, assistant or tool.")
    return Message.model_validate(keys)


def _refuse_identical(chosen: Content, rejected: Content) -> None:
    if _comparable(chosen) == _comparable(rejected):
        raise RowProblem("identical-sides", "rejected", "Chosen and rejected say the same; delete the row.")


def _comparable(content: Content) -> object:
    if isinstance(content, str):
        return unicodedata.normalize("NFC", content).strip()
    return [(turn.role, _comparable(turn.content), turn.model_extra) for turn in content]


def _split(prompt: Content | None, chosen: Content, rejected: Content) -> tuple[Content, Content, Content]:
    """Prompt and completions of one kind, the prompt taken out of the sides where they hold it."""
    if isinstance(chosen, str) and isinstance(rejected, str):
        if prompt is None:
            return _split_texts(chosen, rejected)
        return _split_given(prompt, chosen, rejected)
    assert not isinstance(chosen, str) and not isinstance(rejected, str)
    if prompt is None:
        return _split_messages(chosen, rejected)
    return _strip_prompt(_as_messages(prompt, "user"), chosen, rejected)


def _split_texts(chosen: str, rejected: str) -> tuple[Content, Content, Content]:
    if _is_transcript(chosen) and _is_transcript(rejected):
        return _split_messages(_turns(chosen), _turns(rejected))
    cut = _word_boundary(chosen, _common_length(chosen, rejected))
    return chosen[:cut], chosen[cut:], rejected[cut:]


def _split_given(prompt: Content, chosen: str, rejected: str) -> tuple[Content, Content, Content]:
    if not isinstance(prompt, str):
        return prompt, _as_messages(chosen, "assistant"), _as_messages(rejected, "assistant")
    if _awaits_answer(prompt):
        asked = _without_open_turn(_turns(prompt))
        return _strip_prompt(asked, _answer(chosen), _answer(rejected))
    asked = _as_messages(prompt, "user")
    if _is_transcript(chosen) and _is_transcript(rejected):
        dialogues = _turns(chosen), _turns(rejected)
        # Both must repeat the prompt; otherwise the transcript is itself the answer ("write a dialogue ...").
        if all(_begins_with(dialogue, asked) for dialogue in dialogues):
            return _strip_prompt(asked, *dialogues)
    return prompt, chosen, rejected


def _split_messages(chosen: Messages, rejected: Messages) -> tuple[Messages, Messages, Messages]:
    """The common leading messages as the prompt, cut so that both completions begin with an assistant's turn.

    Where the dialogues part at another's turn, or one ends where the other goes on, the cut moves back to
    before the last assistant's turn they share: no completion is empty and none begins with the user's words.
    """
    cut = _common_length(chosen, rejected)
    at_cut = [side[cut].role if cut < len(side) else "" for side in (chosen, rejected)]
    if at_cut != ["assistant", "assistant"]:
        shared = [place for place in range(cut) if chosen[place].role == "assistant"]
        cut = shared[-1] if shared else cut
    return chosen[:cut], chosen[cut:], rejected[cut:]


def _strip_prompt(prompt: Messages, chosen: Messages, rejected: Messages) -> tuple[Messages, Messages, Messages]:
    """The sides without the prompt's messages; a system message that only the sides hold joins the prompt."""
    if not prompt:
        return prompt, chosen, rejected
    shared = _split_messages(chosen, rejected)[0]
    if len(shared) > len(prompt) and _same_turns(shared[-len(prompt) :], prompt):
        return shared, chosen[len(shared) :], rejected[len(shared) :]
    cuts = [len(prompt) if _begins_with(side, prompt) else 0 for side in (chosen, rejected)]
    return prompt, chosen[cuts[0] :], rejected[cuts[1] :]


def _begins_with(side: Messages, prompt: Messages) -> bool:
    return _same_turns(side[: len(prompt)], prompt)


def _same_turns(left: Messages, right: Messages) -> bool:
    return len(left) == len(right) and _comparable(left) == _comparable(right)


def _common_length(left: Sequence[object], right: Sequence[object]) -> int:
    return sum(1 for _ in takewhile(lambda both: both[0] == both[1], zip(left, right, strict=False)))


def _word_boundary(text: str, end: int) -> int:
    """The last place in ``text[:end]`` that splits no word: after a line break, before a space.

    A space stays with the completion, as tokenisers join it to the word that follows.
    """
    while end and not text[end - 1].isspace():
        end -= 1
    while end and text[end - 1].isspace() and text[end - 1] not in "\n\r":
        end -= 1
    return end


def _is_transcript(text: str) -> bool:
    opening = _TURN.match(text)
    return bool(opening) and opening[1] == "Human" and "\n\nAssistant:" in text


def _awaits_answer(prompt: str) -> bool:
    """True for a transcript that stops at the user's turn or at an open "Assistant:"."""
    opening = _TURN.match(prompt)
    if not opening or opening[1] != "Human":
        return False
    last = _turns(prompt)[-1]
    return last.role == "user" or not last.content


def _without_open_turn(turns: Messages) -> Messages:
    return turns[:-1] if turns[-1].role == "assistant" and not turns[-1].content else turns


def _turns(transcript: str) -> Messages:
    pieces = _TURN.split(transcript)[1:]  # the first piece is what stands before the first speaker: white space
    speakers, texts = pieces[::2], pieces[1::2]
    return tuple(
        Message(role=_ROLES[speaker], content=text.strip()) for speaker, text in zip(speakers, texts, strict=True)
    )


def _answer(text: str) -> Messages:
    return _turns(text) if _TURN.match(text) else _as_messages(text.strip(), "assistant")


def _as_messages(content: Content, role: str) -> Messages:
    if not isinstance(content, str):
        return content
    return (Message(role=role, content=content),)


def _refuse_empty(prompt: Content, chosen: Content, rejected: Content) -> None:
    if _is_blank(prompt):
        mend = "Give the row a prompt; without one, both sides must begin with the same text or messages."
        raise RowProblem("empty-prompt", "prompt", mend)
    for name, side in zip(_SIDES, (chosen, rejected), strict=True):
        if _is_blank(side):
            raise RowProblem("empty-completion", name, f"Give {name} some text or delete the row.")


def _is_blank(content: Content) -> bool:
    if isinstance(content, str):
        return not content.strip()
    return not any(turn.content.strip() or (turn.model_extra or {}).get("tool_calls") for turn in content)


def _build(prompt: Content, chosen: Content, rejected: Content, row: Mapping[Any, Any]) -> Pair:
    fields: dict[str, Any] = {"prompt": prompt, "chosen": chosen, "rejected": rejected}
    fields |= {name: value for name, value in _optional(row).items() if value is not None}
    try:
        return Pair.model_validate(fields)
    except ValidationError as error:
        raise _problem_of(error) from None


def _optional(row: Mapping[Any, Any]) -> dict[str, Any]:
    source = row.get("source")
    if source is not None and not isinstance(source, str | Mapping):
        raise RowProblem("wrong-type", "source", f"Make source text or an object; it is {_kind(source)}.")
    return {
        "id": _identifier(row.get("id"), "id"),
        "source": plain_value(source, "source"),
        "annotators": _votes(row.get("annotators")),
        "confidence": _number(row.get("confidence"), "confidence"),
        "margin": _number(row.get("margin"), "margin"),
        "meta": _meta(row),
    }


def _identifier(value: object, field: str) -> str | None:
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise RowProblem("wrong-type", field, f"Make it text or a whole number; it is {_kind(value)}.")
    return _encodable(str(value), field)


def _votes(value: object) -> list[Vote] | None:
    if value is None:
        return None
    if not isinstance(value, list | tuple):
        raise RowProblem("wrong-type", "annotators", f"Make it a list of votes; it is {_kind(value)}.")
    return [_vote(vote, f"annotators[{place}]") for place, vote in enumerate(value)]


def _vote(vote: object, field: str) -> Vote:
    if not isinstance(vote, Mapping):
        raise RowProblem("wrong-type", field, f"A vote is an object with id and choice, not {_kind(vote)}.")
    keys = {str(key): plain_value(value, field) for key, value in vote.items() if value is not None}
    if "id" in keys:
        keys["id"] = _identifier(keys["id"], f"{field}.id")
    keys["seconds"] = _number(keys.get("seconds"), f"{field}.seconds")
    try:
        return Vote.model_validate(keys)
    except ValidationError as error:
        raise _problem_of(error, field) from None


def _number(value: object, field: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RowProblem("wrong-type", field, f"Make {field} a number; it is {_kind(value)}.")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise RowProblem("bad-value", field, f"Make {field} a finite number, or null where it is not known.")
    return number


def _meta(row: Mapping[Any, Any]) -> dict[str, Any]:
    foreign = {str(key): value for key, value in row.items() if key not in _OWN_FIELDS and value is not None}
    own = row.get("meta")
    own = own if isinstance(own, Mapping) else {} if own is None else {"meta": own}
    return plain_value({**foreign, **own}, "meta")


def plain_value(value: Any, field: str, depth: int = 0) -> Any:
    """The value as JSON can hold it: dates and numbers of other kinds become text, NaN becomes null."""
    if depth > _DEEPEST:
        raise RowProblem("bad-value", field, f"Flatten the value; it has more than {_DEEPEST} levels.")
    if isinstance(value, str):
        return _encodable(value, field)
    if isinstance(value, Mapping):
        return {_encodable(str(key), field): plain_value(each, field, depth + 1) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain_value(each, field, depth + 1) for each in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int) else str(value)


def row_from_cells(cells: Mapping[str, Any]) -> dict[str, Any]:
    """A table's row with the cells decoded that hold messages, votes or objects as JSON."""
    return {name: _decoded(name, cell) for name, cell in cells.items()}


def row_from_texts(cells: Mapping[str, str]) -> dict[str, Any]:
    """A row of a table that knows only text: numbers are read, and an empty optional cell is no value."""
    present = {name: cell for name, cell in cells.items() if cell or name in _CONTENT_FIELDS}
    numbers = {name: _as_number(present[name]) for name in ("confidence", "margin") if name in present}
    return row_from_cells(present | numbers)


def _as_number(cell: str) -> float | str:
    try:
        return float(cell)
    except ValueError:
        return cell


def _decoded(name: str, cell: Any) -> Any:
    if not isinstance(cell, str) or cell.lstrip()[:1] not in ("[", "{"):
        return cell
    try:
        value = json.loads(cell)
    except (ValueError, RecursionError):
        return cell
    if name not in _CONTENT_FIELDS:
        return value if name in ("annotators", "meta", "source") else cell
    # A completion may itself be JSON text: only what looks like messages is taken for messages.
    turns = value if isinstance(value, list) else []
    return turns if turns and all(isinstance(turn, dict) and "role" in turn for turn in turns) else cell


def _encodable(text: str, field: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise RowProblem("not-utf-8", field, _HALF_A_CHARACTER) from None
    return text


def _problem_of(error: ValidationError, field: str | None = None) -> RowProblem:
    first = error.errors(include_url=False, include_context=False)[0]
    place = ".".join(str(part) for part in (field, *first["loc"]) if part is not None and part != "str")
    reason = "missing-field" if first["type"] == "missing" else "bad-value"
    return RowProblem(reason, place or None, f"{first['msg']}.")


def _names(row: Mapping[Any, Any]) -> str:
    names = [str(name)[:40] for name in row][:12]
    more = f" and {len(row) - 12} more" if len(row) > 12 else ""
    return ", ".join(names) + more if names else "no fields"


def _kind(value: object) -> str:
    kinds = {str: "text", bool: "true or false", int: "a number", float: "a number", type(None): "null"}
    if isinstance(value, list | tuple):
        return "a list"
    if isinstance(value, Mapping):
        return "an object"
    return kinds.get(type(value), f"of type {type(value).__name__}")
