"""Constitutions: principles with the critique and the revision they ask for, and a version that follows from them."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import yaml

from preftune.errors import PreftuneError
from preftune.yaml_file import construct, line_of, read_mapping

EXAMPLE: Final = '- {id: honest, critique: "What in the answer is not true?", revision: "Rewrite it to be true."}'

Turns = tuple[Mapping[str, str], ...]


@dataclass(frozen=True)
class Principle:
    """What a critic is asked about an answer, what a reviser is asked to do, and what decides between two answers."""

    id: str
    critique: str
    revision: str
    comparison: str | None = None


@dataclass(frozen=True)
class Constitution:
    """Principles under a name. ``examples`` are whole conversations that show how it is done; there may be none."""

    name: str
    principles: tuple[Principle, ...]
    examples: tuple[Turns, ...] = ()

    @property
    def version(self) -> str:
        """The name with a hash of everything the principles and examples say: equal exactly where these are."""
        content = {"principles": [vars(one) for one in self.principles], "examples": list(map(list, self.examples))}
        written = json.dumps(content, sort_keys=True, ensure_ascii=False, default=dict)
        return f"{self.name}@{hashlib.sha256(written.encode()).hexdigest()[:12]}"


def read_constitution(source: str | Path) -> Constitution:
    """The constitution in a YAML or JSON file, or the one of ours that ``source`` names (``short``).

    A file has ``principles``, a list of id, critique, revision and, optionally, comparison; it may have a name and
    examples (lists of messages with role and content). The file's name stands in for the name, a number for an id.
    What Hugging Face's llm-swarm reads, ``constitutions`` with critic and revision beside ``system_chat``, is
    understood too. PreftuneError names the line, or the number of the principle, and what is wrong there.
    """
    path = _place(str(source))
    return _constitution(_read_json(path) if path.suffix.lower() == ".json" else _read_yaml(path), path)


def shipped() -> list[str]:
    """The names of the constitutions that come with the package."""
    return sorted(Path(entry.name).stem for entry in files("preftune.collect").joinpath("constitutions").iterdir())


# --- reading --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Found:
    """A file's content; ``lines`` are those on which its principles begin, where that is known."""

    content: Mapping[str, Any]
    lines: tuple[int, ...] = ()


def _place(source: str) -> Path:
    path = Path(source).expanduser()
    if path.is_file():
        return path
    names = shipped()
    if source in names:
        return Path(str(files("preftune.collect").joinpath("constitutions", f"{source}.yaml")))
    near = difflib.get_close_matches(source, names, 1)
    guess = f"Did you mean {near[0]}? " if near else ""
    mend = f"{guess}Give a YAML or JSON file, or one of ours: {', '.join(names)}."
    raise PreftuneError("There is no such constitution.", where=source, mend=mend)


def _read_json(path: Path) -> _Found:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise PreftuneError(f"The constitution cannot be read ({error}).", where=str(path)) from error
    if not isinstance(content, Mapping):
        raise _empty(path) if not content else _no_principles(path)
    return _Found(content)


def _read_yaml(path: Path) -> _Found:
    document = read_mapping(path)
    if document.problems:
        raise document.problems[0]
    if document.root is None:
        raise _empty(path)
    content = construct(document.root)
    lines = [
        line_of(item)
        for key, value in document.root.value
        if key.value in _LISTS and isinstance(value, yaml.SequenceNode)
        for item in value.value
    ]
    return _Found(content, tuple(lines))


# --- checking -------------------------------------------------------------------------------------------

_LISTS: Final = ("principles", "constitutions")  # ours, llm-swarm's
_KEYS: Final = ("name", "principles", "examples")
_SWARM_KEYS: Final = ("constitutions", "system_chat")
_FIELDS: Final = {"id": "id", "critique": "critique", "critic": "critique", "revision": "revision"}
_ALL_FIELDS: Final = {**_FIELDS, "comparison": "comparison"}


def _constitution(found: _Found, path: Path) -> Constitution:
    content = found.content
    names = [key for key in _LISTS if key in content]
    if not names:
        raise _no_principles(path)
    for key in content:
        if key not in (_KEYS if names == ["principles"] else (*_KEYS, *_SWARM_KEYS)):
            raise _unknown(key, _KEYS, str(path))
    given = content[names[0]]
    if not isinstance(given, Sequence) or isinstance(given, str):
        raise PreftuneError(f"`{names[0]}` is no list.", where=str(path), mend=f"Write principles like\n{EXAMPLE}")
    if not given:
        raise _empty(path)
    places = [_where(path, found.lines, number) for number in range(len(given))]
    principles = [_principle(one, number, place) for number, (one, place) in enumerate(zip(given, places, strict=True))]
    _refuse_doubles(principles, places)
    examples = content.get("examples", content.get("system_chat")) or ()
    name = content.get("name", path.stem)
    return Constitution(_text(name, "name", str(path)), tuple(principles), _examples(examples, path))


def _where(path: Path, lines: Sequence[int], number: int) -> str:
    return f"{path}:{lines[number]}" if number < len(lines) else f"{path}, principle {number + 1}"


def _principle(given: Any, number: int, where: str) -> Principle:
    if not isinstance(given, Mapping):
        raise PreftuneError("A principle is no mapping.", where=where, mend=f"Write it like {EXAMPLE}")
    for key in given:
        if key not in _ALL_FIELDS:
            raise _unknown(key, tuple(_ALL_FIELDS), where)
    fields = {_ALL_FIELDS[key]: _text(value, key, where) for key, value in given.items() if value is not None}
    for name in ("critique", "revision"):
        if name not in fields:
            mend = (
                f"Say what the {'critic is asked about' if name == 'critique' else 'reviser is to do with'} an answer."
            )
            raise PreftuneError(f"The principle has no {name}.", where=where, mend=mend)
    return Principle(
        fields.get("id", str(number + 1)), fields["critique"], fields["revision"], fields.get("comparison")
    )


def _text(value: Any, name: str, where: str) -> str:
    if name in ("id", "name") and isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise PreftuneError(f"`{name}` is no text.", where=where, mend="Put it in quotes.")
    if not value.strip():
        raise PreftuneError(f"`{name}` is empty.", where=where, mend="Give it some text, or leave the principle out.")
    return " ".join(value.split()) if name in ("id", "name") else value.strip()


def _refuse_doubles(principles: Sequence[Principle], places: Sequence[str]) -> None:
    first: dict[str, str] = {}
    for principle, place in zip(principles, places, strict=True):
        if principle.id in first:
            what = f"The id {principle.id} is given twice, first at {first[principle.id]}."
            raise PreftuneError(what, where=place, mend="Records name principles by id: give each its own.")
        first[principle.id] = place


def _examples(given: Any, path: Path) -> tuple[Turns, ...]:
    if not isinstance(given, Sequence) or isinstance(given, str):
        raise PreftuneError("`examples` is no list of conversations.", where=str(path), mend=_EXAMPLES_MEND)
    return tuple(_turns(one, f"{path}, example {number}") for number, one in enumerate(given, 1))


def _turns(given: Any, where: str) -> Turns:
    wanted = {"user", "assistant", "system"}
    is_chat = isinstance(given, Sequence) and bool(given) and all(isinstance(turn, Mapping) for turn in given)
    if not is_chat or any(turn.get("role") not in wanted for turn in given):
        raise PreftuneError("An example is no list of messages.", where=where, mend=_EXAMPLES_MEND)
    if given[-1]["role"] != "assistant":
        raise PreftuneError("An example does not end with the assistant's turn.", where=where, mend=_EXAMPLES_MEND)
    return tuple({"role": turn["role"], "content": _text(turn.get("content"), "content", where)} for turn in given)


_EXAMPLES_MEND: Final = (
    "An example is a list of messages with role and content: what was asked, the answer, a critique request, the "
    "critique, a revision request, the revision."
)


def _empty(path: Path) -> PreftuneError:
    return PreftuneError("The constitution is empty.", where=str(path), mend=f"Write under `principles:`\n  {EXAMPLE}")


def _no_principles(path: Path) -> PreftuneError:
    mend = f"Write under `principles:`\n  {EXAMPLE}"
    return PreftuneError("The constitution has no `principles`.", where=str(path), mend=mend)


def _unknown(key: Any, known: Sequence[str], where: str) -> PreftuneError:
    near = difflib.get_close_matches(str(key), known, 1)
    mend = f"Did you mean {near[0]}?" if near else f"Known are {', '.join(known)}."
    return PreftuneError(f"`{key}` is not known here.", where=where, mend=mend)
