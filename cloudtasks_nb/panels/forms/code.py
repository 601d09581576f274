"""Python as a form would write it: what is no plain value, but a name or an expression."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from cloudtasks_nb._names import SECRET_HEADER
from cloudtasks_nb.panels.context import quoted

__all__ = ["Code", "headers_code", "mapping_code"]


class Code:
    """An expression, whose `repr` it is: what `PanelContext.line` writes for it."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def mapping_code(values: Mapping[str, Any]) -> Code:
    """Return a dict of plain values as Python."""
    return Code("{" + ", ".join(f"{quoted(name)}: {quoted(value)}" for name, value in values.items()) + "}")


def headers_code(headers: Mapping[str, str]) -> Code:
    """Return headers as Python; a secret one becomes a variable of its name, for the reader to fill."""
    return mapping_code(
        {name: Code(_variable(name)) if SECRET_HEADER.search(name) else value for name, value in headers.items()}
    )


def _variable(header: str) -> str:
    return re.sub(r"\W", "_", header).lower()
