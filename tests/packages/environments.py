"""A virtual environment outside the repository, into which a test installs wheels."""

import importlib.metadata
import os
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from tests import processes

ROOT = Path(__file__).parents[2]
#: The project of the distribution cloudtasks-emulator.
EMULATOR = ROOT / "cloudtasks_nb/emulator"
#: Seconds after which a command counts as hung; the slowest one fetches the dependencies.
PATIENCE = 600
#: What a new environment has, in Python 3.11 at least, and what Python writes beside modules that were imported.
_NOT_INSTALLED = {"pip", "setuptools", "pkg_resources", "_distutils_hack", "__pycache__"}


@dataclass(frozen=True, slots=True)
class Environment:
    """A folder with an environment `venv` that has nothing of ours; its commands know nothing of the repository."""

    folder: Path

    def __post_init__(self) -> None:
        self.run(sys.executable, "-m", "venv", self.folder / "venv")

    @property
    def bin(self) -> Path:
        """The folder of the environment's commands."""
        return self.folder / "venv/bin"

    @property
    def variables(self) -> dict[str, str]:
        """The environment variables of its commands."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        return inherited | {"CLOUDTASKS_NB_HOME": str(self.folder / "home")}

    def run(self, *command: str | Path) -> str:
        """Run a command in the folder, and return what it prints."""
        done = processes.run(*command, cwd=self.folder, environment=self.variables, timeout=PATIENCE)
        assert done.returncode == 0, f"{command} ends with\n{done.stdout[-2000:]}{done.stderr[-3000:]}"
        return done.stdout

    def pip(self, *arguments: str | Path) -> str:
        """Run pip, and return what it prints."""
        return self.run(self.bin / "python", "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments)

    def build(self, project: Path) -> Path:
        """Build the wheel of a project, and return its path."""
        wheels = self.folder / f"wheel-of-{project.name}"
        self.pip("wheel", "--no-deps", "--wheel-dir", wheels, project)
        return next(wheels.glob("*.whl"))

    def install(self, what: Path) -> None:
        """Install a project or a wheel, and what it depends on in the versions of constraints.txt."""
        self.pip("install", "--no-compile", what, "-c", ROOT / "constraints.txt")

    def packages(self) -> set[str]:
        """Return the names of the distributions that are installed."""
        site = [str(folder) for folder in self.folder.glob("venv/lib/*/site-packages")]
        return {found.name.lower() for found in importlib.metadata.distributions(path=site)}

    def megabytes(self) -> float:
        """Return the size of what was installed, without bytecode."""
        files = [path for path in (self.folder / "venv").rglob("*") if path.is_file() and not path.is_symlink()]
        return sum(path.stat().st_size for path in files if not _NOT_INSTALLED & set(path.parts)) / 1e6


def contents(wheel: Path) -> set[str]:
    """Return the names of the files of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())
