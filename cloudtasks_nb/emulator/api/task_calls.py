"""The RPCs for tasks, in both versions of the API."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from itertools import chain
from typing import Any

from cloudtasks_nb._names import QueueName, TaskName
from cloudtasks_nb.emulator.api.engine import EMPTY, Service, parse_name
from cloudtasks_nb.emulator.api.operations import CREATE, DELETE, BatchMethod, BatchOperation, load_operation
from cloudtasks_nb.emulator.api.pages import page_reply, read_token
from cloudtasks_nb.emulator.model.apis import beta, v2
from cloudtasks_nb.emulator.model.protobuf import len_field
from cloudtasks_nb.emulator.model.queues import configured
from cloudtasks_nb.emulator.model.refusal import RefusedError, invalid_argument, not_found
from cloudtasks_nb.emulator.model.tasks import FULL, NewTask, accept_task, as_beta, as_v2, name_wire, task_wire
from cloudtasks_nb.emulator.store.state import QueueState

__all__ = ["TaskCalls"]

_MAX_PAGE = 1000
_MAX_CREATE, _MAX_DELETE = 100, 1000

# The result of a batch call: the response message on the wire, the part of it that is stored with the operation, and
# the refusals by the index of the item.
_BatchResult = tuple[bytes, bytes, dict[int, RefusedError]]


class TaskCalls(Service):
    """Executes the RPCs for tasks."""

    async def create_task(self, request: Any) -> bytes:
        """Add a task."""
        queue = self._queue_for_tasks(request.parent, request)
        now = self._engine.clock.now()
        task = self._accepted(request, queue.name, now)
        self._store.add(queue, task, now)
        await self._engine.committer.commit()
        return self._encoded(task_wire(task.head, task.due, None, task.body, request.response_view))

    async def get_task(self, request: Any) -> bytes:
        """Return a task."""
        queue, task_id = self._queue_and_id(request.name)
        return self._task(queue, task_id, request.response_view)

    async def list_tasks(self, request: Any) -> bytes:
        """List the tasks of a queue, in the order of creation."""
        queue = self._queue(request.parent)
        if request.page_size < 0:
            raise invalid_argument("The page size cannot be negative.")
        size = min(request.page_size or _MAX_PAGE, _MAX_PAGE)
        now = self._engine.clock.now()
        attempts, encode, view = queue.attempts.get, self._encoded, request.response_view
        after = read_token(request.page_token, 0, queue.name, now=now)
        with closing(self._store.tasks(queue, after, bodies=view == FULL)) as parts:
            items = (
                (number, encode(task_wire(head, due, attempts(number), body, view)))
                for number, _, due, head, body in chain.from_iterable(parts)
            )
            return page_reply(items, size, queue.name, now=now)

    async def delete_task(self, request: Any) -> bytes:
        """Delete a task."""
        queue, task_id = self._queue_and_id(request.name)
        self._store.delete(queue, task_id)
        await self._engine.committer.commit()
        return EMPTY

    async def run_task(self, request: Any) -> bytes:
        """Send a task now, even if it is not due, runs already, or the queue is paused."""
        await self._engine.dispatcher.wait_released()
        queue, task_id = self._queue_and_id(request.name)
        self._engine.dispatcher.run_now(queue, task_id)
        return self._task(queue, task_id, request.response_view)

    async def batch_create_tasks(self, request: Any) -> bytes:
        """Add up to a hundred tasks."""
        _check_count("requests", len(request.requests), _MAX_CREATE)
        items = list(request.requests)  # once: each access makes new Python objects
        if not {item.parent for item in items} <= {request.parent}:
            raise invalid_argument("The parent of each request must be the same as the parent of the batch.")
        queue = self._queue_for_tasks(request.parent)
        now = self._engine.clock.now()

        def create() -> _BatchResult:
            tasks: dict[int, NewTask] = {}
            failed: dict[int, RefusedError] = {}
            for index, item in enumerate(items):
                try:
                    tasks[index] = self._accepted(item, queue.name, now)
                except RefusedError as error:
                    failed[index] = error
            failed |= self._store.add_all(queue, tasks, now)
            encode, response, stored = self._encoded, [], []
            for index, task in tasks.items():
                if index not in failed:
                    view = items[index].response_view
                    response.append(len_field(1, encode(task_wire(task.head, task.due, None, task.body, view))))
                    stored.append(len_field(1, encode(name_wire(task.head, view))))
            return b"".join(response), b"".join(stored), failed

        return await self._batch(CREATE, request, len(items), create)

    async def batch_delete_tasks(self, request: Any) -> bytes:
        """Delete up to a thousand tasks."""
        queue = self._queue(request.parent)
        _check_count("names", len(request.names), _MAX_DELETE)
        prefix = f"{queue.name}/tasks/"
        if not all(name.startswith(prefix) for name in request.names):
            raise invalid_argument("All tasks must be in the queue that is the parent of the batch.")

        ids = [name.removeprefix(prefix) for name in request.names]
        return await self._batch(DELETE, request, len(ids), lambda: (b"", b"", self._store.delete_all(queue, ids)))

    async def _batch(self, kind: BatchMethod, request: Any, total: int, work: Callable[[], _BatchResult]) -> bytes:
        engine, store = self._engine, self._store
        name = kind.operation_name(self._api, request.parent, request.request_id)
        if name in store.contents.operations:
            await engine.committer.commit()
            return engine.faults.unfinished.get(name) or load_operation(store, name)
        started = engine.clock.now()
        response, stored, failed = work()
        batch = BatchOperation(
            kind=kind,
            api=self._api,
            name=name,
            started=started,
            ended=engine.clock.now(),
            total=total,
            failed=dict(sorted(failed.items())),
        )
        store.save_operation(name, batch.wire(stored), batch.ended)
        await engine.committer.commit()
        finished = batch.wire(response)
        if engine.faults.take(f"Batch{kind.verb}Tasks", unfinished=True):
            engine.faults.unfinished[name] = finished = batch.unfinished()
        return finished

    def _task(self, queue: QueueState, task_id: str, view: int) -> bytes:
        task = self._store.task(queue, task_id)
        attempts = queue.attempts.get(task.number)
        return self._encoded(task_wire(task.head, task.due, attempts, task.body, view))

    def _encoded(self, task: bytes) -> bytes:
        return task if self._is_v2 else as_beta(task)

    def _accepted(self, request: Any, queue: str, now: int) -> NewTask:
        task = request.task if self._is_v2 else v2.Task.FromString(as_v2(request.task.SerializeToString()))
        return accept_task(task, queue, now)

    def _queue_for_tasks(self, name: str, request: Any = None) -> QueueState:
        """Return the queue of new tasks; it is created on demand only if the task of `request` is valid."""
        if self._engine.settings.create_queues_on_demand and name not in self._store.contents.queues:
            parse_name(QueueName, name)
            if request is not None:
                copy = type(request)()
                copy.CopyFrom(request)  # the check of a task changes it
                self._accepted(copy, name, self._engine.clock.now())
            return self._store.create_queue(configured(beta.Queue(name=name)))
        return self._queue(name)

    def _queue_and_id(self, name: str) -> tuple[QueueState, str]:
        parsed = parse_name(TaskName, name)
        queue = self._store.contents.queues.get(str(parsed.queue))
        if queue is None:
            raise not_found()
        return queue, parsed.task


def _check_count(field: str, count: int, most: int) -> None:
    if count > most:
        raise invalid_argument(f"The number of {field} must be at most {most}.")
