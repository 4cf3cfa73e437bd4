"""From one row of a log to its events, by the mapping."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final, NamedTuple, TypeAlias

from preftune.collect.log_mapping import PLACE_IN_LIST, Constant, Fields, Kind, LogMapping, nearest, word
from preftune.data.dialogues import as_messages
from preftune.data.row_parts import Content, RowProblem, content, encodable, is_blank, kind_of, truth

UNKNOWN_EVENT: Final = "unknown-event"
_MISSING: Final = object()
_MILLISECONDS: Final = 1e11  # as seconds that would be the year 5138
_WITH_CONTENT: Final[tuple[Kind, ...]] = ("edit", "dwell")  # their columns hold the text, the seconds

Scopes: TypeAlias = tuple[Mapping[Any, Any], ...]


class UnknownEvent(RowProblem):
    """An event whose name the mapping does not translate."""

    def __init__(self, name: str, field: str, mend: str) -> None:
        self.name = name
        super().__init__(UNKNOWN_EVENT, field, mend)


class LogEvent(NamedTuple):
    """One thing that happened to one answer; None where the row does not say.

    ``prompt`` and ``answer`` are of one kind, text or messages, and come together. ``time`` is in seconds since 1970.
    """

    kind: Kind
    prompt: Content | None = None
    answer: Content | None = None
    answer_id: str | None = None
    user: str | None = None
    session: str | None = None
    request: str | None = None
    slice: str = ""
    position: int | None = None
    propensity: float | None = None
    seconds: float | None = None
    time: float | None = None
    edited: Content | None = None


def events_of_row(row: object, mapping: LogMapping) -> list[LogEvent]:
    """The events of a row; none where all of them are to be ignored.

    A row of a log with signal columns is an impression, and an event for each column that says so. Raises RowProblem
    where a field is missing or cannot be read, and UnknownEvent for a name that the mapping does not translate.
    """
    if not isinstance(row, Mapping):
        raise RowProblem("not-an-object", None, f"A row must be an object with columns, not {kind_of(row)}.")
    return [
        event for number, scopes in enumerate(_items(row, mapping), 1) for event in _events(scopes, number, mapping)
    ]


def found_paths(row: object, mapping: LogMapping, wanted: Mapping[str, str]) -> set[str]:
    """Those of the ``wanted`` paths, by the mapping's keys, that lead to something in this row."""
    if not isinstance(row, Mapping):
        return set()
    found = {"each"} if mapping.each and _look(row, mapping.each) is not _MISSING else set()
    try:
        scopes = list(_items(row, mapping))
    except RowProblem:
        return found
    rest = {key: path for key, path in wanted.items() if key != "each"}
    return found | {key for key, path in rest.items() if any(_find(each, path) is not _MISSING for each in scopes)}


def column_names(row: object, prefix: str = "", depth: int = 0) -> Iterator[str]:
    """The paths that lead to something in a row, three levels deep."""
    if isinstance(row, list | tuple) and row and depth:
        yield from column_names(row[0], f"{prefix}[0]", depth)
    if not isinstance(row, Mapping):
        return
    for name, value in row.items():
        path = f"{prefix}.{name}" if prefix else str(name)
        yield path
        if depth < 2:
            yield from column_names(value, path, depth + 1)


def _items(row: Mapping[Any, Any], mapping: LogMapping) -> Iterator[Scopes]:
    """Where fields are looked up, in this order: each item of the list that the mapping names, and the row."""
    if mapping.each is None:
        yield (row,)
        return
    items = _look(row, mapping.each)
    if not isinstance(items, list | tuple):
        reason = "missing-field" if items is _MISSING else "wrong-type"
        raise RowProblem(reason, mapping.each, f"Give the row a list of answers under {mapping.each}.")
    for place, item in enumerate(items):
        if not isinstance(item, Mapping):
            mend = f"An answer in the list must be an object, not {kind_of(item)}."
            raise RowProblem("wrong-type", f"{mapping.each}[{place}]", mend)
        yield (item, row)


def _events(scopes: Scopes, number: int, mapping: LogMapping) -> Iterator[LogEvent]:
    fields = mapping.fields
    kinds: list[Kind] = [*_named_event(scopes, mapping), *_signal_events(scopes, mapping)]
    if not kinds:
        return
    prompt, answer = _asked_and_answered(scopes, fields)
    event = LogEvent(
        kind=kinds[0],
        prompt=prompt,
        answer=answer,
        answer_id=_name(scopes, fields.answer_id, "answer_id"),
        user=_name(scopes, fields.user, "user"),
        session=_name(scopes, fields.session, "session"),
        request=_name(scopes, fields.request, "request"),
        slice=_name(scopes, fields.slice, "slice") or "",
        position=number if fields.position == PLACE_IN_LIST else _position(scopes, fields),
        propensity=_propensity(scopes, fields),
        time=_time(_value(scopes, fields.time), "time"),
    )
    for kind in kinds:
        yield _complete(event._replace(kind=kind), scopes, mapping)


def _named_event(scopes: Scopes, mapping: LogMapping) -> list[Kind]:
    if mapping.fields.event is None:
        return []
    value = _value(scopes, mapping.fields.event)
    if value is None:
        mend = "Give the row an event, or translate its name to `ignore`."
        raise RowProblem("null-field", "event", mend)
    name = word(value)
    if name not in mapping.events:
        mend = f"Add `{name[:60]}: ignore`, or its meaning, to the mapping's events; near: {_near(name, mapping)}."
        raise UnknownEvent(name, "event", mend)
    kind = mapping.events[name]
    return [] if kind == "ignore" else [kind]


def _near(name: str, mapping: LogMapping) -> str:
    return nearest(name, list(mapping.events))


def _signal_events(scopes: Scopes, mapping: LogMapping) -> list[Kind]:
    if not mapping.signals:
        return []
    kinds: list[Kind] = []
    if mapping.fields.event is None:
        kinds.append("impression")
    for kind, signal in mapping.signals.items():
        value = _find(scopes, signal.column)
        if value is _MISSING or value is None or value == "" or value != value:  # tables write NaN for nothing
            continue
        if signal.is_:
            _refuse_unknown(word(value), signal.column, mapping)
            happened = word(value) in signal.is_
        else:
            happened = True if kind in _WITH_CONTENT else truth(value, signal.column)
        if happened:
            kinds.append(kind)
    return kinds


def _refuse_unknown(name: str, column: str, mapping: LogMapping) -> None:
    """A value that no signal of this column names is as unknown as an event without translation."""
    known = _values_of(column, mapping)
    if name in known or mapping.events.get(name) == "ignore":
        return
    mend = f"Name {name[:60]} under `is` of the signal it means; {column} now has {', '.join(sorted(known))}."
    raise UnknownEvent(name, column, mend)


def _values_of(column: str, mapping: LogMapping) -> set[str]:
    return {value for signal in mapping.signals.values() if signal.column == column for value in signal.is_}


def _asked_and_answered(scopes: Scopes, fields: Fields) -> tuple[Content | None, Content | None]:
    """Prompt and answer, of one kind; both None where the row names its answer in another way."""
    given = _value(scopes, fields.answer)
    if given is None or given == "":
        return None, None
    asked = _value(scopes, fields.prompt)
    if asked is None or asked == "":
        raise RowProblem("missing-field", "prompt", "An answer needs the prompt that it answers; give the row one.")
    prompt, answer = _content(asked, "prompt"), _content(given, "answer")
    for name, side in (("prompt", prompt), ("answer", answer)):
        if is_blank(side):
            raise RowProblem(f"empty-{name}", name, f"Give {name} some text or delete the row.")
    return _of_one_kind(prompt, answer)


def _of_one_kind(prompt: Content, answer: Content) -> tuple[Content, Content]:
    if isinstance(prompt, str) and isinstance(answer, str):
        return prompt, answer
    return as_messages(prompt, "user"), as_messages(answer, "assistant")


def _complete(event: LogEvent, scopes: Scopes, mapping: LogMapping) -> LogEvent:
    """The event with what its kind needs; RowProblem where the row does not give it."""
    if event.kind == "session_end":
        if event.session is None:
            raise RowProblem("missing-field", "session", "The end of a session needs the session's name.")
        return event._replace(seconds=_seconds(_value(scopes, mapping.fields.seconds), "seconds"))
    if (event.answer, event.answer_id, event.request, event.session) == (None, None, None, None):
        mend = "Give the row its answer, or an answer_id, request or session whose answer an earlier row holds."
        raise RowProblem("missing-field", "answer", mend)
    if event.kind == "dwell":
        seconds = _seconds(_content_of("dwell", "seconds", scopes, mapping), "seconds")
        if seconds is None:
            raise RowProblem("missing-field", "seconds", "A dwell event needs its seconds.")
        return event._replace(seconds=seconds)
    if event.kind == "edit":
        return event._replace(edited=_edited(event, scopes, mapping))
    return event


def _edited(event: LogEvent, scopes: Scopes, mapping: LogMapping) -> Content:
    given = _content_of("edit", "edited", scopes, mapping)
    edited = None if given is None else _content(given, "edited")
    if edited is None or is_blank(edited):
        raise RowProblem("missing-field", "edited", "An edit needs the text after it.")
    return edited if event.prompt is None else _of_one_kind(event.prompt, edited)[1]


def _content_of(kind: Kind, name: str, scopes: Scopes, mapping: LogMapping) -> Any:
    """What a signal says beyond that it happened: from its own column where it has one, else from the field."""
    if kind in mapping.signals:
        found = _find(scopes, mapping.signals[kind].column)
        return None if found is _MISSING else found
    return _value(scopes, getattr(mapping.fields, name))


# --- single values ----------------------------------------------------------------------------------------


def _content(value: Any, name: str) -> Content:
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = word(value)  # the name of an article, where the log has nothing else
    return content({name: value}, name, name)


def _name(scopes: Scopes, place: str | Constant | None, field: str) -> str | None:
    value = _value(scopes, place)
    if value is None or value == "":
        return None
    if isinstance(value, Mapping | list | tuple):
        raise RowProblem("wrong-type", field, f"Make it text or a number; it is {kind_of(value)}.")
    return encodable(word(value), field)


def _position(scopes: Scopes, fields: Fields) -> int | None:
    position = _number(_value(scopes, fields.position), "position")
    if position is None:
        return None
    if position < 0 or not position.is_integer():
        raise RowProblem("bad-value", "position", f"Make it a whole number from 1 (or 0); it is {position:g}.")
    return int(position)


def _propensity(scopes: Scopes, fields: Fields) -> float | None:
    propensity = _number(_value(scopes, fields.propensity), "propensity")
    if propensity is not None and not 0 < propensity <= 1:
        raise RowProblem("bad-value", "propensity", f"Make it a probability above 0; it is {propensity:g}.")
    return propensity


def _seconds(value: Any, field: str) -> float | None:
    seconds = _number(value, field)
    if seconds is not None and seconds < 0:
        raise RowProblem("bad-value", field, f"Make it 0 or more seconds; it is {seconds:g}.")
    return seconds


def _number(value: Any, field: str) -> float | None:
    if value is None or value == "":
        return None
    try:
        amount = float("nan") if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        amount = float("nan")
    if amount != amount or amount in (float("inf"), float("-inf")):
        shown = f'"{value[:40]}"' if isinstance(value, str) else kind_of(value)
        raise RowProblem("bad-value", field, f"Make {field} a finite number; it is {shown}.")
    return amount


def _time(value: Any, field: str) -> float | None:
    if value is None or value == "":
        return None
    if isinstance(value, datetime):
        return _since_1970(value)
    try:
        amount = float(value)
    except (TypeError, ValueError, OverflowError):
        pass
    else:
        return amount / 1000 if abs(amount) > _MILLISECONDS else amount
    try:
        return _since_1970(datetime.fromisoformat(value.strip()))
    except (AttributeError, ValueError, OverflowError):
        mend = "Write it as ISO 8601, 2026-11-21T16:56:36Z, or as seconds or milliseconds since 1970."
        raise RowProblem("bad-value", field, mend) from None


def _since_1970(moment: datetime) -> float:
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


# --- paths ------------------------------------------------------------------------------------------------


def _value(scopes: Scopes, place: str | Constant | None) -> Any:
    """The value at a place; None where it is not there, and NaN, as tables write it, is not there either."""
    if place is None:
        return None
    if isinstance(place, Constant):
        return place.constant
    found = _find(scopes, place)
    return None if found is _MISSING or found != found else found


def _find(scopes: Scopes, path: str) -> Any:
    for scope in scopes:
        found = _look(scope, path)
        if found is not _MISSING:
            return found
    return _MISSING


def _look(row: Mapping[Any, Any], path: str) -> Any:
    if path in row:  # a column's name may hold dots
        return row[path]
    found: Any = row
    for step in _steps(path):
        found = _decoded(found)
        if isinstance(step, int) and isinstance(found, list | tuple) and -len(found) <= step < len(found):
            found = found[step]
        elif isinstance(found, Mapping) and str(step) in found:
            found = found[str(step)]
        else:
            return _MISSING
    return found


@lru_cache(maxsize=256)
def _steps(path: str) -> tuple[str | int, ...]:
    """``request.messages[-1].content`` as its keys and places."""
    parts = re.findall(r"[^.\[\]]+", path)
    return tuple(int(part) if re.fullmatch(r"-?\d+", part) else part for part in parts)


def _decoded(value: Any) -> Any:
    """Objects and lists that a table holds as JSON text."""
    if not isinstance(value, str) or value.lstrip()[:1] not in ("{", "["):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value
