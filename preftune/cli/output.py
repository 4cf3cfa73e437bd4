"""What a command hands back, and the one JSON document that machines read."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Final

DONE: Final = 0
FOUND_WRONG: Final = 1
BAD_INPUT: Final = 2


@dataclass(frozen=True)
class Outcome:
    """What the command found, for ``--json``, and its exit code: DONE or FOUND_WRONG."""

    document: Mapping[str, Any]
    exit_code: int = DONE


def to_json(document: Mapping[str, Any]) -> str:
    """The document as strict JSON: ASCII, figures that are not finite as null, paths as text."""
    return json.dumps(_plain(document), indent=2, allow_nan=False)


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    for method in ("model_dump", "tolist"):  # of pydantic; of numpy and torch, none of them imported here
        if hasattr(value, method):
            return _plain(getattr(value, method)())
    return str(value)
