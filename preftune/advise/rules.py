"""The rules: read from ``rules.yaml``, held against facts, each with its reason and its source."""

from __future__ import annotations

import operator
import re
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any, Final, TypeAlias

import yaml

Value: TypeAlias = bool | int | float | str | None
Facts: TypeAlias = Mapping[str, Value]

_CONDITION: Final = re.compile(r"(?P<negated>not )?(?P<name>[a-z_]+)(?: (?P<operator>[<>]=?) (?P<number>-?[0-9.]+))?")
_COMPARE: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


@dataclass(frozen=True)
class Rule:
    """One rule of the file; empty where it says nothing of the kind."""

    id: str
    when: tuple[str, ...]
    source: str
    why: str = ""
    method: str = ""
    weight: float = 0.0
    before: str = ""
    methods: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    settings_before: Mapping[str, Any] = field(default_factory=dict)
    warn: str = ""
    refuse: str = ""
    remedy: str = ""


@dataclass(frozen=True)
class Held:
    """A rule that holds, its texts with the facts filled in."""

    rule: Rule
    why: str
    warn: str
    refuse: str
    remedy: str

    def as_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        told = {"id": self.rule.id, "when": list(self.rule.when), "source": self.rule.source}
        texts = {"why": self.why, "warn": self.warn, "refuse": self.refuse, "remedy": self.remedy}
        return told | {name: text for name, text in texts.items() if text}


@cache
def all_rules() -> tuple[Rule, ...]:
    """The rules of the package, in the file's order."""
    text = files("preftune.advise").joinpath("rules.yaml").read_text(encoding="utf-8")
    return tuple(_rule(entry) for entry in yaml.safe_load(text))


def holding(facts: Facts, rules: Sequence[Rule] | None = None) -> tuple[Held, ...]:
    """The rules whose conditions all hold; a fact that is None, or not there, makes none hold."""
    return tuple(
        Held(rule, *(fill(text, facts) for text in (rule.why, rule.warn, rule.refuse, rule.remedy)))
        for rule in (all_rules() if rules is None else rules)
        if all(holds(condition, facts) for condition in rule.when)
    )


def holds(condition: str, facts: Facts) -> bool:
    """Whether ``name``, ``not name`` or ``name < number`` is so; False where the fact is not known."""
    found = _CONDITION.fullmatch(condition)
    if found is None:
        raise ValueError(f"{condition!r} is no condition.")
    value = facts.get(found["name"])
    if value is None:
        return False
    if found["operator"]:
        return _COMPARE[found["operator"]](value, float(found["number"]))
    return bool(value) != bool(found["negated"])


def names_in(rule: Rule) -> set[str]:
    """Every fact that the rule asks for, in its conditions and its texts."""
    named = {match["name"] for text in rule.when if (match := _CONDITION.fullmatch(text))}
    texts = [rule.why, rule.warn, rule.refuse, rule.remedy]
    texts += [str(value) for value in (*rule.settings.values(), *rule.settings_before.values())]
    return named | {name for text in texts for _, name, _, _ in string.Formatter().parse(text) if name}


def settings_of(held: Sequence[Held], method: str, facts: Facts, *, before: bool = False) -> dict[str, Any]:
    """The settings that rules give for the method, or for the stage before it; later rules go over earlier ones."""
    found: dict[str, Any] = {}
    for one in held:
        if method in one.rule.methods or not one.rule.methods:
            given = one.rule.settings_before if before else one.rule.settings
            found |= {name: _value(value, facts) for name, value in given.items()}
    return found


def fill(text: str, facts: Facts) -> str:
    """The text with the facts it names; one that is not known is a question mark."""
    return _Filling().vformat(" ".join(text.split()), (), facts)


class _Filling(string.Formatter):
    """Formats facts; what is not known has no format."""

    def get_value(self, key: Any, args: Any, kwargs: Any) -> Any:
        return kwargs.get(key)

    def format_field(self, value: Any, format_spec: str) -> str:
        return "?" if value is None else format(value, format_spec)


def _value(value: Any, facts: Facts) -> Any:
    """A setting; ``"{name}"`` is the fact itself."""
    named = re.fullmatch(r"\{([a-z_]+)\}", value) if isinstance(value, str) else None
    if named is None:
        return value
    fact = facts[named[1]]
    return round(fact, 3) if isinstance(fact, float) else fact


def _rule(entry: Mapping[str, Any]) -> Rule:
    """A rule of the file; an unknown key is a fault of the file."""
    renamed = {"for": "methods", "set": "settings", "set_before": "settings_before"}
    values: dict[str, Any] = {}
    for key, value in entry.items():
        told = " ".join(value.split()) if isinstance(value, str) else value
        values[renamed.get(key, key)] = tuple(told) if isinstance(told, list) else told
    return Rule(**values)
