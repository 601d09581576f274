"""Exchange data between forms and the notebook: read its variables, write the input of a form as Python source."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd

from cloudtasks_nb.display.secrets import find_secrets, is_secret, is_secret_header
from cloudtasks_nb.errors import InvalidInputError
from cloudtasks_nb.handlers import Handler
from cloudtasks_nb.handlers.deploy import Deployment

__all__ = [
    "ASK",
    "Code",
    "IncompleteError",
    "deployments",
    "expression",
    "frames",
    "functions",
    "handlers",
    "headers_code",
    "mapping_code",
    "on_cell_end",
    "quoted",
    "text_code",
    "value_code",
    "variable",
]


#: The function with which a line of Python asks for a secret.
ASK = "getpass.getpass"


class IncompleteError(InvalidInputError):
    """Something is not filled in yet: a quiet note while the form is filled in, an error when it is used."""


class Code:
    """A Python expression; `PanelContext.line` writes it as it is."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def quoted(value: Any) -> str:
    """Return a plain value as Python, text in double quotes."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)  # its escapes are valid in Python too
    if isinstance(value, list):
        return f"[{', '.join(map(quoted, value))}]"
    return repr(value)


def mapping_code(values: Mapping[str, Any]) -> Code:
    """Return a dict of plain values as Python."""
    return Code("{" + ", ".join(f"{quoted(name)}: {quoted(value)}" for name, value in values.items()) + "}")


def headers_code(headers: Mapping[str, str]) -> Code:
    """Return headers as Python that asks for the values of secret ones."""
    return mapping_code(
        {name: _question(name) if is_secret_header(name) else text_code(value) for name, value in headers.items()}
    )


def text_code(text: str) -> Any:
    """Return a text, or, if it has secrets, Python that asks for them."""
    parts, last = [], 0
    for begin, end, name in find_secrets(text):
        parts += [quoted(text[last:begin]), _question(name).text]
        last = end
    return Code(" + ".join([*parts, *([quoted(text[last:])] if text[last:] else [])])) if parts else text


def value_code(value: Any) -> Any:
    """Return what JSON holds, or, if it has secrets, Python that asks for them."""
    if isinstance(value, Mapping):
        return mapping_code({name: _field_code(str(name), part) for name, part in value.items()})
    if isinstance(value, list):
        return Code(quoted([value_code(part) for part in value]))
    return text_code(value) if isinstance(value, str) else value


def _field_code(name: str, value: Any) -> Any:
    return _question(name) if is_secret(name) and value not in (None, "") else value_code(value)


def _question(name: str) -> Code:
    return Code(f"{ASK}({quoted(name)})")


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
