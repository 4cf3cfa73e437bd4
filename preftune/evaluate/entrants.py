"""Who answers: the models asked for, what they started from, their opponents, and the start behind a prompt."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import yaml

from preftune.errors import PreftuneError
from preftune.evaluate.model import OpenModel, model_folder
from preftune.evaluate.prompting import Prompting
from preftune.models.adapters import is_adapter
from preftune.models.loading import find_config, resolve_source
from preftune.models.settings import ModelConfig

Role = Literal["model", "start", "opponent", "prompted"]
START: Final = "start"


@dataclass(frozen=True)
class Entrant:
    """One who answers. ``source`` is what is opened; ``is_base``: its adapter is switched off.

    ``start`` is the name of the entrant it is compared with, where there is one.
    """

    name: str
    role: Role
    source: str
    is_base: bool = False
    prompting: Prompting | None = None
    start: str | None = None
    is_first: bool = False


@dataclass(frozen=True)
class Match:
    """Whose answers are compared with whose; ``key`` names the opponent in the names of measures.

    ``kind`` is what the opponent is to the subject.
    """

    subject: str
    opponent: str
    key: str
    kind: Role


@dataclass(frozen=True)
class Field:
    """All who answer, in the order they are opened in, and who is compared with whom."""

    entrants: tuple[Entrant, ...]
    matches: tuple[Match, ...]

    @property
    def first(self) -> Entrant | None:
        """The model that the evaluation is about: the first one asked for."""
        return next((one for one in self.entrants if one.role == "model" and one.is_first), None)

    @property
    def main(self) -> Match | None:
        """The first model's match with its first opponent of ``against``, else with its start; None without either."""
        if self.first is None:
            return None
        own = [one for one in self.matches if one.subject == self.first.name and one.kind != "prompted"]
        return next((one for one in own if one.kind == "opponent"), next(iter(own), None))

    @property
    def starts(self) -> frozenset[str]:
        """The names of those that others started from."""
        return frozenset(one.start for one in self.entrants if one.start is not None and one.prompting is None)


def line_up(
    models: Sequence[str],
    *,
    against: Sequence[str] = (),
    start: str | None = None,
    wants_start: bool = False,
    prompting: Sequence[Prompting] = (),
    note: Callable[[str], object] = lambda _: None,
) -> Field:
    """Who answers for ``models``: they, with ``wants_start`` what each started from, the opponents, and of the first
    model's start one more for each of ``prompting``.

    A model is matched with its start and with every opponent; the start behind a prompt with the start alone, and the
    first model with each of these. Without a start a model under ``prompting`` stands for itself.
    """
    entrants = [_model(name, start, wants_start) for name in models]
    for one in entrants:
        if wants_start and one.start is None and all(one.name != other.start for other in entrants):
            note(f"{one.name}: what it started from is not known; --start names it")
    entrants[0] = replace(entrants[0], is_first=True)
    starts = {one.start: _start_of(one.source, start) for one in entrants if one.start is not None}
    beside = [Entrant(name or "", "start", *(found or ("", False))) for name, found in starts.items()]
    opponents = [Entrant(one, "opponent", model_folder(one)) for one in against]
    field = [*entrants, *(one for one in beside if all(one.name != other.name for other in entrants)), *opponents]
    matches = [Match(one.name, one.start, START, "start") for one in entrants if one.start]
    keys = _own_keys([one.name for one in opponents], {START, *(one.name for one in prompting)})
    matches += [
        Match(one.name, other.name, keys[other.name], "opponent")
        for other in opponents
        for one in entrants
        if one.name != other.name
    ]
    if prompting:
        ground = next(
            (one for one in field if one.name == entrants[0].start), replace(entrants[0], start=None, is_first=False)
        )
        prompted = [
            Entrant(f"{ground.name} + {one.name}", "prompted", ground.source, ground.is_base, one, ground.name)
            for one in prompting
        ]
        matches += [Match(one.name, ground.name, START, "start") for one in prompted]
        if ground.name != entrants[0].name:
            matches += [
                Match(entrants[0].name, one.name, way.name, "prompted")
                for one, way in zip(prompted, prompting, strict=True)
            ]
        field += prompted
    return Field(_by_source(field), tuple(matches))


@contextmanager
def seen_as(model: OpenModel, entrant: Entrant) -> Iterator[OpenModel]:
    """The open model as the entrant: with its name, and without its adapter where that is what answers."""
    if not entrant.is_base or model.frozen is None:
        yield replace(model, name=entrant.name)
        return
    with model.frozen.lend():
        yield replace(model, name=entrant.name, frozen=None)


def run_config(source: str) -> dict[str, Any]:
    """The settings of the run that a run folder, or the model folder within one, belongs to; empty without one."""
    place = Path(source).expanduser()
    for folder in (place, place.parent) if place.name == "model" else (place,):
        file = folder / "config.yaml"
        if file.is_file() and not (folder / "config.json").is_file():
            try:
                found = yaml.safe_load(file.read_text(encoding="utf-8"))
            except (OSError, ValueError, yaml.YAMLError):
                return {}
            return found if isinstance(found, dict) else {}
    return {}


def name_in_measures(name: str) -> str:
    """A model's name as part of a measure's name: the folder's, of RUN/model that of RUN."""
    place = Path(name)
    plain = place.parent.name if place.name == "model" and place.parent.name else place.name
    return _plain(plain or name) or "model"


def _own_keys(names: Sequence[str], taken: Collection[str]) -> dict[str, str]:
    """What opponents are called in the names of measures; those of one folder's name by their whole path."""
    plain = {name: name_in_measures(name) for name in names}
    met = Counter([*plain.values(), *taken])
    return {name: key if met[key] == 1 else _plain(name) for name, key in plain.items()}


def _plain(text: str) -> str:
    return re.sub(r"[^\w.-]+", "_", text).strip("_")


def _model(name: str, start: str | None, wants_start: bool) -> Entrant:
    source = model_folder(name)
    found = _start_of(source if Path(name).name == "model" else name, start) if wants_start else None
    if found == (source, False):  # it is the start
        found = None
    return Entrant(source, "model", source, start=None if found is None else _start_name(*found))


def _start_of(source: str, given: str | None) -> tuple[str, bool] | None:
    """What to open for a model's start, and whether its adapter is then off; None where that is not known."""
    if given is not None:
        return model_folder(given), False
    folder = model_folder(source)
    if is_adapter(folder):
        return folder, True
    named = run_config(source).get("model")
    return (named, False) if isinstance(named, str) and named and _is_there(named) else None


def _is_there(name: str) -> bool:
    try:
        find_config(resolve_source(name), ModelConfig(model=name))
    except PreftuneError:
        return False
    return True


def _start_name(source: str, is_base: bool) -> str:
    return f"{source} without its adapter" if is_base else source


def _by_source(entrants: Sequence[Entrant]) -> tuple[Entrant, ...]:
    """Those of one source beside each other, each name once; what others started from comes after these.

    The KL from a start is measured when that is open, over answers that are there by then.
    """
    starts = {one.start for one in entrants if one.prompting is None}
    late = {one.source for one in entrants if one.name in starts and not one.is_base}
    order = list(dict.fromkeys(sorted((one.source for one in entrants), key=lambda source: source in late)))
    once = {one.name: one for one in reversed(entrants)}
    return tuple(sorted(once.values(), key=lambda one: (order.index(one.source), entrants.index(one))))
