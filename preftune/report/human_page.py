"""The page of a blind check: prompts with two answers each, for a person to choose between without a server."""

from __future__ import annotations

import base64
import hashlib
import json
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from preftune.report.rendering import printable, write_page

if TYPE_CHECKING:
    from preftune.evaluate.human_check import HumanCheck


def write_human_page(check: HumanCheck, path: Path) -> Path:
    """Writes the page to ``path``. Neither model's name nor a side's owner is in it; all texts are data to its script.

    The page's policy allows this one script, by its hash, and nothing from anywhere else.
    """
    script = files("preftune.report").joinpath("templates/human.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    items = [
        {
            key: printable(text)
            for key, text in (("id", one.id), ("prompt", one.prompt), ("left", one.left), ("right", one.right))
        }
        for one in check.items
    ]
    return write_page(
        "human.html",
        Path(path),
        script=Markup(script),
        digest=Markup(digest),
        material=_as_data({"format": _format(), "check": check.id, "items": items}),
        count=len(items),
    )


def _as_data(value: Any) -> Markup:
    """JSON that can stand in a script element of type application/json: nothing in it can close the element."""
    text = json.dumps(value, ensure_ascii=True)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def _format() -> str:
    from preftune.evaluate.human_check import FORMAT

    return FORMAT
