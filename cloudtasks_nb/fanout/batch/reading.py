"""Read what others did with a batch before a verb answers: rows that they have sent, later tries, how all ended.

The first reading of a batch that was opened reads what this home has missed. While rows are open the loop of the batch
reads on by itself. After the end each reading looks whether there is something new, which costs little.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from cloudtasks_nb import _loop
from cloudtasks_nb.errors import CloudTasksError, EndpointError, OutboxError, PermissionDeniedError
from cloudtasks_nb.fanout.batch.adoption import READING
from cloudtasks_nb.fanout.batch.sending import Sending
from cloudtasks_nb.fanout.batch.witnesses import unread_since
from cloudtasks_nb.fanout.outbox.records import BatchRecord
from cloudtasks_nb.fanout.states import State
from cloudtasks_nb.service.oplog import Wanted

__all__ = ["Reading"]

_WORK = "reading what others did with"
_ADOPTING = "reading before the cancel of"
_FEW = 1_000  # tasks of a queue that is listed to see which of them others have just made
_SILENCE = 30.0  # seconds before the next look into a log that did not answer
_PAUSE = 5.0  # seconds between two looks into a log whose entries come late anyway


@dataclass(eq=False)
class Reading:
    """Reads what is new of one batch. Runs on the background loop, one reading at a time."""

    sending: Sending
    record: Callable[[], BatchRecord]  #: returns the batch as it was read last
    unanswered: Callable[[], EndpointError | None]  #: returns that nothing answers
    turn: Callable[[], Awaitable[BatchRecord]]  #: reads the batch from the outbox, and watches it if rows are open
    listen: Callable[[Callable[[], None]], Callable[[], None]]  #: as `Tracker.listen`
    search: Callable[[], Awaitable[None]]  #: finds out what became of rows that have left the queue

    def __post_init__(self) -> None:
        self.adoption, self.supervisor = self.sending.adoption, self.sending.supervisor
        self.outcomes = self.adoption.outcomes
        self.outbox, self.batch = self.outcomes.outbox, self.outcomes.batch
        self._done = False  # the batch was read since it was opened
        self._problems: list[str] = []  # why something could not be read the last time
        self._new = False  # no row was sent when the batch was opened
        self._since = 0  # from when on the log may have what this home has not read, of the service
        self._silent = 0.0, ""  # until when nothing is asked that does not answer, and what it is
        self._looked = 0.0  # when it was looked into the log last

    async def load(self, read_until: dt.datetime | None) -> None:
        """Read the batch as it is opened, the log of which was read up to a time."""
        record = await self.outbox.run(self.outbox.batches.get, self.batch)
        states = {state for state, rows in record.counts.items() if rows}
        self._new = states <= {State.UNSENT, State.REJECTED} and not record.doubtful
        self._since = unread_since(record.created, read_until, self.outcomes.watcher.now())

    def begin(self, *, results: bool = True) -> None:
        """Read in the background, unless that is under way."""
        self.supervisor.start(_WORK, lambda: self._read(results=results), again=False)

    @property
    def adopts(self) -> bool:
        """Whether the batch is read for the first time, so that open rows may have been sent from elsewhere."""
        return self.supervisor.running(_WORK) and not (self._done or self.record().done)

    async def wait(self, seconds: float | None = None, *, results: bool = True) -> None:
        """Read what is new, if something answers.

        Parameters
        ----------
        seconds : float, optional
            The longest wait; the reading goes on.
        results : bool
            False: the results were just read.
        """
        self.begin(results=results)
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._ended(_WORK)

    async def adopt(self, *, again: bool) -> EndpointError | None:
        """Read which rows others have sent, before unsent rows count as cancelled; with `again` if that was read, too.

        Return that nothing answers if another home may have sent some.
        """
        self.adoption.stale |= again
        facts = await self.outbox.run(self.outbox.batches.facts, self.batch)
        if not self.adoption.stale and facts.log_read is not None:
            return None
        self.supervisor.start(_ADOPTING, self._adopt, again=False)
        await self._ended(_ADOPTING)
        silent = self.unanswered() if self.supervisor.running(_ADOPTING) else None
        return silent if silent is not None and await self.adoption.other_home() is not None else None

    @property
    def unread(self) -> Sequence[str]:
        """What is not read yet, a sentence each."""
        if not self.supervisor.running(_WORK):
            return self._problems
        silent = self.unanswered()
        return [self.adoption.reading or READING if silent is None else silent.message]

    async def _read(self, *, results: bool) -> None:
        self._problems = []
        await self._adopt()
        await self.adoption.hold_for_answer()
        new = first = not self._done
        if self._new and first and not await self._was_adopted():
            new = False  # nobody else has sent a row
        elif (await self.turn()).done:
            new = await self._read_log()
        later = await self._read_results() if results else await self.outcomes.record_results()
        if new or later:
            await self._find_out(later=later)
        await self._try("cancel", self._take_cancel)
        self._done = True
        if first:
            self.sending.ended()

    async def _adopt(self) -> None:
        """Adopt the rows that others have sent, as far as they can be read."""
        if await self.adoption.run(self.sending.will_retry):
            await self.adoption.finish()
        self.adoption.changed()

    async def _find_out(self, *, later: bool) -> None:
        """Find out what became of open rows that others may have sent, or that ended while nobody watched them."""
        if (await self.turn()).done:
            return
        await _loop.until(self.listen, self._was_watched)
        values = self.outcomes.limit.values
        incomplete = values.get("log_sampling_ratio", 0) < 1
        sent, tasks = (await self.turn()).counts[State.SENT], values.get("tasks")
        missing = tasks is not None and tasks < sent  # an entry comes a moment after its task has left the queue
        if sent and (later or incomplete or missing or await self._was_adopted()):
            await self._try("queue", self.search)
        await self.turn()

    def _was_watched(self) -> bool:
        """Return whether the watcher has read the log, or it is known why it cannot be read."""
        found = self.outcomes.snapshot
        return self.record().done or (found is not None and (found.log_until is not None or bool(found.errors)))

    async def _ended(self, work: str) -> None:
        """Wait until some work has ended, or nothing answers."""
        await _loop.until(self.listen, lambda: not self.supervisor.running(work) or self.unanswered() is not None)

    async def _was_adopted(self) -> bool:
        return (await self.outbox.run(self.outbox.batches.facts, self.batch)).sent_by_others

    async def _read_log(self) -> bool:
        """Read the log of a batch that is not watched; return whether it may have something new."""
        outcomes, queue = self.outcomes, self.outcomes.queue
        log, now = outcomes.witnesses.log, asyncio.get_running_loop().time()
        if now < self._silent[0]:
            self._problems.append(self._silent[1])
            return False
        if self._done and now - self._looked < _PAUSE and not await outcomes.watcher.log_is_immediate():
            return False
        self._looked = now
        since, new = max(self._since, log.active + 1), False

        async def read() -> None:
            nonlocal new
            await outcomes.learn_queue()
            # Of every kind: the tasks of later tries may not have been attempted yet.
            if not await outcomes.watcher.is_logged(queue, Wanted(since=since, batch=self.batch)):
                return
            new = True
            async for evidence in log.read(None, since):
                await outcomes.tell(evidence)
            await outcomes.explain()
            tasks = (await outcomes.watcher.read_queue(queue)).get("tasks")
            if tasks is not None and tasks <= _FEW:
                async for evidence in outcomes.witnesses.queue.read(None, since):
                    await outcomes.tell(evidence)

        await self._try("log", read)
        return new or not self._done

    async def _read_results(self) -> bool:
        """Read new results; return whether they are of later tries."""
        later = False

        async def read() -> None:
            nonlocal later
            unreadable = await _loop.to_thread(self.outcomes.stored.sync)
            later = await self.outcomes.record_results()
            if unreadable is not None:
                raise unreadable

        await self._try("results", read)
        return later

    async def _take_cancel(self) -> None:
        await self.sending.cancels.take()
        if self.sending.cancels.shared:
            await self.turn()  # the sending may have taken it up
            await _loop.until(self.listen, lambda: not ((cancel := self.record().facts.cancel) and cancel.has_remote))
        if (record := self.record()).facts.cancelled_by and record.counts[State.GONE]:  # rows that came later
            await self.outbox.run(self.outbox.deletions(record.whole).leave, deleted=True)
            await self.turn()

    async def _try(self, what: str, read: Callable[[], Awaitable[None]]) -> None:
        try:
            await read()
        except OutboxError:
            raise
        except PermissionDeniedError:
            pass  # it never could be read, as a note says
        except CloudTasksError as error:
            self._problems.append(f"the {what} could not be read: {error.message}")
            if isinstance(error, EndpointError):
                self._silent = asyncio.get_running_loop().time() + _SILENCE, self._problems[-1]
