"""Kernels of analysts in a simulated world, and the folder of the store that they share, with its faults."""

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

from cloudtasks_nb.client.client import Client
from cloudtasks_nb.fanout import disk
from cloudtasks_nb.service.connection import Connection
from cloudtasks_nb.service.watch import Watcher
from cloudtasks_nb.store.folder import Folder
from tests.simulation.cloud import Cloud, Wire
from tests.simulation.world import START, Process, World

T = TypeVar("T")

_SLOW = 6.0  # seconds for a call of a slow store
_STALE = 20.0  # seconds for which a stale store lists no new object
_LOG_READS = 60_000  # a minute


class Kernel:
    """A kernel with a connection; its verbs run to their ends, and other processes go on meanwhile."""

    def __init__(self, cloud: Cloud, home: Path, store: Path, ahead: float = 0.0) -> None:
        self.process = Process(cloud.process.world, home, ahead)
        with self.process.world.within(self.process):
            wire = Wire(self.process, cloud)
            connection = Connection(wire.endpoint, wire.auth, store=store)
            connection.transport, connection.watcher = wire, Watcher(wire, log_reads=_LOG_READS)
            self.connection, self.tasks = connection, Client(connection)

    def do(self, function: Callable[[Client], T]) -> T:
        """Run a cell."""
        with self.process.world.within(self.process):
            return function(self.tasks)

    def close(self) -> None:
        """Close its files at the end of the world."""
        outbox = self.tasks._catalog._outbox
        if outbox is not None:
            outbox._database.close()


def copy_home(home: Path, to: Path) -> None:
    """Copy a home as a backup does between two writes, in place of what is there."""
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(home, to, ignore=shutil.ignore_patterns("*.lock"))


class _Disk:
    """The methods of a folder, as each process of a world has them."""

    def __init__(self, world: World, faults: dict[Process, str]) -> None:
        self._world, self._faults = world, faults
        self._read, self._found = Folder.read, Folder.found

    def _fault(self) -> str | None:
        kind = None if self._world.current is None else self._faults.get(self._world.current)
        if kind == "slow":
            self._world.wait(_SLOW)
        if kind == "down":
            raise OSError(errno.EIO, "Input/output error")
        return kind

    def writing(self, write: Any) -> Any:
        """Return a method that writes in place of one."""

        def change(folder: Folder, path: str, *args: Any, **words: Any) -> Any:
            if (kind := self._fault()) == "read-only":
                raise PermissionError(errno.EACCES, "Permission denied")
            done, file = write(folder, path, *args, **words), Path(folder._root, path)
            if file.exists():
                os.utime(file, (START + self._world.elapsed,) * 2)
            if kind == "failing":
                raise OSError(errno.EIO, "Input/output error")
            return done

        return change

    def read(self, folder: Folder, *args: Any) -> Any:
        """Read a part of a file."""
        self._fault()
        return self._read(folder, *args)

    def found(self, folder: Folder, prefix: str) -> Any:
        """List files."""
        newest = START + self._world.elapsed - (_STALE if self._fault() == "stale" else 0)
        listed = self._found(folder, prefix)
        return (one for one in listed if Path(folder._root, one.path).stat().st_mtime <= newest)


@contextmanager
def faulty_stores(world: World, faults: dict[Process, str]) -> Iterator[None]:
    """Give stores the faults of the processes that use them.

    These are slow, down, read-only, failing (after the write), and stale. Files have the time of the world.
    """
    faulty = _Disk(world, faults)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("put", "create", "append"):
            patch.setattr(Folder, name, faulty.writing(getattr(Folder, name)))
        patch.setattr(Folder, "read", lambda *args: faulty.read(*args))  # noqa: PLW0108 - a bound method would not get the folder
        patch.setattr(Folder, "found", lambda *args: faulty.found(*args))  # noqa: PLW0108 - as above
        patch.setattr(disk, "MOUNTS", Path("none"))
        yield
