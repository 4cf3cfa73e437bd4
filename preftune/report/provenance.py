"""Where the figures come from: settings, versions, the check of the reference, and how to load the model."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from preftune.report.measures import show_plain
from preftune.report.run_files import RunFiles, finite, mapping

_HASH = re.compile(r"(\w+:)?[0-9a-f]{8,128}", re.IGNORECASE)
_NOT_SETTINGS = {"versions", "reference", "command"}
_DEEPEST = 4


@dataclass(frozen=True)
class ReferenceCheck:
    """Whether the reference stayed what it was; ``is_same`` is None where fewer than two hashes are known."""

    is_same: bool | None
    sentence: str
    entries: list[tuple[str, str]]


@dataclass(frozen=True)
class Settings:
    """The settings and versions of the run as label and value, and the command that started it."""

    settings: list[tuple[str, str]]
    versions: list[tuple[str, str]]
    command: str


def view_reference(config: Mapping[str, Any], evaluation: Mapping[str, Any]) -> ReferenceCheck:
    """Compares every hash of the reference that settings and evaluation hold.

    ``checks`` of the record counts how often the hash was taken; where it says once, that is no check.
    """
    records = {"": config.get("reference"), "evaluation: ": evaluation.get("reference")}
    entries = [(f"{place}{label}", text) for place, record in records.items() for label, text in _leaves(record)]
    hashes = [text.lower() for label, text in entries if _is_hash(label, text)]
    counts = [count for record in records.values() if (count := finite(mapping(record).get("checks"))) is not None]
    checks = int(max(counts, default=len(hashes)))
    if len(set(hashes)) > 1:
        sentence = "The reference moved: its hashes differ, so rewards and KL of this run cannot be trusted."
        return ReferenceCheck(False, sentence, entries)
    if checks < 2 or len(hashes) < 2:
        return ReferenceCheck(None, "Not checked: no second hash of the reference is on record.", entries)
    sentence = f"The reference did not move: its hash was the same at {checks} checks, the first at the start."
    return ReferenceCheck(True, sentence, entries)


def view_settings(config: Mapping[str, Any]) -> Settings:
    """Everything config.yaml holds, nested settings with dotted names."""
    own = {key: value for key, value in config.items() if key not in _NOT_SETTINGS}
    command = config.get("command")
    return Settings(
        settings=list(_leaves(own)),
        versions=list(_leaves(mapping(config.get("versions")))),
        command=" ".join(map(str, command)) if isinstance(command, list) else str(command or ""),
    )


def loading_code(files: RunFiles) -> str:
    """Python that loads the run's model, or nothing where there is none."""
    path = repr(str(files.folder / "model"))
    if files.model_kind is None:
        return ""
    is_scorer = files.config.get("method") == "reward"
    task = "SequenceClassification" if is_scorer else "CausalLM"
    if files.model_kind == "adapter":
        loader = f"AutoPeftModelFor{task}"
        imports = f"from peft import {loader}\nfrom transformers import AutoTokenizer"
        labels = ", num_labels=1" if is_scorer else ""  # its base says two, as transformers' default is
    else:
        loader, labels = f"AutoModelFor{task}", ""
        imports = f"from transformers import {loader}, AutoTokenizer"
    model = f"model = {loader}.from_pretrained(path{labels})"
    return f"{imports}\n\npath = {path}\n{model}\ntokenizer = AutoTokenizer.from_pretrained(path)"


def _leaves(value: Any, label: str = "", depth: int = 0) -> Iterator[tuple[str, str]]:
    """Dotted name and text of every value; nothing for None."""
    if isinstance(value, Mapping) and value and depth < _DEEPEST:
        for key, part in value.items():
            yield from _leaves(part, f"{label}.{key}" if label else str(key), depth + 1)
    elif value is not None or label:
        yield label, show_plain(value)


def _is_hash(label: str, text: str) -> bool:
    names_a_version = "revision" in label.lower() or "commit" in label.lower()
    return bool(_HASH.fullmatch(text)) and not names_a_version
