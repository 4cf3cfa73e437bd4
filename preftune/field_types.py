"""What a config field takes, in words and as plain types, and what an unquoted word means to it."""

from __future__ import annotations

import re
import types
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from pathlib import PurePath
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

_TYPE_WORDS: Final[dict[type, str]] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    list: "a list",
    dict: "a mapping",
    types.NoneType: "null",
    object: "another value",
}

# What YAML 1.2 makes of unquoted words, by tag; the first that matches counts.
_NULL, _BOOL, _INT, _FLOAT, _STR = (f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str"))
_PLAIN_WORDS: Final[dict[str, Any]] = {"": None, "~": None, "null": None, "true": True, "false": False}
PLAIN_PATTERNS = {
    _NULL: re.compile(r"(~|null|Null|NULL|)\Z"),
    _BOOL: re.compile(r"(true|True|TRUE|false|False|FALSE)\Z"),
    _INT: re.compile(r"[-+]?[0-9]{1,400}\Z"),
    _FLOAT: re.compile(r"([-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))\Z"),
}


def plain_kinds(annotation: Any) -> frozenset[type]:
    """The plain types a field takes: bool, int, float, str, list, dict, NoneType; ``object`` for any."""
    if annotation is None or annotation is types.NoneType:
        return frozenset({types.NoneType})
    origin = get_origin(annotation)
    if origin is Annotated:
        return plain_kinds(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return frozenset().union(*(plain_kinds(part) for part in get_args(annotation)))
    if origin is Literal:
        return frozenset(type(choice) for choice in get_args(annotation))
    kind = origin or annotation
    if not isinstance(kind, type):
        return frozenset({object})
    if kind in (bool, int, float):
        return frozenset({kind})
    if issubclass(kind, (str, PurePath, Enum)):
        return frozenset({str})
    if issubclass(kind, Mapping):
        return frozenset({dict})
    return frozenset({list}) if issubclass(kind, (Sequence, set, frozenset)) else frozenset({object})


def item_annotation(annotation: Any) -> Any:
    """What the items of a list field are, ``Any`` where it does not say."""
    if get_origin(annotation) in (Union, types.UnionType, Annotated):
        lists = [part for part in get_args(annotation) if list in plain_kinds(part)]
        return item_annotation(lists[0]) if lists else Any
    return next(iter(get_args(annotation)), Any)


def expected(annotation: Any) -> str:
    """The field's type in words: ``a whole number or null``, ``one of sigmoid, hinge``."""
    parts = list(dict.fromkeys(_type_words(annotation)))
    if "a number" in parts and "a whole number" in parts:
        parts.remove("a whole number")
    return " or ".join(parts)


def _type_words(annotation: Any) -> Iterator[str]:
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _type_words(get_args(annotation)[0])
    elif origin in (Union, types.UnionType):
        for part in get_args(annotation):
            yield from _type_words(part)
    elif choices := _choices(annotation):
        yield f"one of {', '.join(choices)}" if len(choices) > 1 else choices[0]
    else:
        yield from (_TYPE_WORDS[kind] for kind in plain_kinds(annotation))


def _choices(annotation: Any) -> list[str]:
    if get_origin(annotation) is Literal:
        return ["null" if choice is None else str(choice) for choice in get_args(annotation)]
    members: Mapping[str, Any] = getattr(annotation, "__members__", {})  # of an Enum
    return [str(member.value) for member in members.values()]


def fit_scalar(text: str, kinds: frozenset[type]) -> Any:
    """What the text means to a field of these kinds: ``no`` is text to a text field and False to a switch."""
    words = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
    if bool in kinds and text.lower() in words:
        return words[text.lower()]
    value = plain_scalar(text)
    if value is None or object in kinds or type(value) in kinds or (type(value) is int and float in kinds):
        return value
    return text if str in kinds else value


def plain_scalar(text: str) -> Any:
    """The value of an unquoted word in YAML 1.2: `no` and `2026-01-01` are text, `1e-6` is a number."""
    tag = next((tag for tag, pattern in PLAIN_PATTERNS.items() if pattern.match(text)), _STR)
    if tag in (_NULL, _BOOL):
        return _PLAIN_WORDS[text.lower()]
    if tag == _INT:
        return int(text)
    return float(text.lower().replace(".inf", "inf").replace(".nan", "nan")) if tag == _FLOAT else text
