"""The version of a function: digits that change with its source, and with what it uses from the notebook."""

from __future__ import annotations

import ast
import functools
import hashlib
import inspect
import sys
import types
import typing
import warnings
from collections.abc import Callable, Iterator, Mapping, MutableMapping, MutableSequence, MutableSet, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cloudtasks_nb.handlers.convert import display_name
from cloudtasks_nb.handlers.definitions import annotation_names, global_uses, literal, source_text

__all__ = ["GIVEN", "Version", "version_of"]

#: Attribute of a function that was deployed: the digits of the version that it had in the notebook.
GIVEN = "__code_version__"

_SIZE = 6  # bytes
#: Fields of a syntax tree that do not change what the code does.
_IGNORED = {"ctx", "kind", "type_comment", "type_ignores"}
#: Methods that change a list, a dict or a set.
_CHANGING = {"sort", *dir(MutableMapping), *dir(MutableSequence), *dir(MutableSet)} - {*dir(Mapping), *dir(Sequence)}
_PACKAGE = __name__.partition(".")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """The version of a function."""

    digits: str | None = None  #: 12 hexadecimal digits; None: its source is not known
    uncovered: tuple[str, ...] = ()  #: what it uses that may change without a new version: ``shops (DataFrame)``


def version_of(fn: Callable[..., Any]) -> Version:
    """Return the version of a function; it is the same in each release of Python.

    It covers the function, the functions and classes of the notebook and of files that are not installed which it uses,
    and constants. Comments, docstrings and the layout do not count, nor what the function itself changes, such as a
    cache.
    """
    try:
        given = getattr(fn, GIVEN, None)
        if isinstance(given, str):
            return Version(digits=given)
        parts = _Parts()
        with warnings.catch_warnings(action="ignore"):  # which were shown when the source was compiled
            parts.add(display_name(fn), fn)
    except Exception:  # noqa: BLE001 - the source is not known, or an object of the user's raises when it is read
        return Version()
    return Version(digits=parts.digest.hexdigest(), uncovered=tuple(parts.uncovered))


class _Parts:
    """What a function consists of, each part after what uses it."""

    def __init__(self) -> None:
        self.digest = hashlib.blake2b(digest_size=_SIZE)
        self.uncovered: dict[str, None] = {}
        self._known: dict[int, int] = {}  # identity of a function or class -> its number

    def add(self, name: str, value: Any) -> None:
        """Add what a name stands for, and what that uses."""
        self._write(name)
        if id(value) in self._known:
            self._write(f"#{self._known[id(value)]}")
        elif isinstance(value, types.ModuleType):
            self._write(f"module {value.__name__}")
            if not _is_installed(value.__name__):
                self._leave_out(name, value)
        elif (origin := _origin(value)) is not None:
            self._write(origin)
        elif isinstance(value, types.FunctionType | type):
            self._add_definition(value)
        elif isinstance(value, functools.partial):
            self.add(name, [value.func, list(value.args), value.keywords])
        elif isinstance(value, types.MethodType):
            self.add(name, [value.__func__, value.__self__])
        elif hasattr(value, "__wrapped__"):
            self.add(name, value.__wrapped__)
        else:
            self._add_constant(name, value)

    def _add_definition(self, value: Any) -> None:
        text = _text(value)
        tree = ast.parse(text)
        self._known[id(value)] = len(self._known)
        self._write(_normalised(tree))
        names = _names(value)
        for used in sorted((global_uses(text) | set(annotation_names(tree))) - set(_changed(tree))):
            if used in names:
                with suppress(OSError, TypeError):  # it has no source that could be edited
                    self.add(used, names[used])

    def _add_constant(self, name: str, value: Any) -> None:
        try:
            self._write(literal(value))
        except ValueError:
            if type(value) in (list, tuple):
                for item in value:
                    self.add(name, item)
            elif type(value) is dict:
                self.add(name, [list(value), list(value.values())])
            else:
                self._leave_out(name, value)

    def _leave_out(self, name: str, value: Any) -> None:
        self.uncovered[f"{name} ({type(value).__name__})"] = None

    def _write(self, text: str) -> None:
        # `repr` escapes characters that are not in the Unicode of this Python.
        self.digest.update(text.encode("ascii", "backslashreplace") + b"\0")


def _origin(value: Any) -> str | None:
    """Return where a function, class or object of an installed module comes from; None if it is something else."""
    own = getattr(value, "__qualname__", None) or getattr(value, "__name__", None)
    module = getattr(value, "__module__", None)
    made = typing.get_origin(value) is not None  # a type that was put together
    if made or not isinstance(own, str) or not isinstance(module, str) or not _is_installed(module):
        return None
    return f"{module.partition('.')[0].lstrip('_')} {own}"  # submodules and `_io` differ between releases


def _is_installed(module: str) -> bool:
    """Return whether a module is of Python itself, of this package, or in a folder of installed packages."""
    top = module.partition(".")[0]
    if top == _PACKAGE or top in sys.stdlib_module_names:
        return True
    found = sys.modules.get(module)
    place = getattr(found, "__file__", None) or next(iter(getattr(found, "__path__", ())), None)
    parts = Path(place or "").parts
    return top != "__main__" and (place is None or "site-packages" in parts or "dist-packages" in parts)


def _names(value: Any) -> dict[str, Any]:
    """Return the names that a function or class can use, those of the functions around it too."""
    if isinstance(value, type):
        return vars(sys.modules[value.__module__])
    names = dict(value.__globals__)
    for name, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=True):
        with suppress(ValueError):  # it has no value yet
            names[name] = cell.cell_contents
    return names


def _text(value: Any) -> str:
    """Return the source of a function or class; that of a lambda has all lambdas that begin in its line."""
    code = getattr(value, "__code__", None)
    if code is None or code.co_name != "<lambda>":
        return source_text(value)
    text = "".join(inspect.findsource(code)[0])
    found = (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Lambda))
    here = [ast.get_source_segment(text, node) for node in found if node.lineno == code.co_firstlineno]
    if not here:
        raise OSError("the lambda is not in the source")
    return "".join(f"({one})\n" for one in here)


def _normalised(node: Any) -> str:
    """Return a syntax tree as text: `ast.dump` and `ast.unparse` differ between releases of Python."""
    if isinstance(node, list):
        kept = (one for one in node if not (isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant)))
        return f"[{' '.join(map(_normalised, kept))}]"
    if not isinstance(node, ast.AST):
        return literal(node)
    fields = ((name, value) for name, value in ast.iter_fields(node) if name not in _IGNORED)
    given = (f"{name}={_normalised(value)}" for name, value in fields if value is not None and value != [])
    return f"{type(node).__name__}({' '.join(given)})"


def _changed(tree: ast.AST) -> Iterator[str]:
    """Yield the names of what a definition changes itself: global variables, and containers."""
    for node in ast.walk(tree):
        match node:
            case ast.Global() | ast.Nonlocal():
                yield from node.names
            case ast.Subscript(value=ast.Name() as changed, ctx=ast.Store() | ast.Del()):
                yield changed.id
            case ast.Attribute(value=ast.Name() as changed, attr=method) if method in _CHANGING:
                yield changed.id
