"""Makes the import package of the distribution cloudtasks-emulator from this folder and the modules it shares.

The toolkit's wheel has the emulator as ``cloudtasks_nb.emulator``. The small distribution has it as
``cloudtasks_emulator``, so that both can be installed in one environment and share no file.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

__all__ = ["EmulatorPackage"]

_PACKAGE = "cloudtasks_emulator"
_SHARED = ("errors.py", "_names.py", "display/__init__.py", "display/secrets.py")
# The first ones build and describe the distribution.
_NOT_PACKED = ("hatch_build.py", "pyproject.toml", "README.md", "Dockerfile*", "compose*.yaml", "__pycache__", ".*")
# What modules and the command are called, the longer names first.
_NEW_NAMES = {
    "cloudtasks_nb.emulator": _PACKAGE,
    "cloudtasks_nb": _PACKAGE,
    "cloudtasks-nb emulator": "cloudtasks-emulator",
    "cloudtasks-nb": "cloudtasks-emulator",
}


class EmulatorPackage(BuildHookInterface[Any]):
    """Writes the package to a temporary folder, from which the wheel is packed."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Write the package, and add its files to the wheel."""
        if version == "editable":
            raise ValueError("cloudtasks-emulator cannot be installed with -e: its modules are written at each build")
        source, self._folder = Path(self.root), Path(tempfile.mkdtemp())
        package = self._folder / _PACKAGE
        shutil.copytree(source, package, ignore=shutil.ignore_patterns(*_NOT_PACKED))
        (package / "display").mkdir()
        for name in _SHARED:
            shutil.copy(source.parent / name, package / name)
        for path in package.rglob("*.py"):
            path.write_bytes(_rename(path.read_bytes()))
        with (package / "__init__.py").open("a", encoding="utf-8") as module:
            module.write(f'\n__version__ = "{self.metadata.version}"\n')
        licenses = f"{self.build_config.builder.artifact_project_id}.dist-info/licenses"
        build_data["force_include"] |= {
            str(package): _PACKAGE,
            str(source.parents[1] / "LICENSE"): f"{licenses}/LICENSE",
        }

    def finalize(self, *_: Any) -> None:
        """Remove the temporary folder."""
        shutil.rmtree(self._folder)


def _rename(module: bytes) -> bytes:
    for old, new in _NEW_NAMES.items():
        module = module.replace(old.encode(), new.encode())
    return module
