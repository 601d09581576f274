"""Pack this package, as it is installed here, into a wheel that a deployed service installs."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from importlib import metadata
from pathlib import Path

__all__ = ["wheel_name", "write_wheel"]

_FOLDER = Path(__file__).parents[1]
_NAME = "cloudtasks-nb"
_TIME = (2020, 1, 1, 0, 0, 0)  # the same package gives the same bytes, so that a build can be cached


def wheel_name() -> str:
    """Return the name of the wheel's file."""
    return f"cloudtasks_nb-{metadata.version(_NAME)}-py3-none-any.whl"


def write_wheel(folder: Path) -> Path:
    """Write the wheel into a folder, in place of other versions, and return its path.

    Its metadata name no dependencies: a deployed handler needs few of them, and ``requirements.txt`` lists these
    (https://packaging.python.org/en/latest/specifications/binary-distribution-format/).
    """
    for other in folder.glob("cloudtasks_nb-*.whl"):
        other.unlink()
    version, requires = metadata.version(_NAME), metadata.metadata(_NAME)["Requires-Python"]
    about = f"cloudtasks_nb-{version}.dist-info"
    files = {f"cloudtasks_nb/{path.relative_to(_FOLDER).as_posix()}": path.read_bytes() for path in _package_files()}
    files[f"{about}/METADATA"] = (
        f"Metadata-Version: 2.1\nName: {_NAME}\nVersion: {version}\n"
        f"Summary: The handlers of cloudtasks_nb\nRequires-Python: {requires}\n"
    ).encode()
    kind = "Wheel-Version: 1.0\nGenerator: cloudtasks_nb\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files[f"{about}/WHEEL"] = kind.encode()
    record = [f"{name},sha256={_digest(content)},{len(content)}" for name, content in files.items()]
    files[f"{about}/RECORD"] = "\n".join([*record, f"{about}/RECORD,,", ""]).encode()
    wheel = folder / wheel_name()
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name, _TIME), content, zipfile.ZIP_DEFLATED)
    return wheel


def _package_files() -> list[Path]:
    files = (path for path in _FOLDER.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return sorted(files)


def _digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
