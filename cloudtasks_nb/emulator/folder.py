"""The data folder of an emulator: its lock, its files, and the address of the running emulator."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

import orjson
from filelock import FileLock, Timeout

from cloudtasks_nb.errors import EmulatorError, FolderInUseError

__all__ = ["Folder", "remove_abandoned"]

_PREFIX = "cloudtasks-"  # of temporary folders
_LOCK = "emulator.lock"
_MARK = "temporary"  # a file that only temporary folders have
_NEW = 60.0  # seconds in which the emulator of a new folder takes its lock


class Folder:
    """An emulator's files, locked while the context is open.

    Parameters
    ----------
    path : Path, optional
        Created if it does not exist; None for a temporary folder, which is removed at the end.
    """

    def __init__(self, path: Path | None) -> None:
        self.temporary = path is None
        if self.temporary:
            remove_abandoned(Path(tempfile.gettempdir()))
        self.path = path.absolute() if path is not None else Path(tempfile.mkdtemp(prefix=_PREFIX))
        self._endpoint = self.path / "endpoint.json"
        self._lock = FileLock(self.path / _LOCK, mode=0o600)

    def __enter__(self) -> Self:
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise FolderInUseError(
                f"{self.path} is in use by another emulator",
                resource=str(self.path),
                hint=f"use that emulator, whose address is in {self._endpoint}, or choose another folder",
            ) from error
        except OSError as error:
            raise EmulatorError(f"{self.path} cannot be used: {error}", resource=str(self.path)) from error
        if self.temporary:
            (self.path / _MARK).touch()
        # A killed emulator leaves this file, and its address may now belong to another program.
        self._endpoint.unlink(missing_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._endpoint.unlink(missing_ok=True)
        self._lock.release()
        if self.temporary:
            shutil.rmtree(self.path, ignore_errors=True)

    def instance(self) -> str:
        """Return the id of this folder's emulator, which is created at its first start."""
        file = self.path / "instance"
        if not file.exists():
            file.write_text(str(uuid4()), encoding="ascii")
        return file.read_text(encoding="ascii").strip()

    def announce(self, endpoint: dict[str, Any]) -> None:
        """Write the address of the emulator to the folder; readers never see half a file."""
        descriptor, draft = tempfile.mkstemp(dir=self.path, prefix="endpoint.json.")  # which only this user can read
        with os.fdopen(descriptor, "wb") as file:
            file.write(orjson.dumps(endpoint))
        Path(draft).replace(self._endpoint)


def remove_abandoned(parent: Path) -> None:
    """Remove the temporary folders that killed emulators have left."""
    for path in parent.glob(f"{_PREFIX}*"):
        with suppress(OSError, Timeout):  # it is in use, or somebody else's
            if (path / _MARK).is_file() and path.stat().st_mtime < time.time() - _NEW:
                with FileLock(path / _LOCK, timeout=0):
                    shutil.rmtree(path, ignore_errors=True)
