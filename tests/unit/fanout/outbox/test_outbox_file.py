"""The outbox as a file: how long it keeps what, who may use it at once, and what can be wrong with it."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import fields
from pathlib import Path
from typing import Any

import orjson
import pytest

from cloudtasks_nb.errors import OutboxError, StoreError
from cloudtasks_nb.fanout.evidence import Fact, Source
from cloudtasks_nb.fanout.outbox import database
from cloudtasks_nb.fanout.outbox.database import Hold, hold
from cloudtasks_nb.fanout.outbox.outbox import KEPT_DAYS, Outbox, sweep
from cloudtasks_nb.fanout.outbox.records import (
    BatchFacts,
    Cancel,
    Published,
    Reached,
    RowFilter,
    Spooled,
    StoredGate,
    whole,
)
from cloudtasks_nb.fanout.outbox.spool import BatchSpec
from cloudtasks_nb.fanout.states import State
from cloudtasks_nb.store.store import Store
from tests.cases import cases
from tests.processes import end
from tests.raising import raises
from tests.threads import at_once
from tests.unit.fanout.conftest import NOW, PLACE, chunk, chunks, put_facts, refs, send_all, spool, tables, tell


@pytest.mark.parametrize("slice_", [20_000, 1_000])
def test_a_batch_goes_90_days_after_its_last_change(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch, slice_: int
) -> None:
    """What nobody touched for three months goes whole; what was touched stays whole."""
    old, used = (spool(outbox, chunks(range(at, at + 3_000))).batch for at in (0, 10_000))
    put_facts(outbox, old, corrected=1)
    monkeypatch.setattr("cloudtasks_nb.fanout.outbox.outbox._SLICE", slice_)
    day = 86_400.0
    born = outbox.batches.get(old).created.timestamp()
    monkeypatch.setattr("time.time", lambda: born + (KEPT_DAYS - 1) * day)
    sum(outbox.requests.cancel(whole(used)))
    assert outbox.sweep() == 0
    monkeypatch.setattr("time.time", lambda: born + (KEPT_DAYS + 1) * day)
    assert outbox.sweep() == 1
    assert [record.id for record in outbox.batches.find()] == [used]
    left = {"rows": 3_000, "keys": 3_000, "hidden": 0, "facts": 0}
    assert left.items() <= tables(outbox.path).items()
    assert len(refs(outbox, used)) == 3_000


def test_a_large_sweep_goes_on_the_next_time(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Removing takes no longer than it may; what is left is invisible and goes later."""
    spool(outbox, chunks(range(3_000)))
    later = outbox.batches.find()[0].created.timestamp() + 100 * 86_400
    monkeypatch.setattr("time.time", lambda: later)
    with closing(sqlite3.connect(outbox.path, isolation_level=None)) as connection:
        assert sweep(connection, outbox.path, now=later, limit=-1.0) == 0
        assert outbox.batches.find() == []
    assert outbox.sweep() == 1


def test_what_a_batch_has_used_is_given_back_to_the_disk(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """When a batch is removed no page of the file stays free."""
    spool(outbox, chunks(range(3_000)))
    later = outbox.batches.find()[0].created.timestamp() + 100 * 86_400
    monkeypatch.setattr("time.time", lambda: later)
    with closing(sqlite3.connect(outbox.path)) as connection:
        (before,) = connection.execute("PRAGMA page_count").fetchone()
        assert outbox.sweep() == 1
        assert connection.execute("PRAGMA freelist_count").fetchone() == (0,)
        assert connection.execute("PRAGMA page_count").fetchone()[0] < before / 2


def test_a_sweep_leaves_connections_as_patient_as_they_were(outbox: Outbox, batch: str) -> None:
    """Whoever gets its connection later waits for others that write, and is not told that the file is locked."""

    def patience() -> object:
        return outbox._database.read(lambda connection: connection.execute("PRAGMA busy_timeout").fetchone())

    before = patience()
    outbox.batches.delete(batch)
    assert outbox.sweep() == 1
    assert patience() == before


def test_locks_leave_no_files(outbox: Outbox, batch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file of a lock goes with its release, and that of a killed process with a later sweep."""
    folder = outbox.path.parent / "locks"
    for lock in (outbox.requests.lock(batch), outbox.requests.lock(batch, "cancel")):
        assert lock is not None
        lock.release()
    assert list(folder.iterdir()) == []
    held = outbox.requests.lock(batch)
    (folder / "spool-7.lock").touch()
    outbox.sweep()
    assert len(list(folder.iterdir())) == 2
    later = outbox.batches.find()[0].created.timestamp() + 86_400
    monkeypatch.setattr("time.time", lambda: later)
    outbox.sweep()
    assert [file.name for file in folder.iterdir()] == [f"{batch}-send.lock"], "it is held"
    assert held is not None
    held.release()


def test_a_spool_that_ends_meanwhile_is_not_swept(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch that is committed between the sweeper's look and its lock stays whole."""
    found: list[Spooled] = []

    def slow_hold(path: Path, name: str) -> Hold | None:
        if not found:
            found.append(spooling.commit())
            manager.__exit__(None, None, None)
        return hold(path, name)

    manager = outbox.spool(BatchSpec(place=PLACE, recipe=b"r"))
    spooling = manager.__enter__()
    spooling.add(chunk(range(100)))
    monkeypatch.setattr("cloudtasks_nb.fanout.outbox.outbox.hold", slow_hold)
    outbox.sweep()
    assert len(refs(outbox, found[0].batch)) == 100


def test_many_may_open_a_new_file_at_once(path: Path) -> None:
    """Kernels that start together make one outbox."""

    def begin() -> int:
        with Outbox(path) as outbox:
            return len(outbox.batches.find())

    assert at_once(begin, 6) == [0] * 6


def test_another_format_has_another_version() -> None:
    """Whoever changes tables, stored numbers or facts raises VERSION; two who do so meet in the last line."""
    enums = {kind.__name__: {one.name: one.value for one in kind} for kind in (State, Fact, Source)}
    values = (BatchFacts, Cancel, Published, Reached, StoredGate)
    facts = {kind.__name__: {one.name: str(one.type) for one in fields(kind)} for kind in values}
    tables = [" ".join(re.sub("--.*", "", table).split()) for table in database._TABLES]
    digest = hashlib.sha256(orjson.dumps([tables, enums, facts])).hexdigest()[:16]
    assert (database.VERSION, digest) == (24, "758847aeafdfab00")


@pytest.mark.parametrize("version", [database.VERSION - 1, database.VERSION + 1])
def test_a_file_of_another_version_is_refused(path: Path, version: int) -> None:
    """A file that another version has written is left alone, and the error says what to do."""
    Outbox(path).close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {version}")
    with raises(OutboxError, "another version of cloudtasks_nb", hint="pip install -U cloudtasks-nb"):
        Outbox(path)


@pytest.mark.parametrize("where", ["whole", "page"])
def test_a_damaged_file_is_told(path: Path, where: str) -> None:
    """A file that is no outbox, or no longer a sound one, is named with the way out."""
    with Outbox(path) as outbox:
        spool(outbox, chunks(range(3_000)))
    content = bytearray(path.read_bytes())
    content[100 if where == "page" else 0 : 8_000] = b"x" * 7_900
    path.write_bytes(bytes(content))
    with raises(OutboxError, "is damaged", hint="move the file away", resource=str(path)):
        Outbox(path)


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    """When the home is a file, the error names the folder and the setting."""
    (tmp_path / "home").write_text("")
    with raises(OutboxError, "cannot be created", hint="CLOUDTASKS_NB_HOME"):
        Outbox(tmp_path / "home" / "outbox.sqlite3")


def test_a_file_that_cannot_be_opened_is_told(tmp_path: Path) -> None:
    """When a folder stands where the file should be, the error says that it cannot be opened."""
    (tmp_path / "outbox.sqlite3").mkdir()
    with pytest.raises(OutboxError, match="cannot be opened"):
        Outbox(tmp_path / "outbox.sqlite3")


def test_a_process_that_can_open_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hint is about that, and not about the rights of a folder or its disk."""

    def refuse(*_: Any, **__: Any) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    store = Store(tmp_path)
    (tmp_path / "outbox.sqlite3").mkdir()
    with monkeypatch.context() as full:
        full.setattr(os, "open", refuse)
        with raises(OutboxError, "cannot be opened", hint="too many open files: close some"):
            Outbox(tmp_path / "outbox.sqlite3")
        with raises(StoreError, "cannot be read", hint="too many open files: close some"):
            store.get("a/x")


def test_on_a_network_file_system_it_works_without_a_log_and_says_so_once(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write-ahead log is not used between machines; who makes such a file prints a note, once."""
    monkeypatch.setattr(database, "on_network", lambda path: True)  # noqa: ARG005 - the signature of what it stands for
    with Outbox(path) as outbox:
        assert outbox.note is not None
        assert "network file system" in outbox.note
        batch = spool(outbox, chunks(range(10))).batch
    with Outbox(path) as later:
        assert later.note is None
        assert later.batches.get(batch).total == 10
    assert not path.with_name("outbox.sqlite3-wal").exists()


def test_elsewhere_there_is_nothing_to_say(outbox: Outbox) -> None:
    """On a disk of this machine the outbox has a log and no remark."""
    assert outbox.path.with_name("outbox.sqlite3-wal").exists()
    assert outbox.note is None


#: A kernel that sends a batch, and that has forked a process which outlives it.
KERNEL = """
import os, signal, sys
from pathlib import Path
from cloudtasks_nb.fanout.outbox.database import hold
held = hold(Path(sys.argv[1]), "batch-send")
if not os.fork():
    held.release()
    print("forked", flush=True)
    sys.stdin.read()
    os._exit(0)
signal.pause()
"""


def test_a_forked_process_has_no_locks(path: Path) -> None:
    """It can neither free the lock of its parent, nor does it keep the lock when its parent was killed."""
    kernel = subprocess.Popen(
        [sys.executable, "-c", KERNEL, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert kernel.stdout is not None
        assert kernel.stdout.readline() == "forked\n"
        assert hold(path, "batch-send") is None, "its parent has it"
        kernel.kill()
        kernel.wait()
        held: Any = hold(path, "batch-send")
        held.release()
    finally:
        end(kernel, signal.SIGKILL)


def test_without_locks_everybody_may_send(outbox: Outbox, batch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the file system knows no locks two senders are harmless, and nothing is swept that may be alive."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("filelock.FileLock.acquire", refuse)
    holds = [outbox.requests.lock(batch), outbox.requests.lock(batch)]
    assert [hold is not None and not hold.certain for hold in holds] == [True, True]
    with outbox.spool(BatchSpec(place=PLACE, recipe=b"r")) as spooling:
        spooling.add(chunk(range(1_000, 1_010)))
        assert outbox.sweep() == 0
        now = outbox.batches.get(batch).created.timestamp() + 2 * 86_400
        monkeypatch.setattr("time.time", lambda: now)
        spooling.add(chunk(range(1_010, 1_020)))
        spooling._store(0)
        assert outbox.sweep() == 0, "it has shown that it is alive"
        monkeypatch.setattr("time.time", lambda: now + 2 * 86_400)
        assert outbox.sweep() == 1


def test_background_work_hears_that_it_was_closed(outbox: Outbox) -> None:
    """What still runs when the outbox is closed gets an error that it can catch like any other of the outbox."""
    outbox.close()
    with pytest.raises(OutboxError, match="closed"):
        asyncio.run(outbox.run(outbox.batches.find))


def test_a_connection_that_is_used_is_closed_after_that(path: Path) -> None:
    """Python crashes when a connection is closed while another thread uses it; what comes later leaves none open."""
    file = database.Database(path, timeout=1)
    file.prepare()
    used, closing = threading.Event(), threading.Thread(target=file.close)

    def write(connection: sqlite3.Connection) -> sqlite3.Connection:
        closing.start()
        used.wait(0.1)
        assert closing.is_alive()
        assert connection.execute("SELECT 1").fetchone() == (1,)
        return connection

    connections = [file.write(write)]
    closing.join()
    connections += [file.write(lambda connection: connection), file.read(lambda connection: connection)]
    for connection in connections:
        with pytest.raises(sqlite3.ProgrammingError):
            connection.execute("SELECT 1")


@cases(
    lambda outbox, batch: outbox.rows.pages(whole(batch)),
    lambda outbox, batch: outbox.rows.pages_of(batch, refs(outbox, batch)),
    lambda outbox, batch: outbox.rows.matching(whole(batch), RowFilter()),
    lambda outbox, batch: outbox.rows.blocks(batch),
    lambda outbox, batch: outbox.rows.timings(whole(batch)),
    ids=["pages", "pages_of", "matching", "blocks", "timings"],
)
def test_pages_that_nobody_reads_to_the_end_hold_no_connection(
    outbox: Outbox, batch: str, read: Callable[[Outbox, str], Iterator[Any]]
) -> None:
    """Else nobody else could read, and the outbox could not be closed."""
    send_all(outbox, batch)
    tell(outbox, batch, refs(outbox, batch)[0], state=State.SUCCEEDED, last_attempt_time=round(NOW * 1e6), duration=1)
    pages = read(outbox, batch)
    assert next(pages)
    closing = threading.Thread(target=outbox.close, daemon=True)
    closing.start()
    closing.join(240)
    assert not closing.is_alive()
