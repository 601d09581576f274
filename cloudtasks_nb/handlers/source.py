"""The source of a function and of what it uses, as a module that another machine can import; nothing is pickled."""

from __future__ import annotations

import ast
import builtins
import inspect
import os
import re
import symtable
import sys
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from cloudtasks_nb.display.notify import notify
from cloudtasks_nb.errors import HandlerError
from cloudtasks_nb.handlers.call import check_function, name_cells
from cloudtasks_nb.handlers.convert import display_name
from cloudtasks_nb.handlers.literals import SecretSearch
from cloudtasks_nb.handlers.requirements import is_installed
from cloudtasks_nb.handlers.version import Definition, literal

__all__ = ["LARGEST_CONSTANT", "ModuleSource", "module_source"]

#: Characters of the source of a constant.
LARGEST_CONSTANT = 10_000

#: What IPython defines, with the way to do without it; a line with % or ! calls `get_ipython`.
_NOTEBOOK = {
    "display": "take it out, or return what it shows",
    "get_ipython": "take the lines with % and ! out; subprocess.run(…) runs a command",
    **dict.fromkeys(("exit", "quit"), "return ends the function, and raise ct.GiveUp(…) the row"),
}
#: What else IPython puts into the namespace: `open`, cells and results.
_PUT = re.compile(r"open|In|Out|_(\d+|i+\d*|[iod]h)?")
#: Where every system has files.
_EVERYWHERE = ("/dev/", "/etc/", "/proc/", "/sys/", "/tmp/")  # noqa: S108 - nothing is written there
#: This package, which most functions use only for what `handlers.app` needs anyway.
_OURS = sys.modules[__name__.partition(".")[0]]


class ModuleSource:
    """The text of a module, part by part: imports, constants, then functions and classes, each after what it uses.

    Parameters
    ----------
    reserved : str
        Names that the module's other text defines.
    public : iterable of str
        Names whose values are no secrets.
    """

    def __init__(self, *reserved: str, public: Iterable[str] = ()) -> None:
        self.secrets = SecretSearch(public)
        self._objects: dict[str, Any] = dict.fromkeys(reserved, self)
        self._imports: set[str] = set()
        self._constants: list[str] = []
        self._definitions: list[str] = []
        self.modules: dict[str, Any] = {}  #: what is imported, by dotted name

    @property
    def text(self) -> str:
        """The text of the module."""
        head = ["from __future__ import annotations", "\n".join(sorted(self._imports)), "\n".join(self._constants)]
        parts = ["\n\n".join(part for part in head if part), *self._definitions]
        return "\n\n\n".join(parts) + "\n"

    def add(self, name: str, value: Any, *, user: str) -> None:
        """Add the value of a name, and everything that the value uses.

        Parameters
        ----------
        user : str
            The function that uses it.

        Raises
        ------
        HandlerError
            If it cannot be written, or the module has something else of this name.
        """
        if name in self._objects:
            if self._objects[name] is not value and not _equal(self._objects[name], value):
                raise HandlerError(
                    f"{user} uses {name}, and so does another function, or the module itself, for something else",
                    resource=name,
                    hint="rename one of the two",
                )
            return
        self._objects[name] = value
        if isinstance(value, types.ModuleType):
            self._add_module(name, value, user)
        elif (line := _import_line(name, value)) is not None:
            self._imports.add(line)
            self.modules[value.__module__] = sys.modules[value.__module__]
        elif isinstance(inspect.unwrap(value) if callable(value) else value, (types.FunctionType, type)):
            self._add_definition(name, value, user)
        else:
            text = f"{name} = {_constant(name, value, user)}"
            self._check_secrets(text, f"{user} uses {name}, which")
            self._constants.append(text)

    def _check_secrets(self, text: str, user: str, definition: Any = None) -> None:
        name, line = next(self.secrets.find(text), ("", 0))
        if not name:
            return
        variable = re.sub(r"\W+", "_", name).upper()
        place = "" if definition is None else f", {_place(text, definition, line)}"
        known = f'public=("{name}",)' if " " not in name else 'a variable, NAME = …, and public=("NAME",)'
        raise HandlerError(
            f"{user} has what looks like a secret ({name}{place}): it would be readable in the deployed source",
            resource=name,
            hint=f'read it inside the function, os.environ["{variable}"], and give it to the service: '
            f'ct.deploy(…, gcloud=["--set-secrets={variable}=my-secret:latest"]); the account that it runs as needs '
            "gcloud secrets add-iam-policy-binding my-secret --member=serviceAccount:… "
            f"--role=roles/secretmanager.secretAccessor --condition=None. If it is no secret: {known}",
        )

    def _add_module(self, name: str, module: types.ModuleType, user: str) -> None:
        if not is_installed(module.__name__):
            raise HandlerError(
                f"{user} uses the module {name}, which is not installed: it is a file of this machine",
                resource=name,
                hint=f"from {module.__name__} import …: the functions that are used are then written along",
            )
        self._imports.add(f"import {module.__name__}" + ("" if name == module.__name__ else f" as {name}"))
        if module is not _OURS:  # of which each definition adds what it uses
            self.modules[module.__name__] = module

    def _add_definition(self, name: str, value: Any, user: str) -> None:
        own = display_name(value)
        if own == "<lambda>":
            raise HandlerError(
                f"{user} uses {name}, a lambda, which has no source of its own",
                resource=name,
                hint=f"write it as a function: def {name}(…): …",
            )
        if own != name:
            self.add(own, value, user=user)
            self._definitions.append(f"{name} = {own}")
            return
        definition = _definition(value)
        text, tree, needed, names = definition.text, definition.tree, definition.needed, definition.names
        if inspect.unwrap(value) is not value and not any(
            getattr(node, "decorator_list", ()) for node in ast.walk(tree)
        ):
            raise HandlerError(
                f"{own} is decorated by an assignment, which its source does not have",
                resource=own,
                hint=f"write the decorator above the function: @decorator, and below it def {own}(…)",
            )
        self._check_secrets(text, own, value)
        _check_files(tree, own)
        _notify_globals(text, own)
        for used in definition.used:
            if used in needed and _is_of_ipython(used, names.get(used), own):
                continue
            if used in names and used != name:
                self.add(used, names[used], user=own)
            elif used in needed and used not in names and not hasattr(builtins, used):
                raise HandlerError(
                    f"{own} uses {used}, which is not defined", resource=used, hint=f"define {used} first, or import it"
                )
        self._add_submodules(tree, names)
        for dotted in _local_imports(tree, own):
            self.modules[dotted] = sys.modules.get(dotted)
        self._definitions.append(text.strip())

    def _add_submodules(self, tree: ast.AST, names: Mapping[str, Any]) -> None:
        """Import the modules that are reached as attributes: `concurrent.futures`."""
        attributes_of = {node.value: f".{node.attr}" for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Name) and names.get(node.id) is _OURS:
                self.modules[_OURS.__name__ + attributes_of.get(node, "")] = None
            root, *attributes = _chain(node)
            module = names.get(root)
            for attribute in attributes:
                dotted = f"{getattr(module, '__name__', '')}.{attribute}"
                if not isinstance(module, types.ModuleType) or getattr(module, attribute, None) is not sys.modules.get(
                    dotted, self
                ):
                    break
                module = sys.modules[dotted]
                self._imports.add(f"import {dotted}")
                self.modules[dotted] = module


def module_source(fn: Callable[..., Any], *reserved: str, public: Iterable[str] = ()) -> ModuleSource:
    """Return the source of a function and of what it uses: imports, functions, classes and small constants.

    Parameters
    ----------
    reserved : str
        Names that the function must not define.
    public : iterable of str
        Names of variables, keys, parameters and attributes whose values are no secrets.

    Raises
    ------
    HandlerError
        If the function, or something that it uses, cannot be written; the hint says what to do instead.
    """
    check_function(fn)
    name = display_name(fn)
    _check_definition(fn, name)
    source = ModuleSource(*reserved, public=public)
    source.add(name, fn, user=name)
    return source


def _check_definition(fn: Any, name: str) -> None:
    inner = inspect.unwrap(fn)
    reason = hint = None
    if name == "<lambda>":
        reason, hint = "a lambda has no source of its own", "write it as a function: def report(day): …"
    elif inspect.ismethod(fn) or (inspect.isfunction(inner) and "." in inner.__qualname__.rpartition("<locals>.")[2]):
        reason, hint = f"{name} is a method: its object stays on this machine", "write a function that makes the object"
    elif not inspect.isfunction(inner):
        reason = f"{name} is a {type(fn).__name__}, not a function"
        hint = "write a function that calls it: def run(day): …"
    elif closed := _closed_over(inner):
        reason = f"{name} uses {', '.join(closed)} of the function around it"
        hint = "define both at the top of a cell, or make it a parameter; a decorator needs functools.wraps"
    if reason is not None:
        raise HandlerError(f"{reason}, so it cannot be deployed", resource=name, hint=hint)


def _closed_over(fn: Any) -> tuple[str, ...]:
    return tuple(getattr(getattr(fn, "__code__", None), "co_freevars", ()))


def _import_line(name: str, value: Any) -> str | None:
    """Return the import of a function, class or object of an installed module; None if it is something else."""
    own = getattr(value, "__qualname__", None)
    module = getattr(value, "__module__", None)
    if not isinstance(own, str) or not isinstance(module, str) or "." in own or not is_installed(module):
        return None
    parts = module.split(".")
    # The shortest path: pandas.DataFrame, not pandas.core.frame.DataFrame.
    for count in range(1, len(parts) + 1):
        place = ".".join(parts[:count])
        if getattr(sys.modules.get(place), own, None) is value and not (place == "builtins" and own == name):
            return f"from {place} import {own}" + ("" if own == name else f" as {name}")
    return None


def _definition(value: Any) -> Definition:
    found = inspect.unwrap(value)
    try:
        definition = Definition.of(found)
    except (OSError, TypeError) as error:
        raise HandlerError(
            f"the source of {display_name(value)} is not known, so it cannot be deployed",
            resource=display_name(value),
            hint="define it with def or class in a cell or in a file; not below %%time, not with exec, and not in the "
            "plain prompt of python",
        ) from error
    if closed := _closed_over(found):
        raise HandlerError(
            f"{display_name(value)} uses {', '.join(closed)} of the function around it, so it cannot be deployed",
            resource=display_name(value),
            hint="define both at the top of a cell; a decorator needs functools.wraps",
        )
    return definition


def _place(text: str, definition: Any, line: int) -> str:
    """Return where a line of a definition is: in a file or cell if that is known."""
    code = getattr(inspect.unwrap(definition), "__code__", None)
    if code is None:
        return f"line {line} of {display_name(definition)}"
    first = code.co_firstlineno - text.startswith("if True:\n")  # which is not of the function
    return name_cells(f' File "{code.co_filename}", line {first + line - 1}').strip().removeprefix("File ")


def _notify_globals(text: str, user: str) -> None:
    """Say which global variables a definition assigns: they are not one variable in a service."""
    tables = [symtable.symtable(text, "<deploy>", "exec")]
    for table in tables:
        tables += table.get_children()
    symbols = (symbol for table in tables[1:] for symbol in table.get_symbols())
    if changed := sorted({one.get_name() for one in symbols if one.is_declared_global() and one.is_assigned()}):
        notify(
            f"{user} changes {', '.join(changed)}, a global variable: each instance of the service has its own, which "
            "ends with the instance"
        )


def _check_files(tree: ast.AST, user: str) -> None:
    """Refuse a file of this machine that a function opens or reads by its name: it is not deployed.

    Raises
    ------
    HandlerError
        If there is such a file.
    """
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name("open") as called, args=[ast.Constant(str() as path), *more], keywords=named):
                modes = [*more[:1], *(one.value for one in named if one.arg == "mode")]
                reads = not any(isinstance(one, ast.Constant) and set("wax") & set(str(one.value)) for one in modes)
            case ast.Call(func=ast.Attribute(attr=called), args=[ast.Constant(str() as path), *_]):
                reads = called.startswith("read_")
            case ast.Attribute(
                attr="read_text" | "read_bytes", value=ast.Call(func=called, args=[ast.Constant(str() as path), *_])
            ):
                reads = _chain(called)[-1] == "Path" if isinstance(called, ast.AST) else False
            case _:
                continue
        if reads and os.path.isfile(path) and not path.startswith(_EVERYWHERE):  # noqa: PTH113 - a Path raises for a long text
            raise HandlerError(
                f"{user} reads {path}, a file of this machine, which is not deployed",
                resource=path,
                hint="put it into a bucket, and read it from there inside the function",
            )


def _local_imports(tree: ast.AST, user: str) -> Iterator[str]:
    """Yield the modules that a function imports when it runs, and the names that it imports from them."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level:
            raise HandlerError(
                f"{user} has a relative import, {ast.unparse(node)}, which the deployed module cannot do",
                resource=user,
                hint="move it out of the function, to the top of the file: what is used is then written along",
            )
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _chain(node: ast.AST) -> list[str]:
    """Return the names of `a.b.c`; an empty one first if it is something else."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.insert(0, node.attr)
        node = node.value
    return [node.id if isinstance(node, ast.Name) else "", *names]


def _constant(name: str, value: Any, user: str) -> str:
    """Return a constant as source."""
    try:
        text = literal(value)
    except (ValueError, RecursionError):
        kind = type(value).__name__
        hint = (
            "load it inside the function, from a file in a bucket or a table; or send what a row needs as arguments"
            if kind in ("DataFrame", "Series", "ndarray", "Index")
            else "make it inside the function"
        )
        raise HandlerError(
            f"{user} uses {name}, a {kind} of this kernel, which is not deployed", resource=name, hint=hint
        ) from None
    if len(text) > LARGEST_CONSTANT:
        raise HandlerError(
            f"{user} uses {name}, whose source has {len(text):,} characters; {LARGEST_CONSTANT:,} are deployed at most",
            resource=name,
            hint="load it inside the function, from a file in a bucket or a table",
        )
    return text


def _is_of_ipython(name: str, value: Any, user: str) -> bool:
    """Return whether a name is the `open` of IPython, which is the builtin but for the files 0, 1 and 2.

    Raises
    ------
    HandlerError
        If IPython has defined the name, and no cell has.
    """
    if name in ("display", "get_ipython"):
        own = value is not None and not str(getattr(value, "__module__", "")).startswith("IPython")
    else:
        shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
        put = getattr(shell, "user_ns_hidden", {})  # what startup files define is there, too
        own = not (name in _NOTEBOOK or _PUT.fullmatch(name)) or put.get(name, put) is not value
    if own or name == "open":
        return not own
    value = f"{name}{'' if name[0] == '_' else '[3]'}"
    cure = _NOTEBOOK.get(name, f"give what it needs a name of its own in a cell, found = {value}, and use that")
    raise HandlerError(f"{user} uses {name}, which only a notebook has", resource=name, hint=cure)


def _equal(one: Any, other: Any) -> bool:
    """Return whether two constants are written in the same way."""
    try:
        return type(one) is type(other) and literal(one) == literal(other)
    except (ValueError, RecursionError):
        return False
