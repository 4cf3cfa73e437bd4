"""Templates to one HTML file, with every piece of foreign text escaped and made printable."""

from __future__ import annotations

import re
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from preftune.durable import explained_errors, write_file
from preftune.report.measures import show_interval, show_value

if TYPE_CHECKING:
    from jinja2 import Environment

# Control characters as their visible pictures: they are invisible on a page, and NUL ends some parsers' text.
_VISIBLE = {code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n"}
_VISIBLE |= {127: 0x2421} | dict.fromkeys(range(128, 160), 0xFFFD)
# What turns the writing of all that follows round is shown by its number: a model's answer must read as it stands.
# The marks of languages that are written from right to left (U+200E, U+200F, U+061C) turn nothing but themselves.
_VISIBLE_BY_NUMBER = {code: f"\\u{code:04x}" for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))}


def write_page(template: str, path: Path, **context: Any) -> Path:
    """Fills the template and puts it at ``path`` whole or not at all; PreftuneError on a full disk."""
    page = _environment().get_template(template).render(**context, made_by=f"preftune {_version()}".strip())
    with explained_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, page)
    return path


def printable(text: str) -> str:
    """The text with control characters, turns of the writing and lone surrogates made visible: it can be written."""
    whole = re.sub(r"[\ud800-\udfff]", lambda lone: f"\\u{ord(lone[0]):04x}", text)
    return whole.replace("\r\n", "\n").translate(_VISIBLE | _VISIBLE_BY_NUMBER)


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("preftune.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"show_value": show_value, "show_interval": show_interval}
    return environment


def _finalize(value: Any) -> Any:
    """What a template prints: text made printable, markup of our own left as it is."""
    return printable(value) if type(value) is str else value


def _version() -> str:
    try:
        return version("preftune")
    except PackageNotFoundError:
        return ""
