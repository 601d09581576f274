"""Names of a package that are loaded at their first use, so that importing the package is quick (PEP 562).

The whole package uses it; it stands here because a deployed handler loads nothing from higher floors.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["lazy_names"]


def lazy_names(package: str, modules: Mapping[str, str]) -> Callable[[str], Any]:
    """Return the ``__getattr__`` of a package: `modules` has the module of each name, relative to the package."""

    def load(name: str) -> Any:
        if name not in modules:
            from cloudtasks_nb._settings import unknown_name  # noqa: PLC0415 - the emulator starts without it

            raise unknown_name(f"module {package!r}", name, modules)
        found = getattr(importlib.import_module(f"{package}.{modules[name]}"), name)
        setattr(sys.modules[package], name, found)
        return found

    return load
