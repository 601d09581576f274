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


@contextmanager
def faulty_stores(world: World, faults: dict[Process, str]) -> Iterator[None]:
    """Give stores the faults of the processes that use them: slow, read-only, failing (after the write), stale.

    Files have the time of the world.
    """
    put, create, append, read, found = (getattr(Folder, name) for name in ("put", "create", "append", "read", "found"))

    def fault() -> str | None:
        kind = None if world.current is None else faults.get(world.current)
        if kind == "slow" and world.current is not None:
            world.wait(_SLOW)
        return kind

    def writing(write: Any) -> Any:
        def change(folder: Folder, path: str, *args: Any, **words: Any) -> Any:
            if (kind := fault()) == "read-only":
                raise PermissionError(errno.EACCES, "Permission denied")
            done = write(folder, path, *args, **words)
            file = os.path.join(folder._root, path)
            if os.path.exists(file):
                os.utime(file, (START + world.elapsed,) * 2)
            if kind == "failing":
                raise OSError(errno.EIO, "Input/output error")
            return done

        return change

    def reading(folder: Folder, *args: Any) -> Any:
        fault()
        return read(folder, *args)

    def listing(folder: Folder, prefix: str) -> Any:
        newest = START + world.elapsed - (_STALE if fault() == "stale" else 0)
        return (
            one for one in found(folder, prefix) if os.stat(os.path.join(folder._root, one.path)).st_mtime <= newest
        )

    with pytest.MonkeyPatch.context() as patch:
        for name, write in {"put": put, "create": create, "append": append}.items():
            patch.setattr(Folder, name, writing(write))
        patch.setattr(Folder, "read", reading)
        patch.setattr(Folder, "found", listing)
        patch.setattr(disk, "MOUNTS", Path("none"))
        yield
