"""Rows that cannot be stored are not sent: a full disk or a locked outbox is an error, and nothing has happened."""

import hashlib
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

import cloudtasks_nb as ct
from cloudtasks_nb.errors import OutboxError
from tests.integration.conftest import Target
from tests.raising import raises


@contextmanager
def small_files() -> Iterator[None]:
    """Let no file of this process grow beyond 1 MB, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def used(folder: Path) -> int:
    """Return how many bytes the files of a folder have."""
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file())


@contextmanager
def small_disk() -> Iterator[None]:
    """Let each folder be a disk of 8 MB, on which nothing more can have been written."""

    def usage(folder: Path) -> SimpleNamespace:
        free = 8_000_000 - used(Path(folder))
        assert free > 0
        return SimpleNamespace(free=free)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(shutil, "disk_usage", usage)
        yield


def cell(queue: ct.Queue, target: Target, name: str, rows: int) -> ct.Batch:
    """Run a cell."""
    texts = [hashlib.sha512(f"{name} {row}".encode()).hexdigest() for row in range(rows)]
    return queue.fan_out(pd.DataFrame({"text": texts}), url=target.url, name=name, progress=False)


@pytest.mark.parametrize("small", [small_files, small_disk])
def test_a_full_disk(
    tasks: ct.Client, once: ct.Queue, target: Target, small: Callable[[], AbstractContextManager[None]]
) -> None:
    """The error names the file and the ways out, and nothing was sent; what is small works, and later the cell."""
    old = cell(once, target, "old", 100)
    old.wait("240s")
    with small():
        for few in ("few", "few more"):
            with raises(OutboxError, r"outbox\.sqlite3.* is full", hint="CLOUDTASKS_NB_HOME"):
                cell(once, target, "many", 60_000)
            assert "many" not in set(tasks.batches()["name"])
            assert once.tasks().empty
            assert cell(once, target, few, 50).wait("240s").succeeded == 50
        old.delete()
        outbox = tasks._catalog.outbox.path
        assert used(outbox.parent) < 8_000_000
        assert outbox.with_name(f"{outbox.name}-wal").stat().st_size < 1_000_000
    assert len(target.received) == 200
    assert cell(once.pause(), target, "many", 60_000).progress().total == 60_000
