"""What the package may look like: who imports whom, which module touches which foreign library, how long things are.

The order of the packages is the table under "Layers" in ARCHITECTURE.md. What ruff checks already is not repeated:
docstrings, order of `__all__`, complexity, nesting, imports in functions.
"""

import ast
import importlib
import re
import sys
import tomllib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from tests.processes import run

ROOT = Path(__file__).parents[1]
PACKAGE = "cloudtasks_nb"

MAX_TOP_LEVEL = 16
MAX_FILE_LINES = 600
MAX_FUNCTION_LINES = 40  # without signature and docstring

#: A part in a row of the table of layers; a package ends with a stroke.
WORD = re.compile(r"`([\w/]+?)/?`")
#: The examples of a docstring, with their heading.
EXAMPLES = re.compile(r'\n\n +Examples\n +-+\n.*?(?=""")', re.DOTALL)

RULES: dict[str, Any] = tomllib.loads((ROOT / "tests" / "architecture.toml").read_text(encoding="utf-8"))
ONLY_IN: dict[str, set[str]] = {library: {*modules} for library, modules in RULES["only_in"].items()}
ONLY_IN["google.protobuf"] |= {*RULES["translating"]}
ONLY_IN |= {library: {*RULES["translating"]} for library in RULES["of_the_api"]}
NEVER_IN = {library: {*modules} for library, modules in RULES["never_in"].items()}
EMPTY_NAMES = {*RULES["empty_names"]}


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """One import statement; our own modules are named without the package, `__init__` is the package itself."""

    module: str  #: dotted name; for `from x import y` x.y, of our own packages the module that it leads to
    ours: bool
    line: int

    def leads_to(self, library: str) -> bool:
        """Return whether it is an import of a foreign library, or of a part of it."""
        return not self.ours and f"{self.module}.".startswith(f"{library}.")


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Module:
    """One file of the package, parsed."""

    name: str  #: `fanout.plan._plan`; a package has its folder's name
    text: str
    tree: ast.Module
    imports: list[Import]  #: those in functions and under TYPE_CHECKING too


@cache
def files() -> dict[str, Path]:
    """Find the modules of the package; the build script of the emulator's own distribution is none."""
    paths = [path for path in sorted((ROOT / PACKAGE).rglob("*.py")) if path.name != "hatch_build.py"]
    parts = [path.relative_to(ROOT / PACKAGE).with_suffix("").parts for path in paths]
    names = [".".join(each[:-1] if each[-1] == "__init__" and len(each) > 1 else each) for each in parts]
    return dict(zip(names, paths, strict=True))


@cache
def modules() -> list[Module]:
    """Parse every module of the package, at the first use."""
    return [read_module(name, path) for name, path in files().items()]


def read_module(name: str, path: Path) -> Module:
    """Parse one file of the package."""
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text, filename=str(path))
    return Module(name=name, text=text, tree=tree, imports=list(imports(path, tree)))


def own_module(dotted: str) -> str:
    """Name the module that `cloudtasks_nb.x.y` leads to: the longest part of it that is a file here."""
    parts = dotted.split(".")[1:]
    while parts and ".".join(parts) not in files():
        parts.pop()
    return ".".join(parts) or "__init__"


def imports(path: Path, tree: ast.Module) -> Iterator[Import]:
    """Find every import of a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            origin = absolute(path, node)
            names = [f"{origin}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            ours = name.partition(".")[0] == PACKAGE
            yield Import(module=own_module(name) if ours else name, ours=ours, line=node.lineno)


def absolute(path: Path, node: ast.ImportFrom) -> str:
    """Return the module that a relative import names."""
    if not node.level:
        return node.module or ""
    folder = (PACKAGE, *path.relative_to(ROOT / PACKAGE).parts[:-1])
    return ".".join((*folder[: len(folder) + 1 - node.level], *filter(None, [node.module])))


@cache
def floors() -> dict[str, int]:
    """Read the table of layers: part of the package -> its floor. A part is a module or a package, at any depth."""
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    section = text.partition("\n## Layers\n")[2].partition("\n## ")[0]
    cells = re.findall(r"^\| [\dE]+ \| (`.+?) \|", section, flags=re.MULTILINE)
    listed = [(word.replace("/", "."), floor) for floor, cell in enumerate(cells) for word in WORD.findall(cell)]
    assert len(listed) == len(dict(listed)), "the table of layers names a part twice"
    return dict(listed)


def part_of(name: str) -> str | None:
    """Name the part that a module belongs to: the longest one of the table that its name begins with."""
    words = name.split(".")
    return next((part for depth in range(len(words), 0, -1) if (part := ".".join(words[:depth])) in floors()), None)


def belongs(name: str, group: set[str]) -> bool:
    """Return whether a module is in a group in which `x.` stands for the whole package x, with the packages in it."""
    return name in group or f"{name}.".startswith(tuple(entry for entry in group if entry.endswith(".")))


def check(advice: str, wrong: Iterable[str]) -> None:
    """Fail with every offender, one a line."""
    assert not (offenders := list(wrong)), "\n".join([advice, *offenders])


def check_imports(advice: str, allowed: Callable[[Module, Import], bool]) -> None:
    """Fail with every import that is not allowed: `fanout.batch.batch:12 imports panels.panel`."""
    found = ((module, each) for module in modules() for each in module.imports if not allowed(module, each))
    check(advice, (f"{module.name}:{each.line} imports {each.module}" for module, each in found))


def test_every_module_has_a_floor() -> None:
    """A module belongs to a part in the table of layers, and the table names only parts that are there."""
    check("add to '## Layers' in ARCHITECTURE.md:", (name for name in files() if part_of(name) is None))
    check("no module is in these parts of the table:", (part for part in floors() if part not in files()))


def test_the_top_level_is_small() -> None:
    """At most 16 modules and packages stand at the top of the package."""
    assert len({name.partition(".")[0] for name in files()} - {"__init__"}) <= MAX_TOP_LEVEL


def test_imports_point_to_lower_floors() -> None:
    """A module imports only from its own part and from lower floors, at its top and in its functions."""

    def is_lower(module: Module, found: Import) -> bool:
        own, part = part_of(module.name) or "", part_of(found.module) or ""
        # The root package itself holds only its docstring and its names.
        inside = own == part or own.startswith(f"{part}.")
        return not found.ours or inside or floors().get(part, -1) < floors().get(own, -1)

    check_imports("imports from the same floor or a higher one:", is_lower)


def test_no_module_imports_itself_by_a_detour() -> None:
    """The graph of imports has no cycle, those in functions included."""
    graph = {
        module.name: {found.module for found in module.imports if found.ours and found.module != module.name}
        for module in modules()
    }
    TopologicalSorter(graph).prepare()


def test_emulator_and_toolkit_do_not_know_each_other() -> None:
    """The emulator imports only `errors` and `_names`, and nobody imports the emulator."""

    def is_apart(module: Module, found: Import) -> bool:
        if belongs(module.name, {"emulator."}):
            return not found.ours or belongs(found.module, {"emulator.", *RULES["emulator_knows"]})
        return not found.ours or not belongs(found.module, {"emulator."})

    check_imports("between emulator and toolkit:", is_apart)


def test_strict_is_loaded_with_its_option_only() -> None:
    """The emulator knows of `strict` in one place, which loads it if the option is given."""

    def is_apart(module: Module, found: Import) -> bool:
        inside = belongs(module.name, {"emulator.strict."}) or module.name == "emulator.server"
        return inside or not (found.ours and belongs(found.module, {"emulator.strict."}))

    check_imports("of what `--strict` adds:", is_apart)
    code = "import sys, cloudtasks_nb.emulator.server; print([name for name in sys.modules if '.strict' in name])"
    assert run(sys.executable, "-c", code, cwd=ROOT).stdout == "[]\n"


def test_a_foreign_world_has_one_edge() -> None:
    """A foreign library is imported by the modules that translate it only, and by none that stays plain."""
    check_imports(
        "in modules that do not translate it, or that work on plain values:",
        lambda module, found: (
            all(not found.leads_to(one) or belongs(module.name, modules) for one, modules in ONLY_IN.items())
            and not any(found.leads_to(one) and belongs(module.name, plain) for one, plain in NEVER_IN.items())
        ),
    )


def test_files_are_short() -> None:
    """A file is about one concept and fits its budget; the examples of docstrings are not counted."""
    lines = {module.name: len(EXAMPLES.sub("", module.text).splitlines()) for module in modules()}
    check("which two things are in it?", (name for name, count in lines.items() if count > MAX_FILE_LINES))


def test_functions_are_short() -> None:
    """A function does one thing and fits its budget; signature and docstring are not counted."""
    long = []
    for module in modules():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                body = node.body[1:] if ast.get_docstring(node) else node.body
                if body and (node.end_lineno or 0) - body[0].lineno >= MAX_FUNCTION_LINES:
                    long.append(f"{module.name}.{node.name}")
    check("too long:", long)


def test_names_say_what_a_module_is_about() -> None:
    """No module has a name under which anything could stand."""
    check(
        "says nothing:",
        (name for name in files() if {part.strip("_") for part in name.split(".")} & EMPTY_NAMES),
    )


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


def test_all_is_true() -> None:
    """`__all__` names every public definition, and nothing that is not there."""
    wrong = []
    for module in modules():
        loaded = importlib.import_module(PACKAGE if module.name == "__init__" else f"{PACKAGE}.{module.name}")
        listed = set(getattr(loaded, "__all__", ()))
        if not hasattr(loaded, "__all__") and not all(isinstance(node, ast.Expr) for node in module.tree.body):
            wrong.append(f"{module.name} has no __all__")  # a docstring alone has nothing to name
        wrong += [f"{module.name}.__all__: no {name} is there" for name in listed if not hasattr(loaded, name)]
        wrong += [f"{module.name}.__all__ lacks {name}" for name in public_definitions(module.tree) - listed]
    check("public names stand in __all__, others begin with an underscore:", wrong)


def test_a_deployed_handler_loads_little() -> None:
    """`app` works without the libraries of frames, of the API and of servers: a deployed service has none of them."""
    shown = (name for name in files() if name.startswith("display.") and name != "display.secrets")
    blocked = (*RULES["not_deployed"], f"{PACKAGE}.service", *(f"{PACKAGE}.{name}" for name in shown))
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({blocked}))\n"
        "from cloudtasks_nb.handlers import app\n"
        "from cloudtasks_nb import GiveUp, TryLater\n"
        "application = app(dict, audience='a', service_account='b', store='memory://results')\n"
        "print(callable(application))"
    )
    done = run(sys.executable, "-c", code, cwd=ROOT)
    assert (done.stdout, done.stderr) == ("True\n", "")


def test_importing_the_package_loads_little() -> None:
    """`import cloudtasks_nb` leaves the API, the widgets and the servers to their first use, and prints nothing."""
    code = f"import sys, {PACKAGE}; sys.stderr.write(' '.join(sys.modules))"
    done = run(sys.executable, "-c", code, cwd=ROOT)
    loaded = done.stderr.split()
    assert (done.returncode, done.stdout, PACKAGE in loaded) == (0, "", True)
    assert [name for name in RULES["loaded_later"] if name in loaded] == []
