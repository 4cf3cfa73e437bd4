"""Where things that can be made again are kept between runs."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder(*parts: str) -> Path:
    """A folder under ``$PREFTUNE_CACHE``, else ``$XDG_CACHE_HOME/preftune``, else ``~/.cache/preftune``; made."""
    root = os.environ.get("PREFTUNE_CACHE")
    home = Path(root) if root else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "preftune"
    folder = home.joinpath(*parts)
    folder.mkdir(parents=True, exist_ok=True)
    return folder
