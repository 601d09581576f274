"""The wheel, installed in a clean environment outside the repository, is all that a user needs."""

from __future__ import annotations

import os
import sys
import zipfile
from pathlib import Path

import pytest

from tests import processes
from tests.test_readme import PYTHON

__all__: list[str] = []

ROOT = Path(__file__).parents[1]
#: Seconds after which a command counts as hung; the slowest one fetches the dependencies.
PATIENCE = 600


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command that knows nothing of the repository, and return what it prints."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment["CLOUDTASKS_NB_HOME"] = str(cwd / "home")
    done = processes.run(*command, cwd=cwd, environment=environment, timeout=PATIENCE)
    assert done.returncode == 0, f"{command} ends with\n{done.stdout[-2000:]}{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the wheel, and an environment that has the wheel and nothing else of ours."""
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "venv", folder / "venv", cwd=folder)
    pip = (folder / "venv/bin/python", "-m", "pip", "--quiet", "--disable-pip-version-check")
    run(*pip, "wheel", "--no-deps", "--wheel-dir", folder, ROOT, cwd=folder)
    run(*pip, "install", "--no-compile", next(folder.glob("*.whl")), "-c", ROOT / "constraints.txt", cwd=folder)
    return folder


def test_it_has_every_file_of_the_package(place: Path) -> None:
    """Modules, the styles and scripts of the panels, and the mark that says that it is typed."""
    package = ROOT / "cloudtasks_nb"
    files = {str(path.relative_to(ROOT)) for path in package.rglob("*") if path.is_file()}
    with zipfile.ZipFile(next(place.glob("*.whl"))) as wheel:
        packed = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert packed == {name for name in files if "__pycache__" not in name}
    assert {Path(name).suffix for name in packed} == {".py", ".css", ".html", ".js", ".typed"}


def test_the_ten_lines_run_from_it(place: Path) -> None:
    """What the README shows runs with the module of the wheel, emulator included."""
    printed = run(
        place / "venv/bin/python",
        "-c",
        f"{PYTHON[0].code}\nprint(ct.__file__)\nprint(*batch.tasks()['state'])",
        cwd=place,
    ).splitlines()
    assert Path(printed[-2]).is_relative_to(place / "venv")
    assert printed[-1] == "succeeded succeeded"


def test_the_command_is_there(place: Path) -> None:
    """`cloudtasks-nb --help` names its commands."""
    printed = run(place / "venv/bin/cloudtasks-nb", "--help", cwd=place)
    assert {"emulator", "doctor", "batches", "watch"} <= set(printed.replace(",", " ").replace("{", " ").split())
