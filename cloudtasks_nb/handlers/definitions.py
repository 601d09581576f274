"""What a function or class is made of: its source, the names that it uses, and their values as source."""

from __future__ import annotations

import ast
import contextlib
import datetime as dt
import decimal
import inspect
import logging
import re
import symtable
import sys
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["annotation_names", "global_uses", "literal", "source_text"]

#: Constants that are written as a call.
_CALLS: dict[type, Callable[[Any], str]] = {
    decimal.Decimal: lambda value: f"__import__('decimal').{value!r}",
    logging.Logger: lambda value: f"__import__('logging').getLogger({value.name!r})",
    re.Pattern: lambda value: f"__import__('re').compile({value.pattern!r}, {value.flags})",
}
_DATES = (dt.date, dt.datetime, dt.time, dt.timedelta, dt.timezone)


def source_text(found: Any) -> str:
    """Return the source of a function or class, from the left margin on; what is wrapped in it is not looked at.

    Raises
    ------
    OSError, TypeError
        If it is not known.
    """
    text = _class_source(found) if isinstance(found, type) else _function_source(found)
    return _dedent(text)


def _dedent(text: str) -> str:
    """Return a definition from the left margin on; one whose text literals reach the margin keeps its indentation."""
    dedented = textwrap.dedent(text)
    return f"if True:\n{text}" if dedented[:1].isspace() else dedented


def _function_source(found: Any) -> str:
    """Return the source of a function.

    Raises
    ------
    OSError
        If it is not known. From Python 3.13 on, `inspect` takes the text of ``python -c`` for that of `exec`.
    """
    if getattr(getattr(found, "__code__", None), "co_filename", None) == "<string>":
        raise OSError("a function made by exec has no source")
    return inspect.getsource(getattr(found, "__code__", found))  # not of what it wraps


def _class_source(found: type) -> str:
    """Return the source of a class, which in a notebook has no file: that of the newest cell that defines it."""
    cells = vars(sys.modules["__main__"]).get("In") if found.__module__ == "__main__" else None
    for cell in reversed(cells or ()):
        try:
            body = ast.parse(cell).body
        except SyntaxError:
            continue
        for node in body:
            if isinstance(node, ast.ClassDef) and node.name == found.__name__:
                first = min([node.lineno, *(one.lineno for one in node.decorator_list)])
                return "\n".join(cell.splitlines()[first - 1 : node.end_lineno])
    return inspect.getsource(found)


def global_uses(text: str) -> set[str]:
    """Return the names that a definition takes from its module when it is defined or runs."""
    future = "from __future__ import annotations\n"  # with it annotations are text, as in the module that is written
    return set(_referenced(symtable.symtable(future + text, "<deploy>", "exec"), top=True))


def _referenced(table: symtable.SymbolTable, *, top: bool) -> Iterator[str]:
    for symbol in table.get_symbols():
        special = symbol.get_name().startswith("__")
        if symbol.is_referenced() and not special and (symbol.is_global() or (top and not symbol.is_assigned())):
            yield symbol.get_name()
    for child in table.get_children():
        if child.get_type() != "annotation":  # which Python 3.14 has even if annotations are text
            yield from _referenced(child, top=False)


def annotation_names(tree: ast.AST) -> Iterator[str]:
    """Yield the names in the annotations of parameters, results and fields: arguments are converted to these types."""
    for node in ast.walk(tree):
        for annotation in _annotations(node):
            yield from (name.id for name in ast.walk(annotation) if isinstance(name, ast.Name))


def _annotations(node: ast.AST) -> Iterator[ast.AST]:
    given: list[Any] = []
    if isinstance(node, ast.arg):
        given = [node.annotation]
    elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        given = [node.returns]
    elif isinstance(node, ast.ClassDef):
        given = [one.annotation for one in node.body if isinstance(one, ast.AnnAssign)]
    for annotation in given:
        if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
            with contextlib.suppress(SyntaxError):  # a description, not a type
                yield ast.parse(annotation.value, mode="eval")
        elif annotation is not None:
            yield annotation


def literal(value: Any) -> str:
    """Return a value as source; raise ValueError if it is more than a literal, a date or one of `_CALLS`."""
    kind = type(value)
    if value is None or value is ... or kind in (bool, int, str, bytes):
        return repr(value)
    if kind in (float, complex):
        return repr(value) if value - value == 0 else f"{kind.__name__}({str(value)!r})"
    if kind in _DATES:
        text = repr(value)
        zone = getattr(value, "tzinfo", None)
        if zone is not None and type(zone) is not dt.timezone:
            raise ValueError(text)
        return text.replace("datetime.", "__import__('datetime').")
    if kind in _CALLS:
        return _CALLS[kind](value)
    if kind is dict:
        return "{" + ", ".join(f"{literal(key)}: {literal(item)}" for key, item in value.items()) + "}"
    if kind in (list, tuple, set, frozenset):
        items = ", ".join(map(literal, value) if kind in (list, tuple) else sorted(map(literal, value), key=_escaped))
        return f"[{items}]" if kind is list else f"{kind.__name__}([{items}])"
    raise ValueError(kind.__name__)


def _escaped(text: str) -> bytes:
    """Return a text whose order does not depend on which characters the Unicode of this Python has."""
    return text.encode("ascii", "backslashreplace")
