"""Packages that can be called: ``preftune.audit(data)`` beside ``preftune.audit.findings``."""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any


def make_callable(name: str, target: str) -> None:
    """Lets the module ``name`` be called as the function ``target`` ("module:function"), imported at the first call."""
    home, _, function = target.partition(":")

    class CallableModule(ModuleType):
        def __call__(self, *arguments: Any, **options: Any) -> Any:
            return getattr(import_module(home), function)(*arguments, **options)

    module = sys.modules[name]
    module.__class__ = CallableModule
