"""The variables of the notebook, and the ends of its cells."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd

from cloudtasks_nb.handlers import Handler
from cloudtasks_nb.handlers.deploy import Deployment

__all__ = ["deployments", "expression", "frames", "functions", "handlers", "on_cell_end", "variable"]


def frames() -> dict[str, Any]:
    """Return the DataFrames by name, also those of other libraries that export Arrow data."""
    return _where(_is_frame)


def handlers() -> dict[str, Handler]:
    """Return the open handlers by name."""
    return _where(lambda value: isinstance(value, Handler) and not value.closed)


def functions() -> dict[str, Callable[..., Any]]:
    """Return the functions that the notebook has defined, by name."""
    return _where(lambda value: inspect.isfunction(value) and value.__module__ == "__main__")


def deployments() -> dict[str, Deployment]:
    """Return what `ct.deploy` returned, by name."""
    return _where(lambda value: isinstance(value, Deployment))


def variable(name: str) -> Any:
    """Return the value of a variable; None if it does not exist."""
    return _visible().get(name)


def expression(thing: object) -> str | None:
    """Return Python that is this object: a variable, or the output of a cell; None if there is neither."""
    name = next((name for name, value in _visible().items() if value is thing), None)
    outputs = variable("Out")
    if name is None and isinstance(outputs, Mapping):
        name = next((f"Out[{number}]" for number, value in list(outputs.items()) if value is thing), None)
    return name


def on_cell_end(listener: Callable[[], object]) -> Callable[[], None]:
    """Call `listener` in the kernel's thread when a cell has ended; return a function that ends this."""
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
    """Return the variables without an underscore in front; a copy, because a running cell may add some."""
    shell = _shell()
    found = [] if shell is None else list(shell.user_ns.items())
    return {name: value for name, value in found if not name.startswith("_")}


def _where(test: Callable[[Any], bool]) -> dict[str, Any]:
    return {name: value for name, value in _visible().items() if test(value)}


def _is_frame(value: Any) -> bool:
    exports = type(value).__name__ == "DataFrame" and hasattr(type(value), "__arrow_c_stream__")
    return isinstance(value, pd.DataFrame) or exports
