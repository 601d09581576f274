"""What the package may look like: who imports whom, which module touches which foreign library, how long things are.

The order of the modules is the table under "Layers" in ARCHITECTURE.md; a module that is not in it fails here. An order
in which every import points up or left has no cycle, so cycles need no test of their own. What ruff checks already is
not repeated: docstrings, order of `__all__`, complexity, nesting.
"""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

__all__: list[str] = []

ROOT = Path(__file__).parents[1]
PACKAGE = "cloudtasks_nb"

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 40  # without signature and docstring

#: These say nothing about what a module is about.
EMPTY_NAMES = {"common", "core", "helper", "helpers", "lib", "manager", "misc", "tools", "util", "utils"}

#: Imports that run when a function is called, with the reason; all others stand at the top of their module.
LATE_IMPORTS = {
    ("__init__", "__getattr__"): "PEP 562: a public name loads its module when it is first used",
    ("_bar", "Live.__init__"): "only a kernel gets here, and it has IPython loaded",
    ("_client", "Client.panel"): "ipywidgets is loaded when the first panel is asked for",
    ("_queue", "Queue.panel"): "same",
    ("fanout.batch._batch", "Batch.panel"): "same",
    ("_queue", "Queue._absent"): "aiohttp is loaded for those who have handlers",
    ("fanout.batch._verbs", "_handler"): "aiohttp is loaded for those who have handlers",
    ("fanout.plan._input", "_pyarrow"): "optional: only who has Arrow data needs it",
}
#: The one import that may point down: a verb that shows a panel.
DOWNWARD = {("_client", "panels"), ("_queue", "panels"), ("fanout.batch._batch", "panels")}

#: The modules that translate between the API's messages and plain values.
PROTOBUF = {"_messages", "_methods", "_transport", "_oplog", "fanout.plan._plan", "fanout.sender._sender", "emulator."}
#: Foreign library -> the only modules that may import it. `x.` stands for every module of the package x.
ONLY_IN = {
    "ipywidgets": {"panels.", "_bar"},
    "anywidget": {"panels."},
    "google.protobuf": PROTOBUF,
    "google.cloud": PROTOBUF,
    "google.api_core": {"_transport"},
    "google.auth": {"_auth", "_transport", "handlers."},
    "google.oauth2": {"_auth", "handlers."},
    "grpc": {"_transport", "emulator."},
    "aiohttp": {"handlers.", "emulator."},
    "cryptography": {"emulator."},
}
#: Foreign library -> modules that stay free of it, because they work on plain values only.
NEVER_IN = {
    "pandas": {"_loop", "_transport", "fanout.outbox.", "fanout.sender.", "fanout.batch._progress", "emulator."},
}
#: The emulator is a program of its own: of the toolkit it knows these, and the toolkit starts it as a child process.
EMULATOR_KNOWS = {"errors", "_names"}

#: What `import cloudtasks_nb` leaves to the first use.
LOADED_LATER = ("ipywidgets", "anywidget", "google.cloud", "google.auth", "grpc", "aiohttp", "tqdm", "cryptography")


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """One import statement; our own modules are named without the package, `__init__` is the package itself."""

    module: str  #: dotted name; for `from x import y` x.y, of our own packages the module that it leads to
    ours: bool
    function: str | None  #: the function that it stands in
    line: int


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Module:
    """One file of the package, parsed."""

    name: str  #: `fanout.plan._plan`; a package has its folder's name
    path: Path
    text: str
    tree: ast.Module

    def __str__(self) -> str:
        return self.name


def read_module(path: Path) -> Module:
    """Parse one file of the package."""
    parts = path.relative_to(ROOT / PACKAGE).with_suffix("").parts
    name = ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)
    text = path.read_text(encoding="utf-8")
    return Module(name=name, path=path, text=text, tree=ast.parse(text, filename=str(path)))


MODULES = {module.name: module for module in map(read_module, sorted((ROOT / PACKAGE).rglob("*.py")))}
PACKAGES = {name for name, module in MODULES.items() if module.path.name == "__init__.py"}
each_module = pytest.mark.parametrize("module", MODULES.values(), ids=str)


def own_module(dotted: str) -> str:
    """Name the module that `cloudtasks_nb.x.y` leads to: the longest part of it that is a file here."""
    parts = dotted.split(".")[1:]
    while parts and ".".join(parts) not in MODULES:
        parts.pop()
    return ".".join(parts) or "__init__"


def imports(module: Module) -> Iterator[Import]:
    """Find every import, those in functions and under TYPE_CHECKING too."""
    for function, node in walk(module.tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            origin = absolute(module, node)
            names = [f"{origin}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            ours = name.partition(".")[0] == PACKAGE
            yield Import(module=own_module(name) if ours else name, ours=ours, function=function, line=node.lineno)


def absolute(module: Module, node: ast.ImportFrom) -> str:
    """Say where a relative import leads to."""
    if not node.level:
        return node.module or ""
    folder = (PACKAGE, *module.path.relative_to(ROOT / PACKAGE).parts[:-1])
    return ".".join((*folder[: len(folder) + 1 - node.level], *filter(None, [node.module])))


def walk(node: ast.AST, scope: str = "", function: str | None = None) -> Iterator[tuple[str | None, ast.AST]]:
    """Go through a tree; with each node the innermost function around it: `run`, `Client.panel`, or None."""
    for child in ast.iter_child_nodes(node):
        yield function, child
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from walk(child, f"{scope}{child.name}.", f"{scope}{child.name}")
        elif isinstance(child, ast.ClassDef):
            yield from walk(child, f"{scope}{child.name}.", function)
        else:
            yield from walk(child, scope, function)


def layer_rows() -> list[list[str]]:
    """Read the table of layers: for each row its modules from left to right."""
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    section = text.partition("\n## Layers\n")[2].partition("\n## ")[0]
    rows = [row_modules(cell) for cell in re.findall(r"^\| \w+ \| (`.+?) \|", section, flags=re.MULTILINE)]
    # A package is closed by each row with a part of it; its `__init__` stands where it is closed last.
    seen: set[str] = set()
    for row in reversed(rows):
        for name in reversed(row.copy()):
            if name in PACKAGES & seen:
                row.remove(name)
            seen.add(name)
    return rows


def row_modules(cell: str) -> list[str]:
    """Read one cell: "`_a`, `b/c/`: `_d`, `_e`" is _a, b.c._d, b.c._e and at last b.c and b, which show them."""
    names: list[str] = []
    parts: list[str] = []
    for word in [*re.findall(r"`([\w/]+)`", cell), "/"]:
        if word.endswith("/"):
            names += [".".join(parts[:depth]) for depth in range(len(parts), 0, -1)]
            parts = [part for part in word.split("/") if part]
        else:
            names.append(".".join([*parts, word]))
    return names


ROWS = layer_rows()
#: Module -> (row, place in the row); a module imports only what has a smaller place.
PLACES = {name: (row, place) for row, names in enumerate(ROWS) for place, name in enumerate(names)}
NOWHERE = (len(ROWS), 0)


def belongs(name: str, group: set[str]) -> bool:
    """Tell whether a module is in a group in which `x.` stands for the whole package x, with the packages in it."""
    return name in group or f"{name}.".startswith(tuple(entry for entry in group if entry.endswith(".")))


def uses(module: Module, library: str) -> list[int]:
    """Lines on which a module imports a library."""
    return [found.line for found in imports(module) if f"{found.module}.".startswith(f"{library}.") and not found.ours]


@each_module
def test_every_module_has_a_place(module: Module) -> None:
    """A module stands in the table of layers, so that its neighbours are known."""
    if module.name not in PLACES:
        known = [found.module for found in imports(module) if found.module in PLACES]
        below = f"below or right of {max(known, key=PLACES.__getitem__)}, which it imports, and " if known else ""
        where = f"in the table under '## Layers' in ARCHITECTURE.md, {below}above or left of what imports it"
        pytest.fail(f"{module.name} is new: give it a place {where}", pytrace=False)


def test_the_table_names_nothing_twice_and_nothing_that_is_not_there() -> None:
    """The table of layers describes the package as it is."""
    listed = Counter(name for names in ROWS for name in names)
    twice = [name for name, count in listed.items() if count > 1]
    gone = [name for name in listed if name not in MODULES]
    assert not twice, f"listed twice: {twice}"
    assert not gone, f"listed, but not in the package: {gone}"


@each_module
def test_imports_point_up_or_left(module: Module) -> None:
    """A module imports from rows above its own, and inside its row only what stands left of it."""
    place = PLACES.get(module.name, NOWHERE)
    own = {found.module: found.line for found in imports(module) if found.ours}
    wrong = {
        name: line
        for name, line in own.items()
        if name in PLACES and PLACES[name] >= place and (module.name, name) not in DOWNWARD
    }
    assert not wrong, f"{module.name} imports what stands below it or right of it (module: line): {wrong}"


@each_module
def test_imports_stand_at_the_top(module: Module) -> None:
    """No import hides in a function, save those of LATE_IMPORTS."""
    late: list[tuple[str | None, int]] = [(found.function, found.line) for found in imports(module) if found.function]
    late += [
        (function, node.lineno)
        for function, node in walk(module.tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__"))
    ]
    assert [where for where in late if (module.name, where[0]) not in LATE_IMPORTS] == []


@each_module
def test_emulator_and_toolkit_do_not_know_each_other(module: Module) -> None:
    """The emulator imports only `errors` and `_names`, and nobody imports the emulator."""
    own = {found.module for found in imports(module) if found.ours}
    if belongs(module.name, {"emulator."}):
        assert {name for name in own if not belongs(name, {"emulator."})} <= EMULATOR_KNOWS
    else:
        assert not {name for name in own if belongs(name, {"emulator."})}


@pytest.mark.parametrize("library", ONLY_IN)
def test_a_foreign_world_has_one_edge(library: str) -> None:
    """A foreign library is imported by the modules that translate it, and by no others."""
    others = (module for name, module in MODULES.items() if not belongs(name, ONLY_IN[library]))
    assert {module.name: lines for module in others if (lines := uses(module, library))} == {}


@pytest.mark.parametrize("library", NEVER_IN)
def test_plain_modules_stay_plain(library: str) -> None:
    """Modules that work on plain values do not import a library of frames."""
    plain = (module for name, module in MODULES.items() if belongs(name, NEVER_IN[library]))
    assert {module.name: lines for module in plain if (lines := uses(module, library))} == {}


@each_module
def test_files_are_short(module: Module) -> None:
    """A file is about one concept and fits its budget."""
    lines = len(module.text.splitlines())
    assert lines <= MAX_FILE_LINES, "which two things are in it?"


@each_module
def test_functions_are_short(module: Module) -> None:
    """A function does one thing and fits its budget; signature and docstring are not counted."""
    long = {}
    for _, node in walk(module.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            lines = 1 + (node.end_lineno or 0) - body[0].lineno if body else 0
            if lines > MAX_FUNCTION_LINES:
                long[node.name] = lines
    assert long == {}


@each_module
def test_names_say_what_a_module_is_about(module: Module) -> None:
    """No module has a name under which anything could stand."""
    assert not {part.strip("_") for part in module.name.split(".")} & EMPTY_NAMES


def public_definitions(tree: ast.Module) -> set[str]:
    """Names without an underscore that a module defines at its top."""
    names: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign) and not ast.unparse(node.value).startswith(("TypeVar(", "ParamSpec(")):
            flat = [part for target in node.targets for part in getattr(target, "elts", [target])]
            names |= {part.id for part in flat if isinstance(part, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return {name for name in names if not name.startswith("_")}


@each_module
def test_all_is_true(module: Module) -> None:
    """`__all__` names every public definition, and nothing that is not there."""
    if all(isinstance(node, ast.Expr) for node in module.tree.body):
        return  # a docstring alone has nothing to name
    dotted = PACKAGE if module.name == "__init__" else f"{PACKAGE}.{module.name}"
    loaded = importlib.import_module(dotted)
    assert hasattr(loaded, "__all__"), f"{module.name} has no __all__"
    absent = [name for name in loaded.__all__ if not hasattr(loaded, name)]
    hidden = public_definitions(module.tree) - set(loaded.__all__)
    assert not absent, f"{module.name}.__all__ names what is not there: {absent}"
    assert not hidden, f"{module.name} defines {hidden}: public ones stand in __all__, others begin with an underscore"


def test_importing_the_package_loads_little() -> None:
    """`import cloudtasks_nb` leaves the API, the widgets and the servers to their first use, and prints nothing."""
    code = f"import sys, {PACKAGE}; sys.stderr.write(' '.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT, timeout=60
    )
    loaded = done.stderr.split()
    assert PACKAGE in loaded
    assert [name for name in LOADED_LATER if name in loaded] == []
    assert done.stdout == ""
