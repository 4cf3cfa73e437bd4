"""The versions a run was made with."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("preftune", "torch", "transformers", "peft", "accelerate", "tokenizers", "datasets", "numpy")


def installed_versions() -> dict[str, str]:
    """Python's and each package's version; "absent" where it is not installed."""
    return {"python": platform.python_version(), "platform": platform.platform()} | {
        name: _version(name) for name in PACKAGES
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"
