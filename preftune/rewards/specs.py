"""How a reward is written on a command line or in a YAML file: a place, and arguments in brackets."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from preftune.errors import PreftuneError

Value: TypeAlias = str | int | float | bool | None

EXAMPLE: Final = "length(max=256,cache=64)"


@dataclass(frozen=True)
class Spec:
    """One reward as asked for; ``name`` and ``weight`` only where the mapping form gives them."""

    place: str
    arguments: dict[str, Any] = field(default_factory=dict)
    name: str | None = None
    weight: float | None = None


def split_specs(text: str) -> list[str]:
    """The rewards of a list written with commas; those inside brackets or quotes are no separators."""
    parts, depth, quote = [""], 0, ""
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in "\"'" and depth:
            quote = character
        elif character in "()":
            depth += 1 if character == "(" else -1
        if character == "," and depth <= 0 and not quote:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts if part.strip()]


def parse_spec(text: str) -> Spec:
    """``place`` or ``place(key=value, ...)``: values are numbers, true, false, none, words, or text in quotes.

    Nothing is evaluated. PreftuneError shows where the brackets are not understood.
    """
    found = _SPEC.fullmatch(text.strip())
    if not found:
        raise PreftuneError(f"The reward {text!r} is not understood.", mend=f"Write it like {EXAMPLE}.")
    return Spec(found["place"].strip(), _arguments(text, found["inside"] or ""))


def read_mapping(entry: Mapping[str, Any]) -> Spec:
    """The form of YAML files: ``{reward: length, max: 256, weight: 0.5, name: short}``."""
    place = entry.get("reward")
    if not isinstance(place, str):
        raise PreftuneError(f"A reward is given as {dict(entry)}, without `reward`.", mend="{reward: length, max: 256}")
    name, weight = entry.get("name"), entry.get("weight")
    if name is not None and not isinstance(name, str):
        raise PreftuneError(f"The name of the reward {place} is {name!r}.", mend="It must be text.")
    if weight is not None and (isinstance(weight, bool) or not isinstance(weight, int | float)):
        raise PreftuneError(f"The weight of the reward {place} is {weight!r}.", mend="It must be a number.")
    spec = parse_spec(place)
    others = {key: value for key, value in entry.items() if key not in ("reward", "name", "weight")}
    return Spec(spec.place, spec.arguments | others, name, weight)


_SPEC: Final = re.compile(r"(?P<place>[^()]+)(?:\((?P<inside>.*)\))?", re.DOTALL)
_ARGUMENT: Final = re.compile(
    r"""\s*(?P<key>[A-Za-z_]\w*)\s*=\s*(?:"(?P<double>[^"]*)"|'(?P<single>[^']*)'|(?P<bare>[^,"'()\s]+))\s*(?:,|$)"""
)
_WORDS: Final[dict[str, Value]] = {"true": True, "false": False, "none": None, "null": None}


def _arguments(text: str, inside: str) -> dict[str, Value]:
    arguments: dict[str, Value] = {}
    place = 0
    while inside[place:].strip():
        found = _ARGUMENT.match(inside, place)
        if not found:
            raise PreftuneError(
                f"The reward {text!r} is not understood from {inside[place:].strip()[:40]!r} on.",
                mend=f"Arguments are key=value with commas between, text in quotes: {EXAMPLE}.",
            )
        if found["key"] in arguments:
            raise PreftuneError(f"The reward {text!r} has {found['key']} twice.")
        quoted = found["double"] if found["double"] is not None else found["single"]
        arguments[found["key"]] = _value(found["bare"]) if quoted is None else quoted
        place = found.end()
    return arguments


def _value(word: str) -> Value:
    if word.lower() in _WORDS:
        return _WORDS[word.lower()]
    for kind in (int, float):
        try:
            number = kind(word)
        except ValueError:
            continue
        return number if math.isfinite(number) else word
    return word
