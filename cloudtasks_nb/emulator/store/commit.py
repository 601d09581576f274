"""Group commit: calls return after their changes are on the disk, and concurrent calls share one commit."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from cloudtasks_nb.emulator.model.refusal import RefusedError
from cloudtasks_nb.emulator.store.database import Statement
from cloudtasks_nb.emulator.store.state import QueueState
from cloudtasks_nb.emulator.store.store import Store

__all__ = ["Committer"]

# All in seconds.
# The changes of a single client are committed at once on the event loop, because the thread would cost a third of the
# speed. A call that arrives sooner than this after the last commit is taken for one of several concurrent clients.
_ALONE_AFTER = 0.0003
# If a commit takes longer than this, the next one runs in the thread, so that the event loop does not wait for it.
_SLOW = 0.005
# A commit waits until as many calls have arrived as shared the last one, but not longer than this.
_WINDOW = 0.003
# Changes that no call waits for (results of attempts) are committed within this time.
_LAZY = 0.01
_PROBE_EVERY = 1.0
# A disk with room for a few rows only would be full again with the results of the next attempts.
_PROBE = (("probe", bytes(1 << 20)), ("probe", b""))


class Committer:
    """Commits a store's database for all waiting callers.

    Parameters
    ----------
    store : Store
        The store to commit.
    wake : callable
        Called with the queues that have new tasks to dispatch. After a failure these are all queues, as soon as the
        file can be written again.
    """

    def __init__(self, store: Store, wake: Callable[[list[QueueState]], None]) -> None:
        self._store = store
        self._wake = wake
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="commit")
        self._waiting: list[asyncio.Future[None]] = []
        self._expected = 1  # calls in the last commit
        self._acknowledged_at = 0.0
        self._called_at = 0.0
        self._slow = False
        self._timer: asyncio.TimerHandle | None = None
        self._running: asyncio.Task[None] | None = None  # the commit for a group of callers
        self._probe_timer: asyncio.Handle | None = None
        self._reported = False

    def note_call(self) -> None:
        """Record the time at which a call arrives; the call does not await anything before `commit`."""
        self._called_at = self._loop.time()

    async def commit(self) -> None:
        """Return when everything put into the database so far is on the disk.

        Raises
        ------
        RefusedError
            If it cannot be written; these changes are dropped.
        """
        alone = not (self._waiting or self._running or self._slow) and self._expected == 1
        if alone and self._called_at - self._acknowledged_at > _ALONE_AFTER:
            self._commit_inline()
            return
        waiter = self._loop.create_future()
        self._waiting.append(waiter)
        if not self._running:
            if len(self._waiting) >= self._expected:
                self._start()
            elif len(self._waiting) == 1:
                self._start_after(_WINDOW)
        await waiter

    def commit_soon(self) -> None:
        """Commit within a few milliseconds; for changes that no caller waits for."""
        if self._timer is None and not self._running:
            self._start_after(_LAZY)

    async def wait_idle(self) -> None:
        """Return when no commit runs; none can start before the caller's next await."""
        while self._running:
            await asyncio.wait([self._running])  # it goes on even if the caller is cancelled

    async def flush(self) -> None:
        """Commit everything put into the database so far; no other commit can start before the caller's next await.

        Raises
        ------
        RefusedError
            If it cannot be written.
        """
        await self.wait_idle()
        if len(self._store.database):
            self._commit_inline()
            self._start_next()

    async def close(self) -> None:
        """Commit the remaining changes and stop the thread."""
        if self._probe_timer is not None:
            self._probe_timer.cancel()
        await self.flush()
        self._cancel_timer()
        self._thread.shutdown()

    def _start_after(self, delay: float) -> None:
        self._cancel_timer()
        self._timer = self._loop.call_later(delay, self._start)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _commit_inline(self) -> None:
        self._cancel_timer()
        try:
            self._store.apply()
            began = self._loop.time()
            self._store.database.commit()
        except Exception as error:
            raise self._undo(error) from error
        self._finish(began)

    def _start(self) -> None:
        self._cancel_timer()
        if not self._running:
            self._running = self._loop.create_task(self._commit_group())

    async def _commit_group(self) -> None:
        group, self._waiting = self._waiting, []
        self._expected = max(1, len(group))
        began = self._loop.time()
        try:
            self._store.apply()
            await self._loop.run_in_executor(self._thread, self._store.database.commit)
        except Exception as error:  # noqa: BLE001 - after any error, no caller may wait for ever
            self._running = None
            self._waiting = [*group, *self._waiting]
            self._undo(error)
        else:
            self._running = None
            for waiter in group:
                if not waiter.done():
                    waiter.set_result(None)
            self._finish(began)
        finally:
            self._start_next()

    def _start_next(self) -> None:
        if len(self._waiting) >= self._expected:
            self._start()
        elif self._waiting:
            self._start_after(_WINDOW)
        elif len(self._store.database):
            self._start_after(_LAZY)

    def _finish(self, began: float) -> None:
        self._acknowledged_at = self._loop.time()
        self._slow = self._acknowledged_at - began > _SLOW
        self._wake(self._store.committed())

    def _undo(self, error: Exception) -> RefusedError:
        """Drop the changes that are not committed, and return the refusal that all waiting callers get."""
        refusal = RefusedError("INTERNAL", f"The emulator cannot write {self._store.database.path}: {error}")
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            if not waiter.done():
                waiter.set_exception(refusal)
        # Later changes are dropped with the failed transaction: memory returns to the state on the disk.
        self._store.failed()
        if not self._store.unwritable:
            self._probe_timer = self._loop.call_soon(self._probe)
        self._store.unwritable = refusal.message
        return refusal

    def _probe(self) -> None:
        """Find out whether the file can be written; if so, wake all queues."""
        self._probe_timer = self._loop.call_later(_PROBE_EVERY, self._probe)
        if self._running:
            return
        try:
            for row in _PROBE:
                self._store.database.put(Statement.SETTING, row)
                self._commit_inline()
        except RefusedError as error:
            if not self._reported:
                self._store.report(f"{error.message}; no task is sent until it can")
            self._reported = True
            return
        self._probe_timer.cancel()
        self._store.unwritable = ""
        if self._reported:
            self._store.report(f"The emulator can write {self._store.database.path} again: tasks are sent")
        self._reported = False
        self._start_next()
        self._wake(list(self._store.contents.by_number.values()))
