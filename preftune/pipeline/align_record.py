"""``align.json``: what was decided on the whole way, with the figures it rests on; written at every turn."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from preftune.durable import write_json
from preftune.errors import PreftuneError

FILE, FORMAT = "align.json", 1
# Options that may change from call to call: what they bear on is decided again.
FREE: Final = frozenset({"gate", "budget_minutes", "online"})


@dataclass
class Story:
    """The way so far. ``decisions`` are in their order, by name; ``minutes`` were spent in all calls together."""

    folder: Path
    options: dict[str, Any]
    decisions: dict[str, dict[str, Any]] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)
    minutes: float = 0.0
    _met: set[str] = field(default_factory=set)
    _mark: float = field(default_factory=time.monotonic)

    def decide(self, name: str, title: str, rests_on: Mapping[str, Any], make: Callable[[], Decided]) -> dict[str, Any]:
        """The decision of that name: as recorded where it rests on the same, else made and written."""
        self._met.add(name)
        known = self.decisions.get(name)
        if known is not None and known["rests_on"] == json.loads(json.dumps(dict(rests_on))):
            return known
        made = make()
        self.decisions[name] = {
            "name": name,
            "title": title,
            "rests_on": dict(rests_on),
            "choice": made.choice,
            "why": made.why,
            "figures": made.figures,
        }
        self.write()
        return self.decisions[name]

    def finish(self) -> None:
        """Forgets decisions that this call did not come by: the way has taken another turn since."""
        self.decisions = {name: one for name, one in self.decisions.items() if name in self._met}
        self.about["finished"] = True
        self.write()

    def write(self) -> None:
        """Puts the record into the folder, whole or not at all."""
        now = time.monotonic()
        self.minutes, self._mark = self.minutes + (now - self._mark) / 60, now
        document = {
            "format": FORMAT,
            "options": self.options,
            "decisions": list(self.decisions.values()),
            "minutes": self.minutes,
            **self.about,
        }
        write_json(self.folder / FILE, document)


@dataclass(frozen=True)
class Decided:
    """A choice, the reason in a sentence or two, and the figures behind it."""

    choice: Any
    why: str
    figures: Mapping[str, Any]


def open_story(folder: Path, options: Mapping[str, Any]) -> Story:
    """The story of the folder, or a new one; PreftuneError where it was begun with other options."""
    plain = json.loads(json.dumps(dict(options)))
    file = folder / FILE
    if not file.is_file():
        return Story(folder, plain)
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        decisions = {str(one["name"]): one for one in document["decisions"] if "rests_on" in one}
        was = dict(document["options"])
        minutes = float(document["minutes"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        mend = "Put back an intact copy, or choose another --output."
        raise PreftuneError(f"The record cannot be read ({error}).", where=str(file), mend=mend) from error
    changed = [name for name in plain if name not in FREE and plain[name] != was.get(name)]
    if changed:
        told = "; ".join(f"{name} was {was.get(name)!r}, is {plain[name]!r}" for name in changed)
        mend = "Choose another --output, or go on with what it was begun with."
        raise PreftuneError(f"This way was begun with other options: {told}.", where=str(folder), mend=mend)
    about = {key: document[key] for key in document if key not in ("format", "options", "decisions", "minutes")}
    return Story(folder, plain, decisions, about, minutes)
