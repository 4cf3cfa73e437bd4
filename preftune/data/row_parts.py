"""What all shapes of a raw row share: contents and messages, ids, votes, numbers, and what is left for meta."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, TypeAlias, TypeVar

from pydantic import ValidationError

from preftune.data.records import Comparison, Demonstration, Label, Message, Pair, PromptRecord, Vote

Messages: TypeAlias = tuple[Message, ...]
Content: TypeAlias = str | Messages
Row: TypeAlias = Mapping[Any, Any]
R = TypeVar("R", Pair, Comparison, Label, Demonstration, PromptRecord)

# The columns of a comparison's two answers, as they are found.
SIDES = tuple(
    (f"{noun}_{first}", f"{noun}_{second}")
    for noun in ("response", "completion", "answer", "output")
    for first, second in ("12", "ab", "AB")
)

_ANSWERS = tuple(name for names in SIDES for name in names)
_MAYBE_MESSAGES = ("prompt", "chosen", "rejected", "completion", "messages", *_ANSWERS)
_JSON_CELLS = ("annotators", "votes", "meta", "source", "completions", "ranks")
_KEPT_EMPTY = ("prompt", "chosen", "rejected", "completion", "label", *_ANSWERS)
_HALF_A_CHARACTER = "The text holds half of a surrogate pair; save it as UTF-8."
_DEEPEST = 64  # levels of nesting; far above any chat or tool call, far below Python's recursion limit


class RowProblem(Exception):
    """Why one row cannot be used; ``reason`` is a short stable slug that is counted, ``mend`` a sentence."""

    def __init__(self, reason: str, field: str | None, mend: str) -> None:
        self.reason, self.field, self.mend = reason, field, mend
        super().__init__(f"{reason} ({field}): {mend}" if field else f"{reason}: {mend}")


def row_of(row: object, wanted: str) -> Row:
    """The row as a mapping; ``wanted`` names the fields it should have."""
    if isinstance(row, dict | Mapping):  # dict first, for asking what is a Mapping takes longer
        return row
    if not isinstance(row, Pair | Comparison | Label | Demonstration | PromptRecord):
        raise RowProblem("not-an-object", None, f"A row must be an object with {wanted}, not {kind_of(row)}.")
    return row.as_row()


def content(row: Row, name: str, wanted: str) -> Content:
    """Text or messages under ``name``; ``wanted`` names the columns that a row without it should have."""
    value = present(row, name, wanted)
    if isinstance(value, str):
        return encodable(value, name)
    if isinstance(value, list | tuple):
        return tuple(_message(turn, f"{name}[{place}]") for place, turn in enumerate(value))
    raise RowProblem("wrong-type", name, f"Make {name} text or a list of messages; it is {kind_of(value)}.")


def present(row: Row, name: str, wanted: str) -> Any:
    """The value under ``name``, which must be there and not null."""
    if name not in row:
        mend = f"The row has {_names(row)}; rename its columns to {wanted}."
        raise RowProblem("missing-field", name, mend if row else "The row is empty; delete it.")
    if row[name] is None:
        raise RowProblem("null-field", name, f"Give {name} a value or delete the row.")
    return row[name]


def refuse_empty(prompt: Content, mend: str, **completions: Content) -> None:
    """RowProblem where the prompt, which ``mend`` then helps to give, or a completion says nothing."""
    if is_blank(prompt):
        raise RowProblem("empty-prompt", "prompt", mend)
    for name, side in completions.items():
        if is_blank(side):
            raise RowProblem("empty-completion", name, f"Give {name} some text or delete the row.")


def is_blank(value: Content) -> bool:
    """True where text or messages say nothing."""
    if isinstance(value, str):
        return not value.strip()
    return not any(turn.content.strip() or (turn.model_extra or {}).get("tool_calls") for turn in value)


def build(model: type[R], fields: Mapping[str, Any], row: Row, columns: tuple[str, ...]) -> R:
    """The record with these fields and the optional ones of ``row``; what is in none of them or of the
    ``columns`` that were read goes to ``meta``."""
    parsers = _parsers(model)
    optional = {name: parsers[name](row[name], name) for name in parsers if row.get(name) is not None}
    optional["meta"] = _meta(row, {*columns, *parsers, "meta"})
    given = {name: value for name, value in optional.items() if value is not None}
    try:
        return model.model_validate({**fields, **given})
    except ValidationError as error:
        raise _problem_of(error) from None


@cache
def _parsers(model: type[Any]) -> dict[str, Callable[[object, str], Any]]:
    return {name: parse for name, parse in _OPTIONAL.items() if name in model.model_fields}


def identifier(value: object, field: str) -> str | None:
    """An id as text; None where there is none."""
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise RowProblem("wrong-type", field, f"Make it text or a whole number; it is {kind_of(value)}.")
    return encodable(str(value), field)


def number(value: object, field: str) -> float | None:
    """A finite number; None where there is none."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RowProblem("wrong-type", field, f"Make {field} a number; it is {kind_of(value)}.")
    try:
        finite = float(value)
    except OverflowError:
        finite = math.inf
    if not math.isfinite(finite):
        raise RowProblem("bad-value", field, f"Make {field} a finite number, or null where it is not known.")
    return finite


def truth(value: object, field: str) -> bool:
    """True for true, 1 and +1, False for false, 0 and -1, also where they are written as text."""
    if isinstance(value, bool):
        return value
    written = value.strip().casefold() if isinstance(value, str) else value
    if written in ("true", "false"):
        return written == "true"
    try:
        amount = float(written) if isinstance(written, str | int | float) else math.nan
    except (ValueError, OverflowError):
        amount = math.nan
    if amount not in (1, 0, -1):
        shown = f'"{value[:40]}"' if isinstance(value, str) else kind_of(value)
        raise RowProblem("bad-value", field, f"Make {field} true or false (or 1 or 0, or 1 or -1); it is {shown}.")
    return amount == 1


def plain_value(value: Any, field: str, depth: int = 0) -> Any:
    """The value as JSON can hold it: dates and numbers of other kinds become text, NaN becomes null."""
    if depth > _DEEPEST:
        raise RowProblem("bad-value", field, f"Flatten the value; it has more than {_DEEPEST} levels.")
    if isinstance(value, str):
        return encodable(value, field)
    if isinstance(value, Mapping):
        return {encodable(str(key), field): plain_value(each, field, depth + 1) for key, each in value.items()}
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
    filled = {name: cell for name, cell in cells.items() if cell or name in _KEPT_EMPTY}
    numbers = {name: _as_number(filled[name]) for name in ("confidence", "margin") if name in filled}
    return row_from_cells(filled | numbers)


def encodable(text: str, field: str) -> str:
    """The text, which must be one that UTF-8 can hold."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        raise RowProblem("not-utf-8", field, _HALF_A_CHARACTER) from None
    return text


def kind_of(value: object) -> str:
    """What a value is, in a user's words."""
    kinds = {str: "text", bool: "true or false", int: "a number", float: "a number", type(None): "null"}
    if isinstance(value, list | tuple):
        return "a list"
    if isinstance(value, Mapping):
        return "an object"
    return kinds.get(type(value), f"of type {type(value).__name__}")


def _message(turn: object, field: str) -> Message:
    if isinstance(turn, Message):
        return turn
    if not isinstance(turn, dict | Mapping):
        raise RowProblem("wrong-type", field, f"A message is an object with role and content, not {kind_of(turn)}.")
    role, text = turn.get("role"), turn.get("content")
    if len(turn) == 2 and isinstance(role, str) and isinstance(text, str) and role.strip():  # most are so
        return Message.model_validate({"role": encodable(role, field), "content": encodable(text, field)})
    # Tables fill the keys that only other messages have with nulls, so a null key is a key that is not there.
    keys = {str(key): plain_value(value, field) for key, value in turn.items() if value is not None}
    if "content" not in keys and "tool_calls" in keys:
        keys["content"] = ""
    for name in ("role", "content"):
        if name not in keys:
            reason = "null-field" if name in turn else "missing-field"
            raise RowProblem(reason, f"{field}.{name}", f"Give the message a {name}; it has {_names(turn)}.")
        if not isinstance(keys[name], str):
            raise RowProblem("wrong-type", f"{field}.{name}", f"Make it text; it is {kind_of(keys[name])}.")
    if not keys["role"].strip():
        raise RowProblem("bad-value", f"{field}.role", "Name the role: system, user, assistant or tool.")
    return Message.model_validate(keys)


def _source(value: object, field: str) -> Any:
    if value is not None and not isinstance(value, str | Mapping):
        raise RowProblem("wrong-type", field, f"Make source text or an object; it is {kind_of(value)}.")
    return plain_value(value, field)


def _votes(value: object, field: str) -> list[Vote] | None:
    if value is None:
        return None
    if not isinstance(value, list | tuple):
        raise RowProblem("wrong-type", field, f"Make it a list of votes; it is {kind_of(value)}.")
    return [_vote(vote, f"{field}[{place}]") for place, vote in enumerate(value)]


def _vote(vote: object, field: str) -> Vote:
    if not isinstance(vote, Mapping):
        raise RowProblem("wrong-type", field, f"A vote is an object with id and choice, not {kind_of(vote)}.")
    keys = {str(key): plain_value(value, field) for key, value in vote.items() if value is not None}
    if "id" in keys:
        keys["id"] = identifier(keys["id"], f"{field}.id")
    keys["seconds"] = number(keys.get("seconds"), f"{field}.seconds")
    try:
        return Vote.model_validate(keys)
    except ValidationError as error:
        raise _problem_of(error, field) from None


def _meta(row: Row, own_fields: set[str]) -> dict[str, Any]:
    foreign = {str(key): value for key, value in row.items() if key not in own_fields and value is not None}
    own = row.get("meta")
    if not foreign and own is None:
        return {}
    own = own if isinstance(own, Mapping) else {} if own is None else {"meta": own}
    return plain_value({**foreign, **own}, "meta")


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
    if name not in _MAYBE_MESSAGES:
        return value if name in _JSON_CELLS else cell
    # A completion may itself be JSON text: only what looks like messages is taken for messages.
    turns = value if isinstance(value, list) else []
    return turns if turns and all(isinstance(turn, dict) and "role" in turn for turn in turns) else cell


def _problem_of(error: ValidationError, field: str | None = None) -> RowProblem:
    first = error.errors(include_url=False, include_context=False)[0]
    place = ".".join(str(part) for part in (field, *first["loc"]) if part is not None and part != "str")
    reason = "missing-field" if first["type"] == "missing" else "bad-value"
    return RowProblem(reason, place or None, f"{first['msg']}.")


def _names(row: Row) -> str:
    names = [str(name)[:40] for name in row][:12]
    more = f" and {len(row) - 12} more" if len(row) > 12 else ""
    return ", ".join(names) + more if names else "no fields"


_OPTIONAL: dict[str, Callable[[object, str], Any]] = {
    "id": identifier,
    "source": _source,
    "annotators": _votes,
    "confidence": number,
    "margin": number,
}
