"""Templates to one HTML file, with every piece of foreign text escaped and made printable."""

from __future__ import annotations

import re
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from preftune.errors import PreftuneError

if TYPE_CHECKING:
    from jinja2 import Environment

# Control characters as their visible pictures: they are invisible on a page, and NUL ends some parsers' text.
_VISIBLE = {code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n"}
_VISIBLE |= {127: 0x2421} | dict.fromkeys(range(128, 160), 0xFFFD)


def write_page(template: str, path: Path, **context: Any) -> Path:
    """Fills the template and writes it to ``path``; raises PreftuneError where the disk refuses."""
    page = _environment().get_template(template).render(**context, version=_version())
    try:
        path.write_text(page, encoding="utf-8", newline="\n")
    except OSError as error:
        raise PreftuneError(
            f"The page could not be written: {error.strerror}.",
            where=str(path),
            mend="Free some space or give a folder that can be written to.",
        ) from error
    return path


def printable(text: str) -> str:
    """The text with control characters and lone surrogates made visible, so that any of it can be written."""
    whole = re.sub(r"[\ud800-\udfff]", lambda lone: f"\\u{ord(lone[0]):04x}", text)
    return whole.replace("\r\n", "\n").translate(_VISIBLE)


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("preftune.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _finalize(value: Any) -> Any:
    """What a template prints: text made printable, markup of our own left as it is."""
    return printable(value) if type(value) is str else value


def _version() -> str:
    try:
        return version("preftune")
    except PackageNotFoundError:
        return ""
