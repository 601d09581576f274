"""The input of a form as Python source, which asks for secrets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from cloudtasks_nb.display.secrets import find_secrets, is_secret, is_secret_header
from cloudtasks_nb.errors import InvalidInputError

__all__ = ["ASK", "Code", "IncompleteError", "headers_code", "mapping_code", "quoted", "text_code", "value_code"]

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
