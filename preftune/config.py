"""Configs: a frozen pydantic model from a YAML file and the command line, and back to YAML.

Every config is flat, frozen and forbids extra fields. What is wrong with a file is told in one message, a
problem a line, each with its key, its place and its mend. TRL's keys are understood: see ``trl_keys``.
"""

from __future__ import annotations

import difflib
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Generic, NamedTuple, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from preftune.errors import PreftuneError
from preftune.field_types import expected, fit_scalar, plain_kinds
from preftune.trl_keys import NO_EFFECT, RENAMED, UNSUPPORTED
from preftune.yaml_file import construct, dump, line_of, read_mapping, yaml_errors

M = TypeVar("M", bound=BaseModel)

# What `config.yaml` of a run says beside the settings; read again, these are passed over.
RECORD_KEYS: Final = frozenset({"versions", "data_fingerprint", "method", "reference", "command", "parameters"})
COMMAND_LINE: Final = "command line"
_MISSING: Final = "Give --{name}, or a line `{name}: ...` in the config file."


@dataclass(frozen=True)
class Loaded(Generic[M]):
    """A config, what the user should be told about it, and the fields that the user set."""

    config: M
    notes: tuple[str, ...]
    given: frozenset[str]


class _Setting(NamedTuple):
    key: str  # as the user wrote it
    value: Any
    place: str | None  # "train.yaml:3", "command line", or None for values that the program brought

    @property
    def name(self) -> str:
        return shown_key(self.key, self.place)


class _Chosen(NamedTuple):
    settings: dict[str, _Setting]  # by our field names
    notes: list[str]
    problems: list[PreftuneError]


def load_config(
    cls: type[M], *, file: Path | None, values: Mapping[str, Any], base: Mapping[str, Any] | None = None
) -> Loaded[M]:
    """The config from ``base``, over it the YAML file, over it ``values`` of the command line.

    PreftuneError names each unknown or ill-typed key with its place and the nearest key or expected type.
    """
    from_base = {key: _Setting(key, value, None) for key, value in (base or {}).items()}
    in_file, file_problems = _read_settings(file, cls) if file else ([], [])
    from_file = _choose(in_file, cls, record_keys=RECORD_KEYS)
    from_line = _choose([_Setting(key, value, COMMAND_LINE) for key, value in values.items()], cls)
    return _layered(cls, from_base, [from_file, from_line], str(file) if file else None, _MISSING, file_problems)


def load_sections(
    cls: type[M], sections: Sequence[yaml.MappingNode], *, place: str, base: Mapping[str, Any]
) -> Loaded[M]:
    """The config from ``base``, over it each of a file's ``sections`` in turn; ``place`` names them before the line."""
    parts = [_choose(_settings_of(section, cls, place), cls) for section in sections]
    from_base = {key: _Setting(key, value, None) for key, value in base.items()}
    return _layered(cls, from_base, parts, f"{place}:{line_of(sections[-1])}", "Add a line `{name}: ...` to it.", [])


def translate(cls: type[BaseModel], values: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments with TRL's names as ours, as ``load_config`` reads a file; what it notes becomes a warning.

    PreftuneError names each unknown key with the nearest one, and what is not supported.
    """
    chosen = _choose([_Setting(key, value, None) for key, value in values.items()], cls)
    if chosen.problems:
        raise one_error(chosen.problems)
    for note in chosen.notes:
        warnings.warn(note, stacklevel=3)
    return {
        name: _as_list_or_item(setting.value, cls.model_fields[name].annotation)
        for name, setting in chosen.settings.items()
    }


def is_needed(field: FieldInfo) -> bool:
    """True for a field that a command must be given, also where Python code may leave it out."""
    extra = field.json_schema_extra
    return field.is_required() or (isinstance(extra, dict) and bool(extra.get("needed")))


def dump_config(config: BaseModel, extra: Mapping[str, Any]) -> str:
    """YAML text with every value, defaults included, then the extras; ``load_config`` reads it again."""
    unreadable = set(extra) - RECORD_KEYS
    if unreadable:
        raise ValueError(f"load_config would refuse {sorted(unreadable)}; RECORD_KEYS lists what it passes over.")
    record = {**config.model_dump(mode="json"), **extra}
    return dump(record)


def unknown_key(key: str, cls: type[BaseModel], place: str | None) -> PreftuneError:
    """The error for a key that no config has, with the nearest one that exists."""
    plain = key.strip().lower().replace("-", "_")
    nearest = difflib.get_close_matches(plain, known_keys(cls), n=1)
    mend = f"Did you mean {shown_key(nearest[0], place)}?" if nearest else "--help lists the settings."
    return PreftuneError(f"There is no setting {shown_key(key, place)}.", where=place, mend=mend)


def our_name(cls: type[BaseModel], key: str, value: Any) -> tuple[str, str] | None:
    """The field that another tool's key stands for in this config, and what else to say; None where it has none."""
    own: Any = own_names(cls).get(key)
    found: Any = own(value) if callable(own) else own or RENAMED.get(key)
    return found if found is not None and found[0] in cls.model_fields else None


def own_names(cls: type[BaseModel]) -> Mapping[str, Any]:
    """What the config itself says of other tools' keys: a field and a remark, or a function of the value to both."""
    return getattr(cls, "other_names", {})


def shown_key(key: str, place: str | None) -> str:
    """The key as the user types it there."""
    return f"--{key}" if place == COMMAND_LINE else key


def known_keys(cls: type[BaseModel]) -> list[str]:
    """Our field names first, then the TRL keys that are understood."""
    renamed = [key for key in {**own_names(cls), **RENAMED} if our_name(cls, key, None) is not None]
    return list(dict.fromkeys([*cls.model_fields, *renamed, *NO_EFFECT, *UNSUPPORTED]))


def one_error(problems: Sequence[PreftuneError]) -> PreftuneError:
    """The single problem, or all of them as one error, a line each."""
    if len(problems) == 1:
        return problems[0]
    return PreftuneError("\n".join(str(problem) for problem in problems))


def _layered(
    cls: type[M],
    base: Mapping[str, _Setting],
    parts: Sequence[_Chosen],
    place: str | None,
    missing: str,
    problems: Sequence[PreftuneError],
) -> Loaded[M]:
    """The config of ``base`` and over it each part; ``missing`` says how to give a setting that is needed."""
    settings = dict(base)
    for part in parts:
        settings |= part.settings
    config, invalid = _validate(cls, settings, place, missing)
    found = [*problems, *(problem for part in parts for problem in part.problems)]
    if found or config is None:
        raise one_error(sorted([*found, *invalid], key=_line_of_place))
    given = frozenset(name for part in parts for name in part.settings)
    return Loaded(config, tuple(note for part in parts for note in part.notes), given)


# --- the file -------------------------------------------------------------------------------------------


def _read_settings(file: Path, cls: type[BaseModel]) -> tuple[list[_Setting], list[PreftuneError]]:
    """The file's top-level settings with their lines, and the keys it gives twice."""
    root, problems = read_mapping(file)
    if root is None:
        return [], []
    with yaml_errors(file):
        settings = _settings_of(root, cls, str(file))
    return list({setting.key: setting for setting in settings}.values()), problems


def _settings_of(node: yaml.MappingNode, cls: type[BaseModel], place: str) -> list[_Setting]:
    return [_setting(key, value, cls, f"{place}:{line_of(key)}") for key, value in node.value]


def _setting(key: yaml.Node, node: yaml.Node, cls: type[BaseModel], place: str) -> _Setting:
    if not isinstance(key, yaml.ScalarNode):
        raise PreftuneError("A key is one word.", where=place, mend="Write `key: value`.")
    renamed = None if key.value in cls.model_fields else our_name(cls, key.value, None)
    field = cls.model_fields.get(key.value if renamed is None else renamed[0])
    return _Setting(key.value, construct(node, field.annotation if field else Any), place)


def _line_of_place(problem: PreftuneError) -> int:
    """For sorting: what has no line, the command line's among it, comes last."""
    line = (problem.where or "").rpartition(":")[2]
    return int(line) if line.isdecimal() else sys.maxsize


# --- which setting is whose -----------------------------------------------------------------------------


def _choose(settings: Sequence[_Setting], cls: type[BaseModel], record_keys: frozenset[str] = frozenset()) -> _Chosen:
    """The settings by our field names, with TRL's keys translated, noted or refused."""
    chosen = _Chosen({}, [], [])
    for setting in settings:
        key, value, place = setting
        is_ours = key in cls.model_fields
        if is_ours:
            _put(chosen, key, setting)
        elif key not in own_names(cls) and key in UNSUPPORTED and not _asks_nothing(value, UNSUPPORTED[key][0]):
            chosen.problems.append(_refused(setting))
        elif key in record_keys or (key in UNSUPPORTED and key not in own_names(cls)):
            continue
        elif (renamed := our_name(cls, key, value)) is not None:
            name, remark = renamed
            tail = f", {remark}." if remark else "."
            chosen.notes.append(f"{_before(place)}{setting.name} is read as {name}{tail}")
            _put(chosen, name, setting)
        elif key in NO_EFFECT:
            if value is not None:
                chosen.notes.append(f"{_before(place)}{setting.name} has no effect: {NO_EFFECT[key]}.")
        else:
            chosen.problems.append(unknown_key(key, cls, place))
    return chosen


def _before(place: str | None) -> str:
    return f"{place}: " if place else ""


def _put(chosen: _Chosen, name: str, setting: _Setting) -> None:
    """Keeps the setting; two names of one field may stand together only where they agree."""
    other = chosen.settings.setdefault(name, setting)
    if other.value != setting.value:
        chosen.problems.append(
            PreftuneError(
                f"{setting.name} and {other.name} are the same setting with different values.",
                where=setting.place,
                mend=f"Keep one, best as {name}.",
            )
        )


def _asks_nothing(value: Any, allowed: tuple[Any, ...]) -> bool:
    meant = fit_scalar(value, frozenset({bool, float, str})) if isinstance(value, str) else value
    return value is None or value in allowed or meant in allowed


def _refused(setting: _Setting) -> PreftuneError:
    what = f"{setting.name} is not supported as {_shown(setting.value)}."
    return PreftuneError(what, where=setting.place, mend=UNSUPPORTED[setting.key][1])


# --- are the values right -------------------------------------------------------------------------------


def _validate(
    cls: type[M], settings: Mapping[str, _Setting], place: str | None, missing: str
) -> tuple[M | None, list[PreftuneError]]:
    """The config, or what is wrong with the values: one problem a field."""
    problems: dict[str, PreftuneError] = {}
    values: dict[str, Any] = {}
    for name, setting in settings.items():
        annotation = cls.model_fields[name].annotation if name in cls.model_fields else Any
        values[name] = _as_list_or_item(setting.value, annotation)
        # Pydantic would take true for 1.
        if isinstance(setting.value, bool) and not plain_kinds(annotation) & {bool, object}:
            problems[name] = _ill_typed(setting, name, annotation)
    for name, field in cls.model_fields.items():
        if is_needed(field) and name not in values:
            problems[name] = PreftuneError(f"{name} is not given.", where=place, mend=missing.format(name=name))
    try:
        config = cls.model_validate(values)
    except ValidationError as error:
        for detail in error.errors():
            name = str(detail["loc"][0]) if detail["loc"] else ""
            problems.setdefault(name, _invalid(cls, name, detail, settings, place))
        return None, list(problems.values())
    return (None if problems else config), list(problems.values())


def _as_list_or_item(value: Any, annotation: Any) -> Any:
    """`report_to: wandb` for a field of lists, and TRL's `loss_type: [sigmoid]` for a field of one."""
    kinds = plain_kinds(annotation)
    if object in kinds:
        return value
    if isinstance(value, list) and len(value) == 1 and list not in kinds:
        return value[0]
    if isinstance(value, str) and list in kinds and str not in kinds:
        return [value]
    return value


def _invalid(
    cls: type[BaseModel],
    name: str,
    detail: ErrorDetails,
    settings: Mapping[str, _Setting],
    place: str | None,
) -> PreftuneError:
    message = detail["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    message = message if message.endswith((".", "?", "!")) else f"{message}."
    if not name:
        return PreftuneError(message, where=place)
    setting = settings.get(name, _Setting(name, detail["input"], None))
    if name not in cls.model_fields:
        return unknown_key(name, cls, setting.place)
    if detail["type"] in ("value_error", "assertion_error"):
        told = message if name in message else f"{setting.name}: {message}"
        return PreftuneError(told, where=setting.place)
    if message.startswith("Input should be ") and detail["type"].startswith(("greater_", "less_")):
        told = message.removeprefix("Input ").removesuffix(".")
        return PreftuneError(f"{setting.name} {told}, not {_shown(setting.value)}.", where=setting.place)
    return _ill_typed(setting, name, cls.model_fields[name].annotation)


def _ill_typed(setting: _Setting, name: str, annotation: Any) -> PreftuneError:
    what = f"{setting.name} should be {expected(annotation)}, not {_shown(setting.value)}."
    mend = UNSUPPORTED[name][1] if name in UNSUPPORTED else None
    return PreftuneError(what, where=setting.place, mend=mend)


def _shown(value: Any) -> str:
    words = {True: "true", False: "false", None: "null"}
    text = words[value] if value is None or isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
