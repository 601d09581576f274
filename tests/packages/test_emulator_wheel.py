"""The distribution cloudtasks-emulator: all of the emulator, without what only the toolkit needs."""

import importlib.metadata
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import cloudtasks_nb
from tests.integration.conftest import LOCATION, Emulator, Target
from tests.packages.environments import EMULATOR, ROOT, Environment, contents
from tests.packages.test_wheel import OF_THE_EMULATORS_BUILD
from tests.processes import run
from tests.test_architecture import RULES, belongs, modules
from tests.test_environment import PROJECT, bounds

ALONE: dict[str, Any] = tomllib.loads((EMULATOR / "pyproject.toml").read_text(encoding="utf-8"))["project"]
#: Measured: 56 MB, and 222 MB for the toolkit. What takes ten more is a dependency that needs a reason.
MAX_MEGABYTES = 65
#: The libraries of frames, widgets and notebooks, and the toolkit itself.
OF_THE_TOOLKIT = {"cloudtasks-nb", "pandas", "numpy", "ipywidgets", "anywidget", "ipython", "jupyterlab", "obstore"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """Return an environment that has the wheel of `make emulator-wheel`, and nothing else of ours."""
    environment = Environment(tmp_path_factory.mktemp("emulator"))
    made = run("make", f"VENV={sys.prefix}", f"DIST={environment.folder}", "emulator-wheel", cwd=ROOT)
    assert made.returncode == 0, made.stderr
    environment.install(wheel(environment))
    return environment


@pytest.fixture(scope="module")
def emulator(place: Environment) -> Iterator[Emulator]:
    """Run the emulator of the wheel."""
    command = [str(place.bin / "cloudtasks-emulator")]
    with Emulator("--queue", f"{LOCATION}/queues/q", command=command, environment=place.variables) as child:
        yield child


def wheel(place: Environment) -> Path:
    """Return the wheel that the environment was made of."""
    return next(place.folder.glob("cloudtasks_emulator-*.whl"))


def test_it_depends_on_what_the_emulator_imports(place: Environment) -> None:
    """Each module that it imports is installed with it, and each dependency is imported, with the toolkit's bound."""
    ours = [module for module in modules() if belongs(module.name, {*RULES["emulator_knows"], "emulator."})]
    foreign = {found.module for module in ours for found in module.imports if not found.ours}
    imported = sorted(name for name in foreign if name.partition(".")[0] not in sys.stdlib_module_names)
    code = "import pkgutil, sys; print(*[pkgutil.resolve_name(name) and name for name in sys.argv[1:]])"
    assert len(place.run(place.bin / "python", "-c", code, *imported).split()) >= len(imported)
    for name, bound in bounds(ALONE["dependencies"]).items():
        assert bounds(PROJECT["dependencies"])[name] == bound
        files = {str(file) for file in importlib.metadata.files(name) or ()}
        origins = {part.replace(".", "/") for found in imported for part in (found, found.rpartition(".")[0])}
        assert any({f"{module}.py", f"{module}/__init__.py"} & files for module in origins), f"{name} is not imported"


def test_it_has_every_file_of_the_emulator_and_its_license(place: Environment) -> None:
    """The modules and other files of the emulator, and the two modules that it shares with the toolkit."""
    files = {path.relative_to(EMULATOR) for path in EMULATOR.rglob("*") if path.is_file()}
    files = {path for path in files if "__pycache__" not in path.parts and path.name not in OF_THE_EMULATORS_BUILD}
    packed = contents(wheel(place))
    modules = {f"cloudtasks_emulator/{name}" for name in ("errors.py", "_names.py", *map(str, files))}
    assert {name for name in packed if ".dist-info/" not in name} == modules
    assert len([name for name in packed if name.endswith(".dist-info/licenses/LICENSE")]) == 1


def test_nothing_in_it_names_the_toolkits_package(place: Environment) -> None:
    """No module imports or mentions `cloudtasks_nb`, which is not installed."""
    with zipfile.ZipFile(wheel(place)) as archive:
        modules = {name: archive.read(name).decode() for name in archive.namelist() if name.endswith(".py")}
    assert [name for name, text in modules.items() if "cloudtasks_nb" in text or "cloudtasks-nb" in text] == []
    assert "from cloudtasks_emulator.errors import" in modules["cloudtasks_emulator/__main__.py"]


def test_it_is_small(place: Environment) -> None:
    """It brings no library of frames, widgets or notebooks, and takes a third of the disk that the toolkit does."""
    packages = place.packages()
    assert {"cloudtasks-emulator", "aiohttp"} <= packages
    assert packages & OF_THE_TOOLKIT == set()
    megabytes = place.megabytes()
    assert megabytes <= MAX_MEGABYTES, f"the emulator and its dependencies take {megabytes:.1f} MB"


def test_its_version_is_the_toolkits(place: Environment) -> None:
    """The command, `python -m` and the metadata tell the version of the package that it was made of."""
    version = cloudtasks_nb.__version__
    assert wheel(place).name == f"cloudtasks_emulator-{version}-py3-none-any.whl"
    assert place.run(place.bin / "cloudtasks-emulator", "--version") == f"cloudtasks-emulator {version}\n"
    assert place.run(place.bin / "python", "-m", "cloudtasks_emulator", "--version").endswith(f" {version}\n")


def test_it_delivers_tasks(emulator: Emulator) -> None:
    """Google's client and a plain HTTP request create them, and the target receives them; the health check answers."""
    assert emulator.request("GET", "/health")["instance"] == emulator.ready["instance"]
    with Target() as target:
        emulator.enqueue(f"{LOCATION}/queues/q", target.url)
        emulator.request("POST", f"/v2/{LOCATION}/queues/q/tasks", {"task": {"httpRequest": {"url": target.url}}})
        target.wait(2)
    emulator.drained(f"{LOCATION}/queues/q")


def test_it_refuses_an_editable_install(place: Environment) -> None:
    """`pip install -e` says why it cannot work, and leaves what is installed."""
    with pytest.raises(AssertionError, match="cannot be installed with -e"):
        place.pip("install", "--no-deps", "-e", EMULATOR)
    assert "cloudtasks-emulator" in place.packages()
