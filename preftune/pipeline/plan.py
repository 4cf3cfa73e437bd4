"""A pipeline file as the stages it asks for, each with its whole config; wrong files are refused here.

    output_dir: runs/rlhf
    model: Qwen/Qwen3-0.6B            # what the first stage starts from
    defaults: {use_peft: true}        # settings of every stage that knows them
    stages:
      - sft: {data: demonstrations.jsonl}
      - reward: {data: pairs.jsonl}
      - ppo: {data: prompts.jsonl, reward_funcs: [reward]}

A stage starts from the model of the last stage before it that trained a policy. Where a model is wanted, the name of
an earlier stage stands for the model it makes; a stage is called by its method unless it has a ``name``.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import yaml

from preftune.config import known_keys, load_sections, one_error
from preftune.errors import PreftuneError
from preftune.methods.registry import METHODS
from preftune.methods.settings import RunConfig
from preftune.pipeline.places import check_places
from preftune.yaml_file import construct, line_of, read_mapping, yaml_errors

MODEL = "model"  # the folder of a run's model within the run's
REWARD_METHODS: Final = frozenset({"reward"})  # all others train a policy
# The settings that take a model, and which kind of an earlier stage's: None for either.
MODEL_SETTINGS: Final[dict[str, str | None]] = {
    "model": None,
    "ref_model": "policy",
    "reward_model": "reward model",
    "reward_funcs": "reward model",
    "value_model": None,
}
_TOP = ("output_dir", "model", "defaults", "stages")
_RESERVED = ("output_dir", "output", "resume")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_FORM = "A stage is `- METHOD: {setting: value, ...}`, for example `- sft: {data: demonstrations.jsonl}`."


@dataclass(frozen=True)
class Stage:
    """One run of a pipeline; ``uses`` gives, by the folder of each model of earlier stages it takes, their names.

    ``given`` are the settings that the file gives, for this stage or for all.
    """

    number: int
    name: str
    method: str
    config: RunConfig
    uses: Mapping[str, str]
    given: frozenset[str]

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return Path(self.config.output_dir)

    @property
    def model(self) -> Path:
        """Where the model lies that this stage makes."""
        return self.folder / MODEL

    @property
    def trains(self) -> str:
        """What it makes: a policy or a reward model."""
        return "reward model" if self.method in REWARD_METHODS else "policy"


@dataclass(frozen=True)
class Plan:
    """A pipeline as it is to be run; ``notes`` say what of the file was read under another name."""

    file: Path
    output: Path
    stages: tuple[Stage, ...]
    notes: tuple[str, ...]

    def stage(self, name: str) -> Stage:
        """The stage of that name; PreftuneError names the nearest one."""
        found = next((stage for stage in self.stages if stage.name == name), None)
        if found is None:
            names = [stage.name for stage in self.stages]
            raise PreftuneError(f"There is no stage {name}.", where=str(self.file), mend=_nearest(name, names))
        return found


class _Asked(NamedTuple):
    """A stage as the file writes it."""

    name: str
    method: str
    cls: type[RunConfig]
    settings: yaml.MappingNode  # without its name
    line: int


def read_plan(file: Path, output: Path | None = None) -> Plan:
    """The plan of the pipeline file, into ``output`` or else into the folder that the file names.

    PreftuneError names all that is wrong with it, each with stage, line and mend: keys, values, names of stages,
    data and models that are not there. No model is loaded, no row is read.
    """
    root, repeated = read_mapping(file)
    if repeated:
        raise one_error(repeated)
    with yaml_errors(file):
        top = _top_level(root, file)
        asked = _asked_stages(top["stages"], file)
        defaults = _defaults(top.get("defaults"), asked, file)
        start = construct(top["model"], str) if "model" in top else None
        folder = output or _output(top, file)
        return _plan(file, folder, start, defaults, asked)


# --- the file's form ------------------------------------------------------------------------------------


def _top_level(root: yaml.MappingNode | None, file: Path) -> dict[str, yaml.Node]:
    keys = {} if root is None else {str(getattr(key, "value", "")): (key, node) for key, node in root.value}
    unknown = [(name, key) for name, (key, _) in keys.items() if name not in _TOP]
    problems = [
        PreftuneError(
            f"A pipeline has no key {name}.",
            where=f"{file}:{line_of(key)}",
            mend=f"{_nearest(name, _TOP)} Settings of several stages go under defaults.",
        )
        for name, key in unknown
    ]
    if "stages" not in keys:
        problems.append(PreftuneError("stages is not given.", where=str(file), mend=f"List them. {_FORM}"))
    if problems:
        raise one_error(problems)
    return {name: node for name, (_, node) in keys.items()}


def _output(top: Mapping[str, yaml.Node], file: Path) -> Path:
    if "output_dir" not in top:
        mend = "Give --output, or a line `output_dir: ...` at the top of the file."
        raise PreftuneError("output_dir is not given.", where=str(file), mend=mend)
    return Path(str(construct(top["output_dir"], str)))


def _asked_stages(node: yaml.Node, file: Path) -> list[_Asked]:
    """The stages by their names; raises for each that is not formed as one."""
    if not isinstance(node, yaml.SequenceNode) or not node.value:
        raise PreftuneError("stages is no list.", where=f"{file}:{line_of(node)}", mend=_FORM)
    problems: list[PreftuneError] = []
    asked: list[_Asked] = []
    for item in node.value:
        try:
            asked.append(_asked(item, file))
        except PreftuneError as problem:
            problems.append(problem)
    problems += _same_names(asked, file)
    if problems:
        raise one_error(problems)
    return asked


def _asked(item: yaml.Node, file: Path) -> _Asked:
    place = f"{file}:{line_of(item)}"
    if not isinstance(item, yaml.MappingNode) or not item.value:
        raise PreftuneError("This is no stage.", where=place, mend=_FORM)
    key, body = item.value[0]
    method = str(getattr(key, "value", ""))
    if method not in METHODS:
        raise PreftuneError(f"There is no method {method}.", where=place, mend=_nearest(method, METHODS))
    if len(item.value) > 1:
        what = f"Beside {method} stands {item.value[1][0].value}: a stage has one key, its method."
        raise PreftuneError(what, where=place, mend=f"Indent the settings below {method}, or put them in braces.")
    if isinstance(body, yaml.ScalarNode) and construct(body) is None:
        body = yaml.MappingNode(tag="tag:yaml.org,2002:map", value=[], start_mark=item.start_mark)
    if not isinstance(body, yaml.MappingNode):
        raise PreftuneError(f"The settings of {method} are no mapping.", where=place, mend=_FORM)
    cls = METHODS[method].config_class()
    _require_own_places(body, place)
    return _Asked(_name(body, method, place), method, cls, _without(body, {"name"}), line_of(item))


def _name(body: yaml.MappingNode, method: str, place: str) -> str:
    name = next((construct(node, str) for key, node in body.value if key.value == "name"), method)
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        mend = "Use letters, digits, - and _: the stage's folder is called so."
        raise PreftuneError(f"{name!r} cannot be the name of a stage.", where=place, mend=mend)
    return name


def _require_own_places(body: yaml.MappingNode, place: str) -> None:
    """Where a stage writes and whether it resumes is not for its settings to say."""
    reserved = [key.value for key, _ in body.value if key.value in _RESERVED]
    if reserved:
        mend = "Leave it out: each stage has a folder of its own in the pipeline's, and goes on by itself."
        raise PreftuneError(f"{reserved[0]} is no setting of a stage.", where=place, mend=mend)


def _same_names(asked: Sequence[_Asked], file: Path) -> list[PreftuneError]:
    first: dict[str, int] = {}
    problems = []
    for stage in asked:
        if stage.name in first:
            what = f"Two stages are called {stage.name}, in lines {first[stage.name]} and {stage.line}."
            mend = f"Name one, for example `- {stage.method}: {{name: {stage.name}-2, ...}}`."
            problems.append(PreftuneError(what, where=f"{file}:{stage.line}", mend=mend))
        first.setdefault(stage.name, stage.line)
    return problems


def _defaults(node: yaml.Node | None, asked: Sequence[_Asked], file: Path) -> yaml.MappingNode | None:
    """The settings of every stage; raises for those that no stage knows or that belong elsewhere."""
    if node is None or (isinstance(node, yaml.ScalarNode) and construct(node) is None):
        return None
    if not isinstance(node, yaml.MappingNode):
        raise PreftuneError("defaults is no mapping.", where=f"{file}:{line_of(node)}", mend="Write `key: value`.")
    _require_own_places(node, f"{file}:{line_of(node)}")
    known = {key for stage in asked for key in known_keys(stage.cls)}
    problems = []
    for key, _ in node.value:
        place = f"{file}:{line_of(key)}"
        if key.value == "model":
            mend = "Put it at the top of the file; later stages start from the model before them."
            problems.append(PreftuneError("model is no default.", where=place, mend=mend))
        elif key.value not in known:
            near = difflib.get_close_matches(key.value, sorted(known), n=1)
            mend = f"Did you mean {near[0]}?" if near else "The --help of a method lists its settings."
            problems.append(PreftuneError(f"No stage has a setting {key.value}.", where=place, mend=mend))
    if problems:
        raise one_error(problems)
    return node


# --- the stages -----------------------------------------------------------------------------------------


def _plan(
    file: Path, output: Path, start: str | None, defaults: yaml.MappingNode | None, asked: Sequence[_Asked]
) -> Plan:
    stages: list[Stage] = []
    notes: list[str] = []
    problems: list[PreftuneError] = []
    for number, one in enumerate(asked, start=1):
        place = f"stage {one.name} of {file}"
        folder = output / f"{number:02d}-{one.name}"
        policy = next((stage for stage in reversed(stages) if stage.trains == "policy"), None)
        before = start if policy is None else policy.name
        base = {"output_dir": str(folder)} | ({} if before is None else {"model": before})
        shared = [] if defaults is None else [_only(defaults, known_keys(one.cls))]
        try:
            loaded = load_sections(one.cls, [*shared, one.settings], place=place, base=base)
            later = [other.name for other in asked[number - 1 :]]
            config, uses = _with_models(loaded.config, one.method, stages, later, f"{place}:{one.line}")
            check_places(config, uses, f"{place}:{one.line}")
        except PreftuneError as problem:
            problems.append(problem)
            config, uses = one.cls.model_construct(None, **base), {}  # so that later stages are looked at too
            stages.append(Stage(number, one.name, one.method, config, uses, frozenset()))
            continue
        stages.append(Stage(number, one.name, one.method, config, uses, loaded.given))
        notes += loaded.notes
    if problems:
        raise one_error(problems)
    return Plan(file, output, tuple(stages), tuple(dict.fromkeys(notes)))


def _with_models(
    config: RunConfig, method: str, earlier: Sequence[Stage], later: Sequence[str], place: str
) -> tuple[RunConfig, dict[str, str]]:
    """The config with names of earlier stages replaced by the folders of their models, and which stands for which."""
    by_name = {stage.name: stage for stage in earlier}
    uses: dict[str, str] = {}
    changed: dict[str, Any] = {}

    def resolved(field: str, value: str) -> str:
        if value in by_name:
            stage = by_name[value]
            _require_kind(field, stage, method, place)
            uses[str(stage.model)] = stage.name
            return str(stage.model)
        if value in later and not Path(value).exists():
            mend = "A stage can use the models of those before it: change their order."
            raise PreftuneError(f"{field}: {value} does not come before this stage.", where=place, mend=mend)
        return value

    for field in MODEL_SETTINGS.keys() & type(config).model_fields.keys():
        value = getattr(config, field)
        if isinstance(value, str):
            changed[field] = resolved(field, value)
        elif isinstance(value, tuple | list):
            changed[field] = type(value)(resolved(field, one) if isinstance(one, str) else one for one in value)
    return config.model_copy(update=changed), uses


def _require_kind(field: str, stage: Stage, method: str, place: str) -> None:
    """Raises where a reward model would be trained as a policy, or a policy asked for scores."""
    is_start = field == "model" and method not in REWARD_METHODS
    wanted = "policy" if is_start else MODEL_SETTINGS[field]
    if wanted not in (None, stage.trains):
        mend = f"Name a stage that trains a {wanted}, or a folder."
        what = f"{field}: stage {stage.name} trains a {stage.trains}, and a {wanted} is wanted."
        raise PreftuneError(what, where=place, mend=mend)


# --- nodes ----------------------------------------------------------------------------------------------


def _only(node: yaml.MappingNode, keys: Iterable[str]) -> yaml.MappingNode:
    wanted = set(keys)
    return _copy(node, [(key, value) for key, value in node.value if key.value in wanted])


def _without(node: yaml.MappingNode, keys: Iterable[str]) -> yaml.MappingNode:
    unwanted = set(keys)
    return _copy(node, [(key, value) for key, value in node.value if key.value not in unwanted])


def _copy(node: yaml.MappingNode, pairs: list[tuple[yaml.Node, yaml.Node]]) -> yaml.MappingNode:
    return yaml.MappingNode(tag=node.tag, value=pairs, start_mark=node.start_mark, end_mark=node.end_mark)


def _nearest(word: str, known: Iterable[str]) -> str:
    names = list(known)
    near = difflib.get_close_matches(word, names, n=1)
    return f"Did you mean {near[0]}?" if near else f"Known are {', '.join(names)}."
