"""What a function consists of: definitions with what they use, constants; and its version, which changes with these."""

from __future__ import annotations

import ast
import contextlib
import datetime as dt
import decimal
import functools
import hashlib
import inspect
import logging
import re
import symtable
import sys
import textwrap
import types
import typing
import warnings
from collections.abc import Callable, Iterator, Mapping, MutableMapping, MutableSequence, MutableSet, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from cloudtasks_nb.handlers.convert import display_name

__all__ = ["GIVEN", "Definition", "Version", "literal", "version_of"]

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

    digits: str | None = None  #: 12 hexadecimal digits; None: it is no function of Python
    uncovered: tuple[str, ...] = ()  #: what it uses that may change without a new version: ``shops (DataFrame)``


def version_of(fn: Callable[..., Any]) -> Version:
    """Return the version of a function; it is the same in each release of Python if the source is known.

    A function without source, such as one of ``exec`` or ``python -c``, has the version of its code object.
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
        """Add the value of a name, and everything that the value uses."""
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
        try:
            definition = Definition.of(value)
        except (OSError, TypeError, SyntaxError):
            if not isinstance(value, types.FunctionType):
                raise
            self._add_function(value)
            return
        self._known[id(value)] = len(self._known)
        self._write(_normalised(definition.tree))
        changed = set(_changed(definition.tree))
        for used in definition.used:
            if used in definition.names and used not in changed:
                with suppress(OSError, TypeError):  # it has no source that could be edited
                    self.add(used, definition.names[used])

    def _add_function(self, function: types.FunctionType) -> None:
        """Add a function without source: its code, its defaults, and what it uses."""
        self._known[id(function)] = len(self._known)
        names = _names(function)
        used = self._add_code(function.__code__)
        self.add("defaults", [list(function.__defaults__ or ()), function.__kwdefaults__ or {}])
        for name in sorted(used & names.keys()):
            self.add(name, names[name])

    def _add_code(self, code: types.CodeType) -> set[str]:
        """Add the code of a function and of those in it; return the names that they use."""
        self._write(code.co_code.hex())
        self._write(repr((code.co_names, code.co_varnames, code.co_freevars)))
        used = {*code.co_names, *code.co_freevars}
        for constant in code.co_consts:
            if isinstance(constant, types.CodeType):
                used |= self._add_code(constant)
            else:
                self.add("constant", constant)
        return used

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


#: Constants that are written as a call.
_CALLS: dict[type, Callable[[Any], str]] = {
    decimal.Decimal: lambda value: f"__import__('decimal').{value!r}",
    logging.Logger: lambda value: f"__import__('logging').getLogger({value.name!r})",
    re.Pattern: lambda value: f"__import__('re').compile({value.pattern!r}, {value.flags})",
}
_DATES = (dt.date, dt.datetime, dt.time, dt.timedelta, dt.timezone)


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """A function or class as it is written, and what it uses."""

    text: str  #: from the left margin on
    tree: ast.Module
    needed: AbstractSet[str]  #: names that it takes from its module when it is defined or runs
    names: Mapping[str, Any]  #: values of names in its module, and in the functions around it

    @classmethod
    def of(cls, found: Any) -> Self:
        """Read the source of a function or class, without what it wraps.

        Raises
        ------
        OSError, TypeError
            If the source is not known.
        """
        is_lambda = getattr(getattr(found, "__code__", None), "co_name", None) == "<lambda>"
        text = (_lambda_source if is_lambda else _class_source if isinstance(found, type) else _function_source)(found)
        dedented = textwrap.dedent(text)
        if dedented[:1].isspace():  # text literals reach the margin
            dedented = f"if True:\n{text}"
        return cls(text=dedented, tree=ast.parse(dedented), needed=_global_uses(dedented), names=_names(found))

    @property
    def used(self) -> list[str]:
        """The names that it uses, those of annotations too: arguments are converted to these types."""
        return sorted(self.needed | set(_annotation_names(self.tree)))


def _names(found: Any) -> Mapping[str, Any]:
    if isinstance(found, type):
        return vars(sys.modules[found.__module__])
    names = dict(found.__globals__)
    for name, cell in zip(found.__code__.co_freevars, found.__closure__ or (), strict=True):
        with contextlib.suppress(ValueError):  # it has no value yet
            names[name] = cell.cell_contents
    return names


def _lambda_source(found: Any) -> str:
    """Return the source of all lambdas that begin in the line in which this one begins."""
    code = found.__code__
    text = "".join(inspect.findsource(code)[0])
    lambdas = (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Lambda))
    here = [ast.get_source_segment(text, node) for node in lambdas if node.lineno == code.co_firstlineno]
    if not here:
        raise OSError("the lambda is not in the source")
    return "".join(f"({one})\n" for one in here)


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
    """Return the source of a class; a notebook has no file, so it is read from the newest cell that defines it."""
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


def _global_uses(text: str) -> set[str]:
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


def _annotation_names(tree: ast.AST) -> Iterator[str]:
    """Yield the names in the annotations of parameters, results and fields."""
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
