"""The mapping file: which column of a log is the prompt, the answer, the event, and what its events are called."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeAlias, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from preftune.errors import PreftuneError
from preftune.yaml_file import construct, line_of, read_mapping

Kind: TypeAlias = Literal[
    "impression", "click", "thumbs_up", "thumbs_down", "copy", "regenerate", "edit", "dwell", "session_end"
]
Meaning: TypeAlias = Literal[
    "impression", "click", "thumbs_up", "thumbs_down", "copy", "regenerate", "edit", "dwell", "session_end", "ignore"
]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
IGNORED: Final = "ignore"
PLACE_IN_LIST: Final = "#"

_FOLDER: Final = Path(__file__).parent / "mappings"
_Share: TypeAlias = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]
_Accuracy: TypeAlias = Annotated[float, Field(ge=0.5, lt=1, allow_inf_nan=False)]
_Amount: TypeAlias = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Constant(_Part):
    """One value for all rows."""

    constant: str


Place: TypeAlias = str | Constant


class Fields(_Part):
    """Where in a row our fields are: a column or a path, or a constant; None where the log has no such thing."""

    prompt: Place | None = None
    answer: Place | None = None
    answer_id: Place | None = None
    event: Place | None = None
    user: Place | None = None
    session: Place | None = None
    request: Place | None = None
    position: Place | None = None
    propensity: Place | None = None
    seconds: Place | None = None
    time: Place | None = None
    edited: Place | None = None
    slice: Place | None = None

    @field_validator("*", mode="before")
    @classmethod
    def _is_a_place(cls, value: Any) -> Any:
        if value is None or isinstance(value, str | Mapping | Constant):
            return value
        raise ValueError("give a column's name or path, or `{constant: ...}`")

    def given(self) -> dict[str, Place]:
        """The fields that the mapping places."""
        return {name: value for name in type(self).model_fields if (value := getattr(self, name)) is not None}


class SignalColumn(_Part):
    """A column that is a signal where it holds one of ``is_``, or without them where it is true."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    column: str
    is_: tuple[str, ...] = Field(default=(), alias="is")

    @field_validator("is_", mode="before")
    @classmethod
    def _as_words(cls, value: Any) -> Any:
        values = value if isinstance(value, list | tuple) else [value]
        return tuple(word(each) for each in values)


class Assumptions(_Part):
    """What is assumed where the log cannot show it.

    The accuracies are probabilities that a signal points the right way; where thumbs stand beside it, the log's own
    figure takes their place by degrees. They are cautious guesses, and no measurement of anybody's product.
    """

    prior: _Share = 0.5
    cap: _Accuracy = 0.95
    thumbs_agreement: _Accuracy = 0.7
    history_votes: _Amount = 10
    copy_: _Accuracy = Field(default=0.65, alias="copy")
    edit: _Accuracy = 0.8
    regenerate: _Accuracy = 0.65
    click: _Accuracy = 0.75
    dwell: _Accuracy = 0.58
    session: _Accuracy = 0.53
    tiny_edit: Annotated[float, Field(ge=0, lt=1)] = 0.02
    longest_dwell: _Amount = 1800
    clip: Annotated[float, Field(gt=1, allow_inf_nan=False)] = 20

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    def accuracy(self, kind: str) -> float:
        """The assumed accuracy of a signal that is no thumb."""
        return float(getattr(self, "copy_" if kind == "copy" else kind))


class LogMapping(_Part):
    """How a log is read; ``name`` is the file or the built-in mapping that says so.

    ``each`` is the list within a row whose items are the answers. ``events`` translates the names in the event column,
    ``signals`` are columns that are signals themselves. ``examination`` is how often each position is seen, where the
    user knows it. ``places`` is where each path stands in the file.
    """

    name: str = "given"
    places: dict[str, str] = Field(default_factory=dict)
    each: str | None = None
    fields: Fields
    events: dict[str, Meaning] = Field(default_factory=dict)
    signals: dict[Kind, SignalColumn] = Field(default_factory=dict)
    assumptions: Assumptions = Field(default_factory=Assumptions)
    examination: dict[int, Annotated[float, Field(gt=0, allow_inf_nan=False)]] = Field(default_factory=dict)
    exclude_users: frozenset[str] = frozenset()

    @field_validator("events", mode="before")
    @classmethod
    def _names_are_words(cls, value: Any) -> Any:
        return {word(name): kind for name, kind in value.items()} if isinstance(value, Mapping) else value

    @field_validator("signals", mode="before")
    @classmethod
    def _columns_are_signals(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        return {kind: {"column": column} if isinstance(column, str) else column for kind, column in value.items()}

    @field_validator("exclude_users", mode="before")
    @classmethod
    def _users_are_words(cls, value: Any) -> Any:
        return frozenset(word(user) for user in value) if isinstance(value, list | tuple | set | frozenset) else value

    @model_validator(mode="after")
    def _says_enough(self) -> LogMapping:
        if problem := _missing_part(self):
            raise ValueError(problem)
        return self

    def paths(self) -> dict[str, str]:
        """Every path that the mapping reads, by the key that names it: ``fields.prompt``, ``signals.click``."""
        fields = {f"fields.{name}": place for name, place in self.fields.given().items()}
        paths = {key: place for key, place in fields.items() if isinstance(place, str) and place != PLACE_IN_LIST}
        signals = {f"signals.{kind}": signal.column for kind, signal in self.signals.items()}
        return ({"each": self.each} if self.each else {}) | paths | signals


def load_mapping(given: str | Path | Mapping[str, Any] | LogMapping) -> LogMapping:
    """The mapping of a file, of a built-in name, or of a dict.

    Raises PreftuneError with file and line for what is unknown, missing or of another type.
    """
    if isinstance(given, LogMapping):
        return given
    if isinstance(given, Mapping):
        return _validated(dict(given), "the mapping", None)
    if str(given) in built_in_mappings():
        return _from_file(_FOLDER / f"{given}.yaml", name=str(given))
    file = Path(given).expanduser()
    if not file.exists():
        raise _no_such_mapping(str(given))
    return _from_file(file, name=file.name)


def built_in_mappings() -> tuple[str, ...]:
    """The names of the mappings that come with preftune."""
    return tuple(sorted(file.stem for file in _FOLDER.glob("*.yaml")))


def example_mapping(name: str = "events") -> str:
    """The commented text of a built-in mapping."""
    if name not in built_in_mappings():
        raise _no_such_mapping(name)
    return (_FOLDER / f"{name}.yaml").read_text(encoding="utf-8")


def word(value: object) -> str:
    """A value as the mapping file writes it: true, 1, up."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


def nearest(name: str, known: Sequence[str]) -> str:
    """The names near to this one, else the first few, as text."""
    # The last part of a path is what is most often misspelt or moved.
    last = re.split(r"[.\]]", name)[-1] or name
    found = difflib.get_close_matches(name, known, n=3, cutoff=0.5) or [one for one in known if last and last in one]
    return ", ".join(found[:3] or known[:8])


def _missing_part(mapping: LogMapping) -> str | None:
    fields = mapping.fields
    if fields.answer is None and fields.answer_id is None:
        return "fields has no answer; name the column with the answer's text"
    if fields.answer is not None and fields.prompt is None:
        return "fields has no prompt; name its column, or give `prompt: {constant: ...}`"
    if fields.answer is None:
        return "fields has no answer; an answer_id alone gives no text to write"
    if fields.event is None and not mapping.signals:
        return "nothing says what happened; give fields an event, or columns under signals"
    if fields.event is not None and not mapping.events:
        return "events is missing; translate the names in the event column, such as `liked: thumbs_up`"
    if fields.event is None and mapping.events:
        return "events translates names, but fields has no event column"
    for kind, name, needs in (
        ("dwell", "seconds", "how long the answer was read"),
        ("edit", "edited", "the text after the edit"),
    ):
        if kind in mapping.events.values() and getattr(fields, name) is None:
            return f"fields has no {name}, which a {kind} event needs: {needs}"
    if mapping.each is None and fields.position == PLACE_IN_LIST:
        return f'position: "{PLACE_IN_LIST}" is the place in a list, and there is no `each` that names one'
    return None


def _from_file(file: Path, name: str) -> LogMapping:
    document = read_mapping(file)
    if document.problems:
        raise document.problems[0]
    if document.root is None:
        mend = "`preftune make implicit --example-mapping` prints one to start from."
        raise PreftuneError("The mapping is empty.", where=str(file), mend=mend)
    values = construct(document.root)
    for own in ("name", "places"):
        if own in values:
            where = _place(file, document.root, (own,))
            raise PreftuneError(f"There is no key {own}.", where=where, mend="Delete it.")
    mapping = _validated(values | {"name": name}, str(file), document.root)
    places = {key: _place(file, document.root, key.split(".")) for key in mapping.paths()}
    return mapping.model_copy(update={"places": places})


def _validated(values: dict[str, Any], file: str, root: yaml.MappingNode | None) -> LogMapping:
    try:
        return LogMapping.model_validate(values)
    except ValidationError as error:
        problems = {
            (_place(file, root, each["loc"]), _what(each)): _mend(each)
            for each in error.errors(include_url=False, include_context=False)
        }
        errors = [PreftuneError(what, where=where, mend=mend) for (where, what), mend in problems.items()]
        raise errors[0] if len(errors) == 1 else PreftuneError("\n".join(map(str, errors))) from None


def _place(file: str | Path, root: yaml.MappingNode | None, loc: Sequence[int | str]) -> str:
    """File and line of the deepest key that the problem names."""
    node: yaml.Node | None = root
    line = None if root is None else line_of(root)
    for part in loc:
        if not isinstance(node, yaml.MappingNode):
            break
        found = next(((key, value) for key, value in node.value if getattr(key, "value", None) == str(part)), None)
        if found is None:
            break
        line, node = line_of(found[0]), found[1]
    return str(file) if line is None else f"{file}:{line}"


def _what(error: Any) -> str:
    key = ".".join(str(part) for part in error["loc"] if part not in ("str", "Constant", "[key]"))
    if error["type"] == "extra_forbidden":
        return f"There is no key {key}."
    if error["type"] == "missing":
        return f"The mapping has no {key}."
    if error["type"] == "literal_error":
        return f"{key}: {error['input']!r} is no event of ours."
    if error["type"] == "value_error":
        said = error["msg"].removeprefix("Value error, ")
        return f"{key}: {said}." if key else f"{said[0].upper()}{said[1:]}."
    return f"{key}: {error['msg']}, and it is {error['input']!r}."


def _mend(error: Any) -> str | None:
    if error["type"] == "literal_error":
        near = difflib.get_close_matches(str(error["input"]), (*KINDS, IGNORED), n=1)
        hint = f"Did you mean {near[0]}? " if near else ""
        return f"{hint}Known: {', '.join((*KINDS, IGNORED))}."
    if error["type"] == "extra_forbidden":
        known = list(_known_keys(error["loc"][:-1]))
        near = difflib.get_close_matches(str(error["loc"][-1]), known, n=1)
        return f"Did you mean {near[0]}?" if near else f"Known: {', '.join(known)}."
    if error["type"] in ("missing", "value_error"):
        return "`preftune make implicit --example-mapping` prints one to start from."
    return None


def _known_keys(loc: Sequence[int | str]) -> Iterator[str]:
    parts: dict[str, type[BaseModel]] = {"fields": Fields, "assumptions": Assumptions, "signals": SignalColumn}
    model = parts.get(str(loc[0]), Constant) if loc else LogMapping
    names = (field.alias or name for name, field in model.model_fields.items())
    return (name for name in names if model is not LogMapping or name not in ("name", "places"))


def _no_such_mapping(given: str) -> PreftuneError:
    names = built_in_mappings()
    near = difflib.get_close_matches(given, names, n=1)
    hint = f"Did you mean {near[0]}? " if near else ""
    mend = f"{hint}Give a YAML file, or one of {', '.join(names)}; --example-mapping prints one to start from."
    return PreftuneError("There is no such mapping.", where=given, mend=mend)
