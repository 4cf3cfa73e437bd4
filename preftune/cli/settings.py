"""A config's fields as command-line options: their names, their values and their help."""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from preftune.config import COMMAND_LINE, Loaded, is_needed, known_keys, load_config, one_error, unknown_key
from preftune.errors import PreftuneError
from preftune.field_types import expected, fit_scalar, item_annotation, plain_kinds

M = TypeVar("M", bound=BaseModel)

ALIASES: Final = {"output": "output_dir", "o": "output_dir"}

# The headings of the help; a field that stands under none of them is the method's own.
SECTIONS: Final[dict[str, str]] = {
    "Model": "model tokenizer revision dtype bf16 fp16 attn_implementation trust_remote_code "
    "chat_template_path ref_model precompute_ref_log_probs disable_dropout",
    "Data": "data eval_data eval_fraction split eval_split limit max_length truncation_mode train_sampling_strategy",
    "Adapter": "use_peft lora_r lora_alpha lora_dropout lora_target_modules lora_modules_to_save use_dora use_rslora",
    "Training": "num_train_epochs max_steps per_device_train_batch_size gradient_accumulation_steps "
    "learning_rate lr_scheduler_type lr_scheduler_kwargs warmup_steps warmup_ratio optim weight_decay "
    "adam_beta1 adam_beta2 adam_epsilon max_grad_norm gradient_checkpointing seed",
    "Evaluation": "eval_strategy eval_steps per_device_eval_batch_size num_samples num_completions max_new_tokens",
    "Findings": "stop_on kl_cap",
    "Files and logs": "output_dir resume save_strategy save_steps save_total_limit logging_steps report_to run_name",
}


class _Option(NamedTuple):
    name: str  # a config key
    values: list[str]
    negated: bool = False  # written --no-name


def load_settings(tokens: Sequence[str], cls: type[M]) -> Loaded[M]:
    """The config from ``--config FILE`` among the tokens, and over it every ``--name value``."""
    file, rest = take_config_file(tokens)
    return load_config(cls, file=file, values=parse_settings(rest, cls))


def asks_for_help(tokens: Sequence[str]) -> bool:
    """Whether ``settings_help`` is what the user wants."""
    return "--help" in tokens or "-h" in tokens


def take_config_file(tokens: Sequence[str]) -> tuple[Path | None, list[str]]:
    """The file named by ``--config``, the last where there are several, and the other tokens."""
    file, rest, remaining = None, [], iter(tokens)
    for token in remaining:
        name, equals, value = token.partition("=")
        if name != "--config":
            rest.append(token)
            continue
        value = value if equals else next(remaining, "")
        if not value or value.startswith("--"):
            raise _wrong("--config needs a file.", "For example --config dpo.yaml.")
        file = Path(value)
    return file, rest


def parse_settings(tokens: Sequence[str], cls: type[BaseModel]) -> dict[str, Any]:
    """The values given as ``--name value``, by config key, for ``load_config`` to check.

    ``--learning-rate`` is ``--learning_rate``; a switch is ``--bf16``, ``--bf16 true`` or ``--no-bf16``; a
    list takes several values; a mapping is written as YAML or JSON. Of an option given twice the last counts.
    PreftuneError names all options that do not exist, each with the nearest one that does.
    """
    given: dict[str, Any] = {}
    problems: list[PreftuneError] = []
    for option in _options(tokens, cls):
        try:
            given[option.name] = _value(option, cls)
        except PreftuneError as problem:
            problems.append(problem)
    if problems:
        raise one_error(problems)
    return given


def settings_help(cls: type[BaseModel], command: str = "dpo") -> str:
    """Help text with an example and every field: its type, description and default, in groups."""
    width = min(shutil.get_terminal_size().columns, 110)
    use = f"Usage: preftune {command} --model M --data D --output DIR [--config C.yaml] [--any-setting VALUE]"
    is_online = "reward_funcs" in cls.model_fields
    example = f"preftune {command} --model Qwen/Qwen3-0.6B --data {'prompts' if is_online else 'pairs'}.jsonl"
    example += " --reward_funcs accuracy --output out" if is_online else " --output out"
    first_line = (cls.__doc__ or "").strip().partition("\n")[0]
    parts = [use, first_line, f"Example:\n  {example}", _commons(width)]
    parts += [_section(title, fields, width) for title, fields in _sections(cls)]
    return "\n\n".join(part for part in parts if part)


# --- tokens ---------------------------------------------------------------------------------------------


def _options(tokens: Sequence[str], cls: type[BaseModel]) -> Iterator[_Option]:
    """The tokens as options with their values."""
    position = 0
    while position < len(tokens):
        token = tokens[position]
        if not _is_option(token):
            raise _wrong(f"{token!r} follows no option.", f"Name what it is, for example --data {token}.")
        name, equals, value = token.partition("=")
        end = position + 1
        while not equals and end < len(tokens) and not _is_option(tokens[end]):
            end += 1
        yield _named(name, [value] if equals else list(tokens[position + 1 : end]), cls)
        position = end


def _is_option(token: str) -> bool:
    return re.match(r"--?[A-Za-z]", token) is not None  # -1 and -.5 are values


def _named(token: str, values: list[str], cls: type[BaseModel]) -> _Option:
    name = token.lstrip("-").replace("-", "_")
    name = ALIASES.get(name, name)
    known = known_keys(cls)
    if name not in known and name.removeprefix("no_") in known:
        return _Option(name.removeprefix("no_"), values, negated=True)
    return _Option(name, values)


def _value(option: _Option, cls: type[BaseModel]) -> Any:
    name, values, negated = option
    if name not in known_keys(cls):
        raise unknown_key(name, cls, COMMAND_LINE)
    annotation = cls.model_fields[name].annotation if name in cls.model_fields else Any
    kinds = plain_kinds(annotation)
    if negated:
        return _negated(option, kinds)
    if not values and kinds & {bool, object}:
        return True
    if list in kinds and (len(values) != 1 or str not in kinds):
        item = plain_kinds(item_annotation(annotation))
        return [fit_scalar(value, item) for value in values]
    if not values:
        raise _wrong(f"--{name} needs a value: {expected(annotation)}.")
    if len(values) > 1 and object in kinds:
        return [fit_scalar(value, kinds) for value in values]
    if len(values) > 1:
        raise _wrong(f"--{name} takes one value, not {len(values)}: {' '.join(values)}.")
    return _mapping(name, values[0]) if dict in kinds else fit_scalar(values[0], kinds)


def _negated(option: _Option, kinds: frozenset[type]) -> bool:
    if option.values:
        raise _wrong(f"--no-{option.name} takes no value.")
    if not kinds & {bool, object}:
        raise _wrong(f"--{option.name} is no switch.", f"Give --{option.name} a value.")
    return False


def _mapping(name: str, text: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise _wrong(f"--{name} is not a mapping.", f"""For example --{name} '{{"key": 1}}'.""") from error


def _wrong(what: str, mend: str | None = None) -> PreftuneError:
    return PreftuneError(what, where=COMMAND_LINE, mend=mend)


# --- help -----------------------------------------------------------------------------------------------


def _sections(cls: type[BaseModel]) -> Iterator[tuple[str, dict[str, FieldInfo]]]:
    """The sections with their fields: Model and Data first, then the method's own, then the others."""
    listed = {title: names.split() for title, names in SECTIONS.items()}
    placed = {name for names in listed.values() for name in names}
    own = [name for name in cls.model_fields if name not in placed]
    for title in ("Model", "Data", "Method", *list(listed)[2:]):
        names = own if title == "Method" else listed[title]
        fields = {name: cls.model_fields[name] for name in names if name in cls.model_fields}
        if fields:
            yield title, fields


def _commons(width: int) -> str:
    lines = [
        _entry("--config FILE", "YAML file with settings; those given on the command line go over it.", width),
        _entry("--json", "The result as one JSON document on standard output.", width),
        _entry("--debug", "The traceback of an error.", width),
    ]
    return "\n".join(["For every setting --a_name and --a-name are the same.", *lines])


def _section(title: str, fields: dict[str, FieldInfo], width: int) -> str:
    return "\n".join([title, *(_entry(_head(name, field), _about(field), width) for name, field in fields.items())])


def _head(name: str, field: FieldInfo) -> str:
    kinds = plain_kinds(field.annotation)
    shown = next((alias for alias, target in ALIASES.items() if target == name and len(alias) > 1), name)
    if kinds & {bool}:
        return f"--{shown}, --no-{shown}"
    words = {int: "N", float: "X", str: "TEXT", list: "TEXT ...", dict: "MAPPING", object: "VALUE"}
    return f"--{shown} {words[next(kind for kind in (list, dict, float, int, str, object) if kind in kinds)]}"


def _about(field: FieldInfo) -> str:
    choices = expected(field.annotation) if "one of " in expected(field.annotation) else ""
    facts = [choices] if choices else []
    if is_needed(field):
        facts.append("required")
    elif (default := field.get_default(call_default_factory=False)) is not None:
        facts.append(f"default {_default(default)}")
    text = field.description or ""
    return f"{text} [{'; '.join(facts)}]".strip() if facts else text


def _default(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple, dict)):
        return " ".join(map(str, value)) or "none"
    return str(value)


def _entry(head: str, about: str, width: int) -> str:
    """The option, and from column 36 on what it is about."""
    column = 36
    lines = textwrap.wrap(about, max(width - column, 24), break_on_hyphens=False) or [""]
    first = f"  {head:<{column - 4}}  {lines[0]}" if len(head) <= column - 4 else f"  {head}"
    rest = lines[1:] if len(head) <= column - 4 else lines
    return "\n".join([first.rstrip(), *(" " * column + line for line in rest)])
