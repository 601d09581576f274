"""What the package may look like: who imports whom, which module touches which foreign library, how long things are.

The order of the packages is the table under "Layers" in ARCHITECTURE.md. What ruff checks already is not repeated:
docstrings, order of `__all__`, complexity, nesting, imports in functions.
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
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

__all__: list[str] = []

ROOT = Path(__file__).parents[1]
PACKAGE = "cloudtasks_nb"

MAX_TOP_LEVEL = 16
MAX_FILE_LINES = 600
MAX_FUNCTION_LINES = 40  # without signature and docstring

#: These say nothing about what a module is about.
EMPTY_NAMES = {"common", "core", "helper", "helpers", "lib", "manager", "misc", "tools", "util", "utils"}

#: The modules that translate between the API's messages and plain values.
PROTOBUF = {
    "service.convert",
    "service.refusal",
    "service.rest",
    "service.rpcs",
    "service.transport",
    "service.oplog",
    "fanout.plan.literal",
    "fanout.plan.render",
    "fanout.sender.request_sender",
    "emulator.",
}
#: Foreign library -> the only modules that may import it. `x.` stands for every module of the package x.
ONLY_IN = {
    "ipywidgets": {"panels."},
    "anywidget": {"panels.", "display.browser_tab"},
    "google.protobuf": PROTOBUF,
    "google.cloud": PROTOBUF,
    "google.api_core": {"service.transport"},
    "google.auth": {
        "service.auth",
        "service.auth_errors",
        "service.google_apis",
        "service.principal",
        "service.transport",
        "handlers.",
        "emulator.access.tokens",
    },
    "google.oauth2": {"service.principal", "handlers."},
    "grpc": {"service.transport", "emulator."},
    "aiohttp": {"handlers.", "emulator."},
    "cryptography": {"emulator."},
    "obstore": {"store."},
    "re2": {"emulator.api.filter"},
    "yaml": {"emulator.model.config_file"},
}
#: Foreign library -> modules that stay free of it, because they work on plain values only.
NEVER_IN = {
    "pandas": {
        "_loop",
        "service.transport",
        "store.",
        "fanout.outbox.",
        "fanout.sender.",
        "fanout.batch.progress",
        "emulator.",
    },
}
#: The emulator is a program of its own: of the toolkit it knows these, and the toolkit starts it as a child process.
EMULATOR_KNOWS = {"errors", "_names"}

#: What `import cloudtasks_nb` leaves to the first use.
LOADED_LATER = (
    "ipywidgets",
    "anywidget",
    "google.cloud",
    "google.auth",
    "grpc",
    "aiohttp",
    "obstore",
    "tqdm",
    "cryptography",
)

#: What a deployed handler does without.
NOT_DEPLOYED = (
    *("pandas", "numpy", "grpc", "google.cloud", "google.api_core", "google.protobuf", "aiohttp", "ipywidgets"),
    *("anywidget", "cloudpickle", "filelock", "platformdirs", "re2", "tqdm"),
)


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


#: The build script of the emulator's own distribution is no module of the package.
FILES = sorted(path for path in (ROOT / PACKAGE).rglob("*.py") if path.name != "hatch_build.py")
MODULES = {module.name: module for module in map(read_module, FILES)}
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
    """Return the module that a relative import names."""
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


def layers() -> list[list[str]]:
    """Read the table of layers: for each row its modules and packages, `x.y` for a package in a package."""
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    section = text.partition("\n## Layers\n")[2].partition("\n## ")[0]
    cells = re.findall(r"^\| [\dE]+ \| (`.+?) \|", section, flags=re.MULTILINE)
    return [[word.strip("/").replace("/", ".") for word in re.findall(r"`([\w/]+)`", cell)] for cell in cells]


#: Part of the package -> its floor; a part is a module at the top, a package, or a package in a package.
FLOORS = {part: floor for floor, parts in enumerate(layers()) for part in parts}


def part_of(name: str) -> str | None:
    """Name the part that a module belongs to: the longest one of the table that its name begins with."""
    words = name.split(".")
    return next((part for depth in range(len(words), 0, -1) if (part := ".".join(words[:depth])) in FLOORS), None)


def belongs(name: str, group: set[str]) -> bool:
    """Return whether a module is in a group in which `x.` stands for the whole package x, with the packages in it."""
    return name in group or f"{name}.".startswith(tuple(entry for entry in group if entry.endswith(".")))


def uses(module: Module, library: str) -> list[int]:
    """Lines on which a module imports a library."""
    return [found.line for found in imports(module) if f"{found.module}.".startswith(f"{library}.") and not found.ours]


@each_module
def test_every_module_has_a_floor(module: Module) -> None:
    """A module belongs to a part in the table of layers."""
    assert part_of(module.name) is not None, f"{module.name} is new: add it to '## Layers' in ARCHITECTURE.md"


def test_the_table_names_only_what_is_there() -> None:
    """The table of layers describes the package as it is, and names each part once."""
    listed = Counter(part for parts in layers() for part in parts)
    assert [part for part, count in listed.items() if count > 1] == []
    assert [part for part in listed if part not in MODULES] == []


def test_the_top_level_is_small() -> None:
    """At most 16 modules and packages stand at the top of the package."""
    assert len({name.partition(".")[0] for name in MODULES} - {"__init__"}) <= MAX_TOP_LEVEL


@each_module
def test_imports_point_to_lower_floors(module: Module) -> None:
    """A module imports only from its own part and from lower floors, at its top and in its functions."""
    own = part_of(module.name) or ""
    wrong = {
        found.module: found.line
        for found in imports(module)
        if found.ours
        and (part := part_of(found.module)) != own
        and FLOORS.get(part or "", -1) >= FLOORS.get(own, -1)
        and not own.startswith(f"{part}.")  # the root package itself, which holds only its docstring and its names
    }
    assert not wrong, f"{module.name} imports from its own floor or a higher one (module: line): {wrong}"


def test_no_module_imports_itself_by_a_detour() -> None:
    """The graph of imports has no cycle, those in functions included."""
    graph = {
        name: {found.module for found in imports(module) if found.ours and found.module != name}
        for name, module in MODULES.items()
    }
    TopologicalSorter(graph).prepare()


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
    """A file is about one concept and fits its budget; the examples of docstrings are not counted."""
    counted = re.sub(r'\n\n +Examples\n +-+\n.*?(?=""")', "", module.text, flags=re.DOTALL)
    assert len(counted.splitlines()) <= MAX_FILE_LINES, "which two things are in it?"


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


def test_a_deployed_handler_loads_little() -> None:
    """`app` works without the libraries of frames, of the API and of servers: a deployed service has none of them."""
    blocked = (*NOT_DEPLOYED, "cloudtasks_nb.service", "cloudtasks_nb.display")
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({blocked}))\n"
        "from cloudtasks_nb.handlers import app\n"
        "application = app(dict, audience='a', service_account='b', store='memory://results')\n"
        "print(callable(application))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT, timeout=60
    )
    assert (done.stdout, done.stderr) == ("True\n", "")


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
