"""Queues, tasks and attempts: a state machine without sockets, threads or a clock of its own.

Every change is made in memory and put into the database; it becomes valid with the database's next commit. When a
commit fails, memory is rebuilt from the disk.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from difflib import get_close_matches
from typing import Any

from cloudtasks_nb.emulator.model.attempts import AttemptResult, Attempts, RetryPolicy
from cloudtasks_nb.emulator.model.clock import HOUR, LAST_INSTANT, SECOND, Clock
from cloudtasks_nb.emulator.model.queues import QueueConfig
from cloudtasks_nb.emulator.model.refusal import RefusedError, not_found
from cloudtasks_nb.emulator.model.regions import REGIONS
from cloudtasks_nb.emulator.model.settings import Settings
from cloudtasks_nb.emulator.model.tasks import NewTask, target_of
from cloudtasks_nb.emulator.store.database import Statement, TaskDatabase
from cloudtasks_nb.emulator.store.oplog import LogSubject, OperationsLog
from cloudtasks_nb.emulator.store.state import (
    LAST_NUMBER,
    Claim,
    DueTimes,
    Purge,
    QueueState,
    StoredTask,
    load,
    task_key,
)

__all__ = ["Store"]

_NO_QUEUE = "Queue does not exist. If you just created the queue, wait at least a minute for the queue to initialize."
_GONE = (
    "The task no longer exists, though a task with this name existed recently. "
    "The task either successfully completed or was deleted."
)
_TOO_RECENT = (
    "The task cannot be created because a task with this name existed too recently. For more information about task "
    "de-duplication see https://cloud.google.com/tasks/docs/reference/rest/v2/projects.locations.queues.tasks/create"
    "#body.request_body.FIELDS.task."
)
_READ_TOGETHER = 50  # tasks
_OPERATIONS_KEPT = (120 * SECOND, HOUR)  # at least, at most

# Tasks of a queue that are not committed yet: their numbers and due times.
_NewTasks = tuple[QueueState, Sequence[int], Sequence[int]]


class Store:
    """All queues and tasks of an emulator.

    Parameters
    ----------
    database : TaskDatabase
        The file; its owner commits it after `apply`, and calls `committed` or `failed`.
    clock : Clock
        The current time.
    settings : Settings
        How long names cannot be used again, and delays.
    """

    def __init__(self, database: TaskDatabase, clock: Clock, settings: Settings) -> None:
        self.database = database
        self._clock = clock
        self._settings = settings
        #: microseconds for which finished operations are kept: a call is repeated sooner, or its tasks' names are free
        self.operations_kept = min(max(settings.task_tombstone, _OPERATIONS_KEPT[0]), _OPERATIONS_KEPT[1])
        self.log = OperationsLog(
            database, delay=settings.log_delay, index_delays=settings.log_index_delays, limit=settings.log_limit
        )
        #: called with a line that the user should read
        self.report: Callable[[str], None] = lambda _: None
        self._locations = {*REGIONS}  # those that need no remark
        #: called with the location of a new queue, if Cloud Tasks does not have it
        self.unknown_location: Callable[[str], None] = self._remark_on
        #: called after tasks were purged: the sweep has something to delete
        self.purged: Callable[[], None] = lambda: None
        #: why the file cannot be written, or empty; until it can, no task is sent: its result would be lost
        self.unwritable = ""
        self._new: list[_NewTasks] = []
        self._applied: list[_NewTasks] = []
        self.contents = load(database, clock.now(), settings.task_tombstone)

    # Commits

    def apply(self) -> None:
        """Execute everything put into the database so far in one transaction, which stays open."""
        self.database.apply()
        self._applied, self._new = self._new, []

    def committed(self) -> list[QueueState]:
        """Allow the tasks of the committed transaction to be dispatched, and return their queues."""
        now = self._clock.now()
        for queue, numbers, dues in self._applied:
            queue.due.add(numbers, dues, now)
        queues = list({id(queue): queue for queue, _, _ in self._applied}.values())
        self._applied = []
        return queues

    def failed(self) -> None:
        """Return to the state on the disk after a transaction that could not be committed."""
        self.database.roll_back()
        self.reload()

    def reload(self, *, keep_running: bool = True) -> None:
        """Rebuild memory from the database; `keep_running` keeps the counts of attempts in flight."""
        before = self.contents.by_number if keep_running else {}
        self._new, self._applied = [], []
        self.log.reload()
        self.contents = load(self.database, self._clock.now(), self._settings.task_tombstone)
        for q, queue in self.contents.by_number.items():
            if q in before:
                queue.running, queue.in_flight = before[q].running, before[q].in_flight

    # Settings

    def setting(self, key: str) -> bytes:
        """Return a stored value; empty if it does not exist."""
        return self.contents.settings.get(key, b"")

    def set_setting(self, key: str, value: bytes) -> None:
        """Store a value under a key."""
        self.contents.settings[key] = value
        self.database.put(Statement.SETTING, (key, value))

    # Operations

    def save_operation(self, name: str, wire: bytes, now: int) -> None:
        """Store a finished operation."""
        operations = self.contents.operations
        key = max(next(reversed(operations.values()), 0) + 1, now)
        operations[name] = key
        self.database.put(Statement.OPERATION, (key, name, now, wire))

    def operation(self, name: str) -> bytes:
        """Return a stored and committed operation.

        Raises
        ------
        RefusedError
            ``NOT_FOUND`` if it does not exist.
        """
        key = self.contents.operations.get(name, 0)
        rows = self.database.read("SELECT wire FROM operations WHERE seq = ?", (key,))
        if not rows:
            raise not_found()
        return bytes(rows[0][0])

    # Queues

    def queue(self, name: str) -> QueueState:
        """Return the queue with this resource name.

        Raises
        ------
        RefusedError
            ``NOT_FOUND`` if it does not exist, or is so new that it is not visible yet.
        """
        queue = self.contents.queues.get(name)
        if queue is None or queue.usable_at > self._clock.now():
            raise RefusedError("NOT_FOUND", _NO_QUEUE)
        return queue

    def create_queue(self, message: Any) -> QueueState:
        """Add a queue; `message` is a complete v2beta3 `Queue`.

        Raises
        ------
        RefusedError
            If a queue has this name, or had it until recently.
        """
        name, now = message.name, self._clock.now()
        if name in self.contents.queues:
            raise RefusedError("ALREADY_EXISTS", "Queue already exists")
        if self.contents.deleted.get(name, 0) > now:
            raise RefusedError(
                "FAILED_PRECONDITION",
                "The queue cannot be created because a queue with this name existed too recently.",
            )
        if (location := name.split("/")[3]) not in self._locations:
            self.unknown_location(location)
        q = next(reversed(self.contents.names), 0) + 1
        usable_at = now + self._settings.new_queue_delay
        queue = self.contents.add(q, message, usable_at, self._settings.task_tombstone)
        self._put_queue(queue)
        return queue

    def _remark_on(self, location: str) -> None:
        self._locations.add(location)
        near = get_close_matches(location, REGIONS, 1)
        hint = f"did you mean {near[0]}?" if near else "--strict refuses them too"
        self.report(f"Cloud Tasks has no location {location}, and refuses queues there: {hint}")

    def declare(self, message: Any) -> bool:
        """Create a queue, or change the one of that name; return whether it is new.

        It is created even if a queue of that name was deleted just now.
        """
        queue = self.contents.queues.get(message.name)
        if queue is None:
            self.contents.deleted.pop(message.name, None)
            self.create_queue(message)
        else:
            self.configure(queue, message)
        return queue is None

    def configure(self, queue: QueueState, message: Any) -> None:
        """Replace a queue's v2beta3 `Queue`."""
        queue.message = message
        queue.config = QueueConfig.of(message, self._settings.task_tombstone)
        self._put_queue(queue)

    def delete_queue(self, name: str) -> None:
        """Delete a queue with its tasks; its name cannot be used again for a while.

        Raises
        ------
        RefusedError
            ``NOT_FOUND`` if it does not exist.
        """
        queue = self.contents.queues.pop(name, None)
        if queue is None:
            raise not_found()
        until = self._clock.now() + self._settings.queue_tombstone
        del self.contents.by_number[queue.q]
        self.contents.deleted[name] = until
        if self.setting(f"iam/{name}"):
            self.set_setting(f"iam/{name}", b"")
        self.database.put(Statement.QUEUE, (queue.q, name, b"", queue.usable_at, until))
        self._purge_up_to(queue, LAST_NUMBER, 0)

    def purge(self, queue: QueueState) -> None:
        """Delete all tasks that the queue has now."""
        now = self._clock.now()
        last = queue.next_number - 1
        if self._settings.hard_reset_on_purge_queue:
            queue.tombstones.clear()
            self.database.put(Statement.FREE_ALL_NAMES, (queue.q,))
            for upto in [*queue.purges, last]:
                self._purge_up_to(queue, upto, 0)
        elif last > queue.floor:  # else a second purge would prolong the time for which the names cannot be used
            until = now + queue.config.tombstone_ttl
            queue.tombstones.update(dict.fromkeys(queue.live, until))
            self._purge_up_to(queue, last, until)
        queue.live, queue.attempts, queue.due = {}, {}, DueTimes()
        queue.message.purge_time.FromMicroseconds(now)
        self._put_queue(queue)

    # Tasks

    def add(self, queue: QueueState, task: NewTask, now: int) -> None:
        """Add a task that was accepted at `now`.

        Raises
        ------
        RefusedError
            If a task has this id, or had it until recently.
        """
        for refused in self.add_all(queue, {0: task}, now).values():
            raise refused

    def add_all(self, queue: QueueState, tasks: Mapping[int, NewTask], now: int) -> dict[int, RefusedError]:
        """Add up to a hundred tasks that were accepted at `now`; return the refusals by the tasks' keys."""
        refused: dict[int, RefusedError] = {}
        added: dict[int, NewTask] = {}
        live, tombstones, number = queue.live, queue.tombstones, queue.next_number
        for index, task in tasks.items():
            if task.id in live:
                refused[index] = RefusedError("ALREADY_EXISTS", "Requested entity already exists")
            elif tombstones and tombstones.get(task.id, 0) > now:
                refused[index] = RefusedError("ALREADY_EXISTS", _TOO_RECENT)
            else:
                live[task.id] = number
                added[number] = task
                number += 1
        queue.next_number = number
        if added:
            base, created = queue.base, now // SECOND
            rows = [(base + n, created, task.due, task.id, task.head, task.body) for n, task in added.items()]
            self.database.put(Statement.TASK, *rows)
            # The keys are the same objects as in `QueueState.live`: a number of its own would cost a task 28 bytes.
            self._new.append((queue, [*added], [task.due for task in added.values()]))
            if ratio := queue.config.sampling_ratio:
                self.log.created(queue.q, ratio, [*added.values()], now)
        return refused

    def number_of(self, queue: QueueState, task_id: str) -> int:
        """Return the number of a task.

        Raises
        ------
        RefusedError
            ``NOT_FOUND``, with another text if the task existed recently.
        """
        number = queue.live.get(task_id)
        if number is None:
            recent = queue.tombstones.get(task_id, 0) > self._clock.now()
            raise RefusedError("NOT_FOUND", _GONE) if recent else not_found()
        return number

    def task(self, queue: QueueState, task_id: str) -> StoredTask:
        """Return a task as the database has it.

        Raises
        ------
        RefusedError
            ``NOT_FOUND`` if the task does not exist, or is not committed yet.
        """
        stored = self.read_task(queue, self.number_of(queue, task_id))
        if stored is None:
            raise not_found()
        return stored

    def tasks(self, queue: QueueState, after: int, *, bodies: bool = True) -> Generator[list[StoredTask]]:
        """Yield the tasks in the order of creation, a few at a time because each can have 1 MiB; close it after use.

        Parameters
        ----------
        queue : QueueState
            The queue of the tasks.
        after : int
            0, or the number of the task that precedes the first one.
        bodies : bool
            False: leave the bodies empty.
        """
        rows = self.database.stream(
            f"""SELECT seq - ?, id, due, head, {"body" if bodies else "x''"} FROM tasks
                WHERE seq BETWEEN ? AND ? ORDER BY seq""",  # noqa: S608 - nothing of a request
            (queue.base, queue.base + max(after, queue.floor) + 1, task_key(queue.q, LAST_NUMBER)),
        )
        with closing(rows):
            while some := rows.fetchmany(_READ_TOGETHER):
                # A task that is not live has a deletion that is not committed yet.
                yield [task for task in map(StoredTask._make, some) if queue.live.get(task.id) == task.number]

    def next_due(self, queue: QueueState) -> int | None:
        """Return when the next task is due; None without tasks."""
        now = self._clock.now()
        while (entry := queue.due.first(now)) is not None:
            number, entry_due = entry
            claim = self._claim(queue, number)
            if claim is not None and (claim.attempts.due == entry_due or claim.attempts.due <= now):
                return claim.attempts.due
            queue.due.drop_first()  # out of date
        return None

    def delete(self, queue: QueueState, task_id: str) -> None:
        """Delete a task on request; an attempt in flight is not cancelled.

        Raises
        ------
        RefusedError
            ``NOT_FOUND`` if the task does not exist.
        """
        for refused in self.delete_all(queue, [task_id]).values():
            raise refused

    def delete_all(self, queue: QueueState, ids: Sequence[str]) -> dict[int, RefusedError]:
        """Delete tasks on request; return the refusals by the index of the id."""
        refused: dict[int, RefusedError] = {}
        now, ratio = self._clock.now(), queue.config.sampling_ratio
        heads = self._heads(queue, ids) if ratio else {}
        for index, task_id in enumerate(ids):
            try:
                number = self.number_of(queue, task_id)
            except RefusedError as error:
                refused[index] = error
                continue
            if ratio:
                target = target_of(heads[number]) if number in heads else ("", "")  # one that is not committed yet
                self.log.deleted(LogSubject(queue.q, ratio, task_id, *target), now)
            self.end_task(queue, number, task_id, now)
        return refused

    def _heads(self, queue: QueueState, ids: Sequence[str]) -> dict[int, bytes]:
        """Read the heads of committed tasks at once: a query for each would be half of the time of a deletion."""
        keys = ", ".join(str(queue.base + queue.live[task_id]) for task_id in ids if task_id in queue.live)
        return dict(self.database.read(f"SELECT seq - {queue.base}, head FROM tasks WHERE seq IN ({keys})"))  # noqa: S608 - numbers

    def current(self, queue: QueueState) -> QueueState | None:
        """Return the current object of a queue, because `reload` replaces it; None if the queue was deleted."""
        return self.contents.by_number.get(queue.q)

    def read_task(self, queue: QueueState, number: int) -> StoredTask | None:
        """Return a task as the database has it; None if it does not exist or is not committed yet."""
        rows = self.database.read("SELECT id, due, head, body FROM tasks WHERE seq = ?", (task_key(queue.q, number),))
        return StoredTask(number, *rows[0]) if rows else None

    def end_task(self, queue: QueueState, number: int, task_id: str, now: int) -> None:
        """Remove a task from its queue; its name cannot be used again for a while."""
        until = now + queue.config.tombstone_ttl
        del queue.live[task_id]
        queue.tombstones[task_id] = until
        key = task_key(queue.q, number)
        tried = queue.attempts.pop(number, None) is not None
        self.database.end_tasks(queue.q, key, key, until, tried=tried)

    # Attempts

    def claim(self, queue: QueueState, number: int) -> Claim | None:
        """Return the task of a due entry; None if the entry is out of date."""
        if number in queue.running:
            return None
        claim = self._claim(queue, number)
        return claim if claim is not None and claim.attempts.due <= self._clock.now() else None

    def claim_now(self, queue: QueueState, task_id: str) -> Claim:
        """Return a task for RunTask, even if it is not due or runs already.

        Raises
        ------
        RefusedError
            ``NOT_FOUND`` if the task does not exist.
        """
        stored = self.task(queue, task_id)
        return Claim(queue, stored, queue.attempts.get(stored.number) or Attempts(due=stored.due))

    def _claim(self, queue: QueueState, number: int) -> Claim | None:
        """Return a task with its attempts; None if it has left the queue, or is not committed yet."""
        task = self.read_task(queue, number)
        if task is None or queue.live.get(task.id) != number:
            return None
        return Claim(queue, task, queue.attempts.get(number) or Attempts(due=task.due))

    def begin_attempt(self, claim: Claim) -> Attempts:
        """Record that an attempt is sent, and return the counts before it."""
        queue, number = claim.queue, claim.task.number
        before = replace(claim.attempts)
        claim.attempts.begin(self._clock.now())
        queue.attempts[number] = claim.attempts
        queue.started(number)
        return before

    def undo_attempt(self, claim: Claim, before: Attempts) -> None:
        """Undo an attempt that reached no target: the task is due as before."""
        queue, number = self.current(claim.queue), claim.task.number
        if queue is None:
            return
        queue.stopped(number)
        if queue.live.get(claim.task.id) != number:
            return
        queue.attempts[number] = before
        queue.due.add([number], [before.due], self._clock.now())

    def end_attempt(
        self,
        claim: Claim,
        result: AttemptResult,
        policy: RetryPolicy,
        subject: LogSubject,
        *,
        called_at: int | None = None,
    ) -> bool:
        """Record the result of an attempt; return whether the task has left the queue.

        Parameters
        ----------
        claim : Claim
            The task of the attempt.
        result : AttemptResult
            The result of the attempt.
        policy : RetryPolicy
            The retry policy of the task, or of its queue.
        subject : LogSubject
            The task as the log names it.
        called_at : int, optional
            When RunTask was called; the backoff of the next attempt starts then. None for a regular attempt.
        """
        queue, task, attempts = self.current(claim.queue), claim.task, claim.attempts
        if queue is None:
            return True
        now = self._clock.now()
        queue.stopped(task.number)
        queue.count_execution(now, failed=not result.succeeded)
        attempts.end(result, now, app_engine=subject.target_type != "HTTP")
        alive = queue.live.get(task.id) == task.number
        if alive:
            queue.attempts[task.number] = attempts
        finished = result.succeeded or policy.gives_up(attempts.dispatches, now - attempts.first_dispatched)
        if alive and not finished:
            due = (called_at or now) + policy.backoff(attempts.failures)
            attempts.due = min(max(due, now + result.retry_after), LAST_INSTANT)
            self.database.put(Statement.ATTEMPTS, (task_key(queue.q, task.number), *attempts.row()))
            queue.due.add([task.number], [attempts.due], now)
        elif alive:
            self.end_task(queue, task.number, task.id, now)
        if subject.ratio:
            self.log.responded(subject, attempts, attempts.due if alive and not finished else 0, result.cause)
        return finished or not alive

    def _put_queue(self, queue: QueueState) -> None:
        row = (queue.q, queue.name, queue.message.SerializeToString(), queue.usable_at, None)
        self.database.put(Statement.QUEUE, row)

    def _purge_up_to(self, queue: QueueState, upto: int, until: int) -> None:
        # Deleting a million rows takes too long for one call: they are marked as purged, and the sweep deletes them.
        queue.purges[upto] = Purge(queue.base, until)
        self.database.put(Statement.ADD_PURGE, (queue.q, upto, until))
        self.purged()
