"""Documents that tell of a run without curves: the audit of its data, and the audit of the judges that made it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from preftune.diagnose.readers.text import read_json
from preftune.diagnose.series import RunLog
from preftune.errors import PreftuneError

AUDIT, JUDGE = "audit.json", "judge"  # the names that detectors know them by; a run's own audit is ``audit``


def kind_of(document: Any) -> str | None:
    """``AUDIT`` for what ``preftune audit --json`` gives, ``JUDGE`` for what ``preftune make judge --json`` gives."""
    if not isinstance(document, Mapping):
        return None
    if judges_of(document):
        return JUDGE
    is_audit = isinstance(document.get("findings"), list) and "read" in document and "duplicates" in document
    return AUDIT if is_audit else None


def judges_of(document: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The audits of judges by their names, from the document of several or of one; none where it is another."""
    several = document.get("judges")
    listed = several if isinstance(several, Mapping) else {}
    found = {str(name): one for name, one in listed.items() if _is_of_judge(one)}
    return found or ({_name(document): document} if _is_of_judge(document) else {})


def read_document(path: Path) -> list[RunLog]:
    """The document as a run without curves; raises ``PreftuneError`` where it is neither of the two."""
    found = read_json(path)
    kind = kind_of(found)
    if kind is None:
        mend = "Give what `preftune audit --json` or `preftune make judge --json` has printed."
        raise PreftuneError("It is no audit of data or of judges.", where=str(path), mend=mend)
    return [RunLog(path.name, "judge" if kind == JUDGE else "audit", {}, documents={kind: found})]


def _is_of_judge(document: Any) -> bool:
    return isinstance(document, Mapping) and all(
        isinstance(document.get(name), kind)
        for name, kind in (("consistency", Mapping), ("position", Mapping), ("findings", list))
    )


def _name(document: Mapping[str, Any]) -> str:
    names = document.get("judges")
    return ", ".join(map(str, names)) if isinstance(names, list) and names else "the judge"
