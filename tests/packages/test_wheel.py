"""The wheel, installed in a clean environment outside the repository, is all that a user needs."""

from pathlib import Path

import pytest

from tests.packages.environments import EMULATOR, ROOT, Environment, contents
from tests.test_documents import PYTHON

#: What builds and describes the emulator as a distribution of its own, and is no part of the package.
OF_THE_EMULATORS_BUILD = {"hatch_build.py", "pyproject.toml", "README.md", "Dockerfile", "Dockerfile.dockerignore"}
OF_THE_EMULATORS_BUILD |= {"compose.yaml", "compose.firebase.yaml"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """Return an environment that has the wheel and nothing else of ours."""
    environment = Environment(tmp_path_factory.mktemp("wheel"))
    environment.install(environment.build(ROOT))
    return environment


def test_it_has_every_file_of_the_package(place: Environment) -> None:
    """Modules, the styles and scripts of the panels, and the mark that says that it is typed."""
    package = ROOT / "cloudtasks_nb"
    files = {str(path.relative_to(ROOT)) for path in package.rglob("*") if path.is_file()}
    packed = {name for name in contents(place.build(ROOT)) if ".dist-info/" not in name}
    others = {str((EMULATOR / name).relative_to(ROOT)) for name in OF_THE_EMULATORS_BUILD}
    assert packed == {name for name in files if "__pycache__" not in name} - others
    assert {Path(name).suffix for name in packed} == {".py", ".binpb", ".css", ".html", ".js", ".typed"}


def test_the_ten_lines_run_from_it(place: Environment) -> None:
    """What the README shows runs with the module of the wheel, emulator included."""
    code = f"{PYTHON[0].code}\nprint(*queue.map(report, rows)['state'], ct.__file__, sep='\\n')"
    *states, file = place.run(place.bin / "python", "-c", code).splitlines()[-3:]
    assert states == ["succeeded", "succeeded"]
    assert Path(file).is_relative_to(place.folder / "venv")


def test_the_command_is_there(place: Environment) -> None:
    """`cloudtasks-nb --help` names its commands."""
    printed = place.run(place.bin / "cloudtasks-nb", "--help")
    assert {"emulator", "doctor", "batches", "watch"} <= set(printed.replace(",", " ").replace("{", " ").split())


def test_the_emulator_alone_can_be_installed_beside_it(place: Environment) -> None:
    """The two distributions have no file in common and need nothing more; each has its own command and modules."""
    alone = place.build(EMULATOR)
    assert contents(alone) & contents(place.build(ROOT)) == set()
    before = place.packages()
    place.install(alone)
    assert place.packages() - before == {"cloudtasks-emulator"}
    place.pip("check")
    assert place.run(place.bin / "cloudtasks-emulator", "--help").startswith("usage: cloudtasks-emulator [")
    assert place.run(place.bin / "cloudtasks-nb", "emulator", "--help").startswith("usage: cloudtasks-nb emulator [")
    place.pip("uninstall", "--yes", "cloudtasks-emulator")
    assert place.run(place.bin / "cloudtasks-nb", "emulator", "--help").startswith("usage: cloudtasks-nb emulator [")
