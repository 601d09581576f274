"""Find the hints of a package that are lines of Python, in its source."""

import ast
import inspect
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator

import cloudtasks_nb as ct
from cloudtasks_nb import handlers

#: Arguments whose value is shown to a reader as the next step.
NEXT_STEPS = {"hint", "action", "fix"}
#: Names in hints that stand for objects of this package and of pandas.
OBJECTS = "batch|clock|ct|data|df|handler|pd|plan|queue|service|task|tasks|text|base64|multiprocessing"
_FIELD = re.compile(r"\{\w*(!r)?\}")  # of a text that is formatted later
#: Functions that return one of the texts that they get, or a part of a text: what they are given is looked at.
_PLAIN = {"format", "get", "join", "removeprefix", "replace"}


def parameters() -> Iterator[str]:
    """Yield the names of the arguments of all that is public."""
    for thing in (handlers.app, *(getattr(ct, name) for name in ct.__all__)):
        for name, member in vars(thing).items() if inspect.isclass(thing) else [("", thing)]:
            if inspect.isfunction(member) and not name.startswith("_"):
                yield from inspect.signature(member).parameters


#: The begin of a line of Python: a call of something public, or an argument of one with a value.
CODE = re.compile(
    rf"(?<![-\w.?])(?<!without )(?:(?:{OBJECTS})(?:\([^)]*\))?(?:\.\w+)+\(|(?:{'|'.join({*parameters()} - {'self'})})"
    r"=(?=[\[\"'{(\w§])|(?:list|app)\()"
)


def hint_text(node: ast.AST) -> str:
    """Return a text of the source, with § for what is known only when it runs; empty if it is none."""
    if isinstance(node, ast.JoinedStr):
        return "".join(hint_text(part) or "§" for part in node.values)
    found = node.value if isinstance(node, ast.Constant) else ""
    return _FIELD.sub("§", found) if isinstance(found, str) else ""


class HintSource:
    """The texts of some modules that flow into a hint.

    Names are followed to what is assigned to them, calls to what they return, and arguments of that name to the calls.
    """

    def __init__(self, sources: Iterable[str]) -> None:
        self._functions = defaultdict[str, list[ast.FunctionDef | ast.AsyncFunctionDef]](list)
        self._returned = defaultdict[str, list[ast.AST]](list)
        self._assigned = defaultdict[tuple[int, str], list[ast.AST]](list)
        self._globals = defaultdict[str, list[ast.AST]](list)
        self._scopes: dict[int, tuple[ast.AST, ...]] = {}
        self._calls: list[ast.Call] = []
        self._shown: list[ast.AST] = []
        for source in sources:
            module = ast.parse(source)
            self._visit(module, (module,))

    def hints(self) -> set[str]:
        """Return those that have a line of Python."""
        seen: set[int] = set()
        given = [one for call in self._calls for one in self._hints_of(call)]
        return {text for one in (*self._shown, *given) for text in self._texts(one, seen) if CODE.search(text)}

    def _visit(self, node: ast.AST, scopes: tuple[ast.AST, ...]) -> None:
        self._scopes[id(node)] = scopes
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                self._functions[node.name].append(node)
                scopes = (node, *scopes)
            case ast.Return(value=ast.AST() as value) if isinstance(scopes[0], ast.FunctionDef | ast.AsyncFunctionDef):
                self._returned[scopes[0].name].append(value)
            case ast.keyword(arg=name) if name in NEXT_STEPS:
                self._shown.append(node.value)
            case ast.Call():
                self._calls.append(node)
            case ast.Assign() | ast.AugAssign() | ast.AnnAssign() | ast.NamedExpr() if node.value is not None:
                for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                    self._assign(target, node.value, scopes)
            case ast.Constant() | ast.JoinedStr() if "→ " in (text := hint_text(node)) and "\n\n" not in text:
                self._shown.append(node)
        for child in ast.iter_child_nodes(node):
            if not (isinstance(node, ast.JoinedStr) and isinstance(child, ast.Constant)):
                self._visit(child, scopes)

    def _assign(self, target: ast.AST, value: ast.AST, scopes: tuple[ast.AST, ...]) -> None:
        if isinstance(target, ast.Tuple):
            values = value.elts if isinstance(value, ast.Tuple) else [value] * len(target.elts)
            for one, its in zip(target.elts, values, strict=False):
                self._assign(one, its, scopes)
        elif isinstance(target, ast.Name):
            self._assigned[id(scopes[0]), target.id].append(value)
            if len(scopes) == 1:
                self._globals[target.id].append(value)

    def _hints_of(self, call: ast.Call) -> Iterator[ast.AST]:
        """Yield what a call gives, by position, for a parameter that is a hint."""
        for function in self._functions[_name(call)]:
            names = [one.arg for one in function.args.args if one.arg != "self"]
            yield from (value for name, value in zip(names, call.args, strict=False) if name in NEXT_STEPS)

    def _texts(self, node: ast.AST, seen: set[int]) -> Iterator[str]:
        """Yield the texts that an expression may be made of."""
        if id(node) in seen:
            return
        seen.add(id(node))
        if text := hint_text(node):
            yield text
        sources = [one for one in ast.iter_child_nodes(node) if not (text and isinstance(one, ast.Constant))]
        if isinstance(node, ast.Name):
            own = (self._assigned[id(scope), node.id] for scope in self._scopes[id(node)])
            sources = next(filter(None, own), self._globals[node.id])
        elif isinstance(node, ast.Call) and _name(node) not in _PLAIN:
            sources += self._returned[_name(node)]
        for one in sources:
            yield from self._texts(one, seen)


def _name(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
