"""What a form can use of the notebook's variables: its DataFrames, and the functions that it serves."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd

from cloudtasks_nb.handlers import Handler

__all__ = ["frames", "handlers", "on_cell_end", "variable"]


def frames() -> dict[str, Any]:
    """Return the DataFrames by name, also those of others than pandas that come as Arrow data."""
    return {name: value for name, value in _visible().items() if _is_frame(value)}


def handlers() -> dict[str, Handler]:
    """Return the open handlers by name."""
    found = _visible().items()
    return {name: value for name, value in found if isinstance(value, Handler) and not value.closed}


def variable(name: str) -> Any:
    """Return the value of a variable; None if there is none."""
    return _visible().get(name)


def on_cell_end(listener: Callable[[], object]) -> Callable[[], None]:
    """Call `listener` in the kernel's thread when a cell has ended; returns what ends that."""
    shell = _shell()
    if shell is None:
        return lambda: None

    def ended(*_result: Any) -> None:
        listener()

    shell.events.register("post_run_cell", ended)
    return lambda: shell.events.unregister("post_run_cell", ended)


def _shell() -> Any:
    ipython = sys.modules.get("IPython")
    return ipython.get_ipython() if ipython is not None else None


def _visible() -> Mapping[str, Any]:
    """Return the variables that a person has named; a cell that runs may add to them meanwhile."""
    shell = _shell()
    found = [] if shell is None else list(shell.user_ns.items())
    return {name: value for name, value in found if not name.startswith("_")}


def _is_frame(value: Any) -> bool:
    if isinstance(value, pd.DataFrame):
        return True
    return type(value).__name__ == "DataFrame" and hasattr(type(value), "__arrow_c_stream__")
