"""Group commit: waiting callers, shared commits, and commits that fail."""

import asyncio
import sqlite3
import threading
from collections.abc import Iterator

import pytest

from cloudtasks_nb.emulator.model.refusal import RefusedError
from cloudtasks_nb.emulator.store import commit as commit_module
from cloudtasks_nb.emulator.store.commit import Committer
from cloudtasks_nb.emulator.store.state import QueueState
from cloudtasks_nb.emulator.store.store import Store
from tests.unit.emulator.conftest import NOW, QUEUE, new_queue, new_task


class Woken(list[QueueState]):
    """The queues that were woken so far."""

    def __init__(self) -> None:
        super().__init__()
        self.event = asyncio.Event()

    def wake(self, queues: list[QueueState]) -> None:
        """Collect queues."""
        self.extend(queues)
        self.event.set()


@pytest.fixture
def woken() -> Woken:
    """Give the list of the queues that were woken."""
    return Woken()


@pytest.fixture
def committer(runner: asyncio.Runner, store: Store, woken: Woken) -> Iterator[Committer]:
    """Give a committer of the store."""

    async def start() -> Committer:
        return Committer(store, woken.wake)

    committer = runner.run(start())
    yield committer
    runner.run(committer.close())


class HeldDisk:
    """Lets the commits of a store wait until `go_on` is set."""

    def __init__(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        self._write = store.database.commit
        self._writing = threading.Event()
        self.go_on = threading.Event()
        self.commits = 0
        monkeypatch.setattr(store.database, "commit", self._commit)

    def _commit(self) -> None:
        self._writing.set()
        assert self.go_on.wait(240)
        self.commits += 1
        self._write()

    async def is_writing(self) -> None:
        """Return when a commit waits."""
        assert await asyncio.get_running_loop().run_in_executor(None, self._writing.wait, 240)


def rows(store: Store) -> int:
    """Count the tasks in the file."""
    return int(store.database.read("SELECT count(*) FROM tasks")[0][0])


async def test_a_wait_for_the_disk_is_cancelled(store: Store, woken: Woken, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who no longer waits for a commit does not stop it: its callers are answered, and the committer can be closed."""
    committer = Committer(store, woken.wake)  # closed here, because a committer that fails this test cannot be closed
    store.add(new_queue(store), new_task("a"), NOW)
    disk = HeldDisk(store, monkeypatch)
    callers = [asyncio.ensure_future(committer.commit()) for _ in range(2)]
    await disk.is_writing()
    sweep = asyncio.create_task(committer.wait_idle())
    await asyncio.sleep(0)
    sweep.cancel()
    await asyncio.gather(sweep, return_exceptions=True)
    disk.go_on.set()
    async with asyncio.timeout(240):
        await asyncio.gather(*callers)
    assert (sweep.cancelled(), rows(store)) == (True, 1)
    await committer.close()


async def test_callers_gather_while_the_disk_works(
    store: Store, queue: QueueState, committer: Committer, woken: Woken, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who comes while a commit is under way shares the next one with others, and is not answered by the first."""
    disk = HeldDisk(store, monkeypatch)

    def one(number: int) -> asyncio.Future[None]:
        store.add(queue, new_task(f"t{number}"), NOW)
        return asyncio.ensure_future(committer.commit())

    first = [one(0), one(1)]
    await disk.is_writing()
    committer.commit_soon()
    second = [one(2), one(3), one(4)]
    await asyncio.sleep(0)
    assert not any(waiter.done() for waiter in first + second)
    disk.go_on.set()
    await asyncio.gather(*first)
    assert rows(store) >= 2
    await asyncio.gather(*second)
    assert (rows(store), set(woken), disk.commits <= 3) == (5, {queue}, True)


async def test_changes_without_a_caller_are_committed_soon(
    store: Store, queue: QueueState, committer: Committer, woken: Woken
) -> None:
    """A change without a waiter is committed in a moment, and once for many calls; so is the next one."""
    for before, name in enumerate("ab"):
        store.add(queue, new_task(name), NOW)
        committer.commit_soon()
        committer.commit_soon()
        await committer.wait_idle()
        assert (rows(store), woken) == (before, [queue] * before)
        woken.event.clear()
        async with asyncio.timeout(240):
            await woken.event.wait()
        assert (rows(store), woken) == (before + 1, [queue] * (before + 1))


@pytest.mark.parametrize("error", [sqlite3.OperationalError("disk is full"), OverflowError("disk is full")])
@pytest.mark.parametrize("step", ["apply", "commit"])
@pytest.mark.parametrize("callers", [1, 5])
async def test_a_disk_that_says_no(
    store: Store,
    queue: QueueState,
    committer: Committer,
    woken: Woken,
    monkeypatch: pytest.MonkeyPatch,
    callers: int,
    step: str,
    error: Exception,
) -> None:
    """When a commit fails, every caller gets the error, nothing of it is kept, and the store stays usable."""

    def full() -> None:
        raise error

    async def one(number: int) -> None:
        committer.note_call()
        store.add(store.queue(QUEUE), new_task(f"t{number}"), NOW)
        await committer.commit()

    monkeypatch.setattr(commit_module, "_PROBE_EVERY", 0.01)
    with monkeypatch.context() as broken:
        broken.setattr(store.database, step, full)
        async with asyncio.timeout(240):
            results = await asyncio.gather(*map(one, range(callers)), return_exceptions=True)
    assert all(isinstance(result, RefusedError) and "disk is full" in result.message for result in results)
    assert {result.code for result in results if isinstance(result, RefusedError)} == {"INTERNAL"}
    assert store.queue(QUEUE) is not queue
    assert (store.queue(QUEUE).live, rows(store), "disk is full" in store.unwritable) == ({}, 0, True)
    assert not woken
    async with asyncio.timeout(240):
        await woken.event.wait()
    assert (set(woken), store.unwritable) == ({store.queue(QUEUE)}, "")
    await one(99)
    assert store.queue(QUEUE).live.keys() == {"t99"}


async def test_a_disk_without_room(
    store: Store, queue: QueueState, committer: Committer, woken: Woken, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the disk is full no queue is woken, although a row would fit; it is said once, and so is the end of it."""
    lines, reported = list[str](), asyncio.Event()

    def report(line: str) -> None:
        lines.append(line)
        reported.set()

    store.report = report
    monkeypatch.setattr(commit_module, "_PROBE_EVERY", 0.01)
    [(pages,)] = store.database.read("PRAGMA page_count")
    execute = store.database._writer.execute
    execute(f"PRAGMA max_page_count = {pages + 2}")
    for number in range(2):
        store.add(store.queue(QUEUE), new_task(f"t{number}", body=b"x" * 100_000), NOW)
        with pytest.raises(RefusedError, match=r"cannot write .*: database or disk is full$"):
            await committer.commit()
    async with asyncio.timeout(240):
        await reported.wait()
    await asyncio.sleep(0.05)
    assert not woken
    execute("PRAGMA max_page_count = 4294967294")
    async with asyncio.timeout(240):
        await woken.event.wait()
    path = store.database.path
    assert lines == [
        f"The emulator cannot write {path}: database or disk is full; no task is sent until it can",
        f"The emulator can write {path} again: tasks are sent",
    ]
    assert (set(woken), rows(store)) == ({store.queue(QUEUE)}, 0)


async def test_settling_waits_for_the_thread(store: Store, queue: QueueState, committer: Committer) -> None:
    """After settling no commit is under way, and the database may be replaced."""
    for number in range(3):
        store.add(queue, new_task(f"t{number}"), NOW)
    waiting = [asyncio.ensure_future(committer.commit()) for _ in range(3)]
    await asyncio.sleep(0)
    await committer.wait_idle()
    store.database.erase()
    store.reload()
    await asyncio.gather(*waiting)
    assert rows(store) == 0
