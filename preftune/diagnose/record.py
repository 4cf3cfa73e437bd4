"""``findings.json``: what was found in a run, what could not be told, and what was looked for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from preftune.diagnose.doctor import Diagnosis
from preftune.diagnose.series import RunLog
from preftune.durable import write_json

FILE = "findings.json"


def findings_document(log: RunLog, diagnosis: Diagnosis) -> dict[str, Any]:
    """The diagnosis of a run as a document, with the notes of its reader."""
    return {
        "name": log.name,
        "tool": log.tool,
        "method": log.method,
        "steps": log.last_step,
        **diagnosis.as_dict(),
        "notes": list(dict.fromkeys([*log.notes, *diagnosis.notes])),
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def write_findings(folder: Path, document: Mapping[str, Any]) -> Path:
    """Puts the document into a run's folder, whole or not at all."""
    write_json(folder / FILE, dict(document))
    return folder / FILE


def read_known(folder: Path) -> set[str]:
    """The ids of what was found before; none where nobody has looked."""
    try:
        found = json.loads((folder / FILE).read_text(encoding="utf-8"))["findings"]
        return {str(one["id"]) for one in found}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return set()
