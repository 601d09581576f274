"""Queues, tasks and their transitions: a state machine without sockets, threads or a clock of its own.

Every change is made in memory and put into the journal; it counts when the journal is committed. When a commit fails,
memory is rebuilt from what is on the disk.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cloudtasks_nb.emulator.model.clock import SECOND, Clock
from cloudtasks_nb.emulator.model.queues import QueueConfig
from cloudtasks_nb.emulator.model.refusal import RefusedError
from cloudtasks_nb.emulator.model.settings import Settings
from cloudtasks_nb.emulator.model.tasks import NewTask, target_of
from cloudtasks_nb.emulator.store.journal import Journal, Write
from cloudtasks_nb.emulator.store.memory import LAST_NUMBER, QueueState, StoredTask, sequence
from cloudtasks_nb.emulator.store.oplog import OperationsLog, Subject
from cloudtasks_nb.emulator.store.reload import load

__all__ = ["Store"]

_NO_QUEUE = "Queue does not exist. If you just created the queue, wait at least a minute for the queue to initialize."
_NO_ENTITY = "Requested entity was not found."
_GONE = (
    "The task no longer exists, though a task with this name existed recently. "
    "The task either successfully completed or was deleted."
)
_TOO_RECENT = (
    "The task cannot be created because a task with this name existed too recently. For more information about task "
    "de-duplication see https://cloud.google.com/tasks/docs/reference/rest/v2/projects.locations.queues.tasks/create"
    "#body.request_body.FIELDS.task."
)


# Tasks of a queue that are not committed yet: their numbers and due times.
_Fresh = tuple[QueueState, Sequence[int], Sequence[int]]


class Store:
    """All queues and tasks of an emulator.

    Parameters
    ----------
    journal : Journal
        The file; whoever owns it applies and commits it, and calls `applied`, `committed` or `failed`.
    clock : Clock
        What time it is.
    settings : Settings
        Tombstones and delays.
    """

    def __init__(self, journal: Journal, clock: Clock, settings: Settings) -> None:
        self.journal = journal
        self._clock = clock
        self._settings = settings
        self.log = OperationsLog(journal, delay=settings.log_delay)
        self._fresh: list[_Fresh] = []
        self._applied: list[_Fresh] = []
        self.contents = load(journal, clock.now(), settings.task_tombstone)

    # Commits

    def applied(self) -> None:
        """Note that what was put into the journal so far is part of the transaction under way."""
        self._applied, self._fresh = self._fresh, []

    def committed(self) -> list[QueueState]:
        """Let the tasks of the finished transaction be dispatched, and return their queues."""
        now = self._clock.now()
        for queue, numbers, dues in self._applied:
            queue.due.add_all(numbers, dues, now)
        woken = list({id(queue): queue for queue, _, _ in self._applied}.values())
        self._applied = []
        return woken

    def uncommitted(self) -> set[int]:
        """Return the numbers of the queues with tasks that are not committed yet."""
        return {queue.q for queue, _, _ in (*self._fresh, *self._applied)}

    def failed(self) -> None:
        """Go back to what is on the disk, after a transaction that could not be committed."""
        self.journal.roll_back()
        self.reload()

    def reload(self, *, keep_running: bool = True) -> None:
        """Rebuild memory from the journal; attempts in flight stay known unless they were broken off."""
        before = self.contents.by_number if keep_running else {}
        self._fresh, self._applied = [], []
        self.log.reload()
        self.contents = load(self.journal, self._clock.now(), self._settings.task_tombstone)
        for q, queue in self.contents.by_number.items():
            if q in before:
                queue.running, queue.in_flight = before[q].running, before[q].in_flight

    # Settings

    def setting(self, key: str) -> bytes:
        """Return a stored value, empty if there is none."""
        return self.contents.settings.get(key, b"")

    def set_setting(self, key: str, value: bytes) -> None:
        """Store a value under a key."""
        self.contents.settings[key] = value
        self.journal.put(Write.SETTING, (key, value))

    # Queues

    def queue(self, name: str) -> QueueState:
        """Return the queue with this resource name.

        Raises
        ------
        RefusedError
            ``NOT_FOUND`` if there is none, or if it is too new to be known.
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
            If the name is taken, or was until recently.
        """
        name, now = message.name, self._clock.now()
        if name in self.contents.queues:
            raise RefusedError("ALREADY_EXISTS", "Queue already exists")
        if self.contents.deleted.get(name, 0) > now:
            raise RefusedError(
                "FAILED_PRECONDITION",
                "The queue cannot be created because a queue with this name existed too recently.",
            )
        q = max(self.contents.names, default=0) + 1
        config = QueueConfig.of(message, self._settings.task_tombstone)
        usable_at = now + self._settings.new_queue_delay
        queue = QueueState(q=q, name=name, message=message, config=config, usable_at=usable_at)
        self.contents.deleted.pop(name, None)
        self.contents.names[q] = name
        self.contents.queues[name] = self.contents.by_number[q] = queue
        self._put_queue(queue)
        return queue

    def configure(self, queue: QueueState, message: Any) -> None:
        """Replace a queue's v2beta3 `Queue`."""
        queue.message = message
        queue.config = QueueConfig.of(message, self._settings.task_tombstone)
        self._put_queue(queue)

    def delete_queue(self, name: str) -> None:
        """Delete a queue with its tasks; the name stays taken for a while.

        Raises
        ------
        RefusedError
            ``NOT_FOUND`` if there is none.
        """
        queue = self.contents.queues.pop(name, None)
        if queue is None:
            raise RefusedError("NOT_FOUND", _NO_ENTITY)
        until = self._clock.now() + self._settings.queue_tombstone
        del self.contents.by_number[queue.q]
        self.contents.deleted[name] = until
        if self.setting(f"iam/{name}"):
            self.set_setting(f"iam/{name}", b"")
        self.journal.put(Write.QUEUE, (queue.q, name, b"", queue.usable_at, until))
        self.journal.put(Write.FORGET_TOMBS, (queue.q,))
        self._dig(queue, LAST_NUMBER, 0)

    def purge(self, queue: QueueState) -> None:
        """Delete all tasks that the queue has now."""
        now = self._clock.now()
        floor = queue.floor = queue.next_number - 1
        if self._settings.hard_reset_on_purge:
            queue.tombs.clear()
            self.journal.put(Write.FORGET_TOMBS, (queue.q,))
            for upto in {floor, *(upto for q, upto in self.contents.graves if q == queue.q)}:
                self._dig(queue, upto, 0)
        else:
            until = now + queue.config.tombstone_ttl
            queue.tombs.update(dict.fromkeys(queue.live, until))
            # A second purge in a row finds nothing new; the names of the first are not taken any longer by it.
            if (queue.q, floor) not in self.contents.graves:
                self._dig(queue, floor, until)
        queue.live, queue.attempts = {}, {}
        queue.due.clear()
        queue.message.purge_time.seconds, micros = divmod(now, SECOND)
        queue.message.purge_time.nanos = micros * 1000
        self._put_queue(queue)

    # Tasks

    def add(self, queue: QueueState, task: NewTask, now: int) -> None:
        """Add a task that was taken in at `now`.

        Raises
        ------
        RefusedError
            If the id is taken, or was until recently.
        """
        for refused in self.add_all(queue, {0: task}, now).values():
            raise refused

    def add_all(self, queue: QueueState, tasks: Mapping[int, NewTask], now: int) -> dict[int, RefusedError]:
        """Add up to a hundred tasks that were taken in at `now`; return which were refused, as `add` does, and why."""
        refused: dict[int, RefusedError] = {}
        added: list[NewTask] = []
        live, tombs, first = queue.live, queue.tombs, queue.next_number
        for index, task in tasks.items():
            if task.id in live:
                refused[index] = RefusedError("ALREADY_EXISTS", "Requested entity already exists")
            elif tombs and tombs.get(task.id, 0) > now:
                refused[index] = RefusedError("ALREADY_EXISTS", _TOO_RECENT)
            else:
                live[task.id] = first + len(added)
                added.append(task)
        if added:
            self._put_tasks(queue, first, added, now)
        return refused

    def _put_tasks(self, queue: QueueState, first: int, tasks: Sequence[NewTask], now: int) -> None:
        """Put tasks whose numbers begin with `first` into the journal, the due times and the log."""
        queue.next_number = first + len(tasks)
        key, made = queue.base + first, now // SECOND
        rows = [(seq, made, task.due, task.id, task.head, task.body) for seq, task in enumerate(tasks, key)]
        self.journal.put_all(Write.TASK, rows)
        self._fresh.append((queue, range(first, queue.next_number), [task.due for task in tasks]))
        ratio = queue.config.sampling_ratio
        if ratio:
            self.log.created(queue.q, ratio, tasks, now)

    def number_of(self, queue: QueueState, task_id: str) -> int:
        """Return the number of a task.

        Raises
        ------
        RefusedError
            ``NOT_FOUND``, with another text if the task existed recently.
        """
        number = queue.live.get(task_id)
        if number is None:
            recent = queue.tombs.get(task_id, 0) > self._clock.now()
            raise RefusedError("NOT_FOUND", _GONE if recent else _NO_ENTITY)
        return number

    def task(self, queue: QueueState, task_id: str) -> StoredTask:
        """Return a task as it lies in the journal.

        Raises
        ------
        RefusedError
            ``NOT_FOUND`` if it is not there, or not committed yet.
        """
        stored = self.read_task(queue, self.number_of(queue, task_id))
        if stored is None:
            raise RefusedError("NOT_FOUND", _NO_ENTITY)
        return stored

    def page(self, queue: QueueState, after: int, limit: int) -> tuple[list[StoredTask], int]:
        """Return up to `limit` tasks in the order of creation, and where the next page begins; 0 at the end.

        Parameters
        ----------
        queue : QueueState
            Whose tasks.
        after : int
            Where the page begins: 0, or what came with the page before.
        limit : int
            Rows to look at; the page is shorter if some of them were deleted a moment ago.
        """
        base = sequence(queue.q, 0)
        rows = self.journal.read(
            "SELECT seq - ?, id, due, head, body FROM tasks WHERE seq BETWEEN ? AND ? ORDER BY seq LIMIT ?",
            (base, base + max(after, queue.floor) + 1, sequence(queue.q, LAST_NUMBER), limit),
        )
        tasks = [task for task in map(StoredTask._make, rows) if queue.live.get(task.id) == task.number]
        return tasks, rows[-1][0] if len(rows) == limit else 0

    def next_due(self, queue: QueueState) -> int | None:
        """Return when the task is due that comes next; None if none waits."""
        now = self._clock.now()
        while (entry := queue.due.first(now)) is not None:
            number, entered = entry
            stored = self.read_task(queue, number)
            if stored is not None and queue.live.get(stored.id) == number:
                tried = queue.attempts.get(number)
                due = tried.due if tried else stored.due
                if due == entered or due <= now:
                    return due
            queue.due.drop_first()  # out of date
        return None

    def delete(self, queue: QueueState, task_id: str) -> None:
        """Delete a task on request; an attempt in flight is not recalled.

        Raises
        ------
        RefusedError
            ``NOT_FOUND`` if it is not there.
        """
        number = self.number_of(queue, task_id)
        now, ratio = self._clock.now(), queue.config.sampling_ratio
        if ratio:
            rows = self.journal.read("SELECT head FROM tasks WHERE seq = ?", (sequence(queue.q, number),))
            target = target_of(rows[0][0]) if rows else ("", "")  # one that is not committed yet
            self.log.deleted(Subject(queue.q, ratio, task_id, *target), now)
        self.end_task(queue, number, task_id, now)

    def current(self, queue: QueueState) -> QueueState | None:
        """Return the queue as it is now: after a failed commit it is another object, and it may have been deleted."""
        return self.contents.by_number.get(queue.q)

    def read_task(self, queue: QueueState, number: int) -> StoredTask | None:
        """Return a task as it lies in the journal, None if it is not there or not committed yet."""
        rows = self.journal.read("SELECT id, due, head, body FROM tasks WHERE seq = ?", (sequence(queue.q, number),))
        return StoredTask(number, *rows[0]) if rows else None

    def end_task(self, queue: QueueState, number: int, task_id: str, now: int) -> None:
        """Take a task out of its queue; its name stays taken for a while."""
        until = now + queue.config.tombstone_ttl
        del queue.live[task_id]
        queue.tombs.pop(task_id, None)  # an expired one would keep its place: they lie in the order of their end
        queue.tombs[task_id] = until
        key = sequence(queue.q, number)
        self.journal.put(Write.END_TASK, (key,))
        self.journal.put(Write.TOMB, (queue.q, task_id, until))
        if queue.attempts.pop(number, None):
            self.journal.put(Write.END_ATTEMPTS, (key,))

    def expire(self, queue: QueueState, limit: int, *, spare_due: bool = False) -> int:
        """Delete up to `limit` tasks that are older than the queue keeps them; return how many there were.

        Parameters
        ----------
        queue : QueueState
            Whose tasks.
        limit : int
            Rows to look at.
        spare_due : bool
            Keep those that should have been sent while they were still young enough: the clock was moved past that.
        """
        now, kept = self._clock.now(), queue.config.task_ttl
        oldest = (now - kept) // SECOND
        base, spares = sequence(queue.q, 0), spare_due and queue.dispatching
        rows = self.journal.read(
            "SELECT seq - ?, id, made, due FROM tasks WHERE seq BETWEEN ? AND ? ORDER BY seq LIMIT ?",
            (base, base, sequence(queue.q, LAST_NUMBER), limit),
        )
        old = []
        for number, task, made, due in rows:
            if made < oldest and queue.live.get(task) == number:
                tried = queue.attempts.get(number)
                if not (spares and (tried.due if tried else due) <= made * SECOND + kept):
                    old.append((number, task))
        for number, task in old:
            self.end_task(queue, number, task, now)
        return len(old)

    def _put_queue(self, queue: QueueState) -> None:
        row = (queue.q, queue.name, queue.message.SerializeToString(), queue.usable_at, None)
        self.journal.put(Write.QUEUE, row)

    def _dig(self, queue: QueueState, upto: int, until: int) -> None:
        # A million rows are not deleted in one call: they are marked as dead, and swept slice by slice.
        self.contents.graves[queue.q, upto] = until
        self.journal.put(Write.GRAVE, (queue.q, upto, until))
