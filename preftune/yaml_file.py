"""YAML as mappings whose keys know their lines, by the plain words of YAML 1.2; and settings back to text."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from preftune.errors import PreftuneError
from preftune.field_types import PLAIN_PATTERNS, fit_scalar, item_annotation, plain_kinds, plain_scalar


class Document(NamedTuple):
    """A file's mapping, None where the file is empty, and an error for each key that it gives twice."""

    root: yaml.MappingNode | None
    problems: list[PreftuneError]


def read_mapping(file: Path) -> Document:
    """The mapping that the file holds; PreftuneError for one that cannot be read or is no YAML mapping."""
    text = _read_text(file)
    with yaml_errors(file):
        root = _Loader(text).get_single_node()
        if root is None:
            return Document(None, [])
        if not isinstance(root, yaml.MappingNode):
            raise PreftuneError(
                "A config is a list of `key: value` lines.",
                where=f"{file}:{line_of(root)}",
                mend="Put a key before each value, for example `beta: 0.1`.",
            )
        return Document(root, [_repeated(file, *repeat) for repeat in _repeated_keys(root)])


def construct(node: yaml.Node, annotation: Any = Any) -> Any:
    """The node's value; unquoted words are read as what ``annotation`` takes, so `run_name: 12` is text."""
    kinds = plain_kinds(annotation)
    if isinstance(node, yaml.ScalarNode) and node.style is None and node.tag in _PLAIN_TAGS:
        return fit_scalar(node.value, kinds)
    if isinstance(node, yaml.SequenceNode) and list in kinds:
        item = item_annotation(annotation)
        return [construct(part, item) for part in node.value]
    return _Loader("").construct_document(node)


def line_of(node: yaml.Node) -> int:
    """The line on which the node begins, from 1."""
    return node.start_mark.line + 1


def dump(record: Mapping[str, Any]) -> str:
    """YAML text in the record's order, which ``read_mapping`` and any YAML reader read again."""
    return yaml.dump(dict(record), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


@contextmanager
def yaml_errors(file: Path) -> Iterator[None]:
    """Turns what a YAML reader raises on ``file`` into PreftuneError with its line."""
    try:
        yield
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise PreftuneError(
            f"This is not YAML: {error.problem or error.context}.",
            where=f"{file}:{mark.line + 1}" if mark else str(file),
            mend="Each setting is a line `key: value`; put text with special characters in quotes.",
        ) from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise PreftuneError(f"This is not YAML that can be read: {reason}.", where=str(file)) from error


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise PreftuneError(
            f"The config cannot be read: {error.strerror}.", where=str(file), mend="Check the path."
        ) from error
    except UnicodeDecodeError as error:
        raise PreftuneError("The config is not UTF-8 text.", where=str(file), mend="Save it as UTF-8.") from error


def _repeated_keys(node: yaml.Node, seen: set[int] | None = None) -> Iterator[tuple[str, int, int]]:
    """Each key that a mapping has twice, at any depth: key, first line, second line."""
    seen = set() if seen is None else seen
    if id(node) in seen:  # an alias may point back to where it stands
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _repeated_keys(item, seen)
    if isinstance(node, yaml.MappingNode):
        first: dict[str, int] = {}
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in first:
                yield key.value, first[key.value], line_of(key)
            elif isinstance(key, yaml.ScalarNode):
                first[key.value] = line_of(key)
            yield from _repeated_keys(value, seen)


def _repeated(file: Path, key: str, first: int, second: int) -> PreftuneError:
    return PreftuneError(
        f"{key} is given twice, in lines {first} and {second}.", where=f"{file}:{second}", mend="Keep one."
    )


_PLAIN_TAGS = frozenset({*PLAIN_PATTERNS, "tag:yaml.org,2002:str"})


class _Loader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2's plain words: in 1.1 `eval_strategy: no` is false and `1e-6` is text."""


class _Dumper(yaml.SafeDumper):
    """SafeDumper that puts text in quotes where YAML 1.1 or 1.2 would read it as something else."""


def _represent_text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    """Double quotes where a character needs escaping: PyYAML folds U+0085 and its like in other styles."""
    style = None if text.isprintable() else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)
_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern in PLAIN_PATTERNS.items():
    _Loader.add_implicit_resolver(_tag, _pattern, None)
    _Loader.add_constructor(_tag, lambda _loader, node: plain_scalar(node.value))
    _Dumper.add_implicit_resolver(_tag, _pattern, None)
_Loader.add_implicit_resolver("tag:yaml.org,2002:merge", re.compile(r"<<\Z"), ["<"])
