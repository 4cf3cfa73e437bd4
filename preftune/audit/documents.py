"""Audits as documents: dataclasses, arrays and long lists as JSON can hold them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from preftune.audit.findings import Finding

LONGEST_LIST = 50  # entries; longer lists are about single rows and belong into a file of rows


def finding_document(finding: Finding) -> dict[str, Any]:
    """A finding with all its rows; without share and examples where it has none."""
    document = {field.name: getattr(finding, field.name) for field in fields(Finding)}
    document |= {"rows": list(finding.rows), "examples": [dict(example) for example in finding.examples]}
    document["share"] = None if finding.share is None else plain(finding.share)
    return {name: value for name, value in document.items() if value or name not in ("share", "examples")}


def plain(value: Any) -> Any:
    """The value as JSON can hold it: what is not finite as null.

    An object that knows its own document (``as_dict``) gives it. Of what has names, three things are left out: absent
    figures, lists of more than LONGEST_LIST, and findings, which stand in one list of their own.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return _items(value)
    if hasattr(value, "as_dict"):
        return _items(value.as_dict())
    if is_dataclass(value) and not isinstance(value, type):
        return _items({field.name: getattr(value, field.name) for field in fields(value)})
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(each) for each in value]
    to_list = getattr(value, "tolist", None)  # of numpy
    if to_list is not None:
        return plain(to_list())
    return str(value)


def _items(values: Mapping[Any, Any]) -> dict[str, Any]:
    kept = {str(name): value for name, value in values.items() if name != "findings" and value is not None}
    return {name: plain(value) for name, value in kept.items() if not _is_long(value)}


def _is_long(value: Any) -> bool:
    is_list = isinstance(value, list | tuple | set | frozenset) or hasattr(value, "tolist")
    return is_list and getattr(value, "size", None) != 1 and len(value) > LONGEST_LIST
