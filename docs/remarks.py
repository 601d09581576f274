"""Show the remarks `#: …` on the fields of a class on the site: they are the fields' docstrings."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import griffe

__all__ = ["Remarks"]

_BEHIND = re.compile(r"  #: (.+)$")
_ABOVE = re.compile(r"^\s*#: (.+)$")


class Remarks(griffe.Extension):
    """Gives an attribute the remark behind it, or above it, as its docstring."""

    def on_attribute_instance(self, *, attr: griffe.Attribute, **_: Any) -> None:
        """Read the lines of one attribute."""
        if attr.docstring is not None or attr.lineno is None or not isinstance(attr.filepath, Path):
            return
        lines = attr.lines_collection[attr.filepath]
        if behind := _BEHIND.search(lines[(attr.endlineno or attr.lineno) - 1]):
            text = [behind[1]]
        else:
            text, at = [], attr.lineno - 2
            while above := _ABOVE.match(lines[at]):
                text, at = [above[1], *text], at - 1
        if text:
            attr.docstring = griffe.Docstring(" ".join(text), lineno=attr.lineno, parent=attr)
