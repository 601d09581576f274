"""The calls about tasks, in both versions of the API."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from google.protobuf import empty_pb2

from cloudtasks_nb._names import QueueName, TaskName
from cloudtasks_nb.emulator.api.engine import Call, Engine
from cloudtasks_nb.emulator.api.operations import CREATE, DELETE, Batch, BatchKind, operation_name, recall, remember
from cloudtasks_nb.emulator.api.pages import page_token, read_number
from cloudtasks_nb.emulator.api.views import as_beta, as_v2, task_wire
from cloudtasks_nb.emulator.model.pb import beta, v2
from cloudtasks_nb.emulator.model.queues import configured
from cloudtasks_nb.emulator.model.refusal import RefusedError
from cloudtasks_nb.emulator.model.tasks import NewTask, take_in
from cloudtasks_nb.emulator.model.wire import len_field
from cloudtasks_nb.emulator.store.memory import QueueState
from cloudtasks_nb.errors import InvalidInputError

__all__ = ["TaskCalls"]

T = TypeVar("T")

_MAX_PAGE = 1000
_MAX_CREATE, _MAX_DELETE = 100, 1000
_EMPTY = empty_pb2.Empty().SerializeToString()

# What a batch call gave: the response message on the wire, and what was refused by the index of the item.
_Done = tuple[bytes, dict[int, RefusedError]]


class TaskCalls:
    """Answers the calls about tasks.

    Parameters
    ----------
    engine : Engine
        What they work on.
    api : str
        ``v2`` or ``v2beta3``.
    """

    def __init__(self, engine: Engine, api: str) -> None:
        self._engine = engine
        self._store = engine.store
        self._api = api
        self._plain = api == "v2"
        self._pb = v2 if self._plain else beta

    def calls(self) -> dict[str, Call]:
        """Return the calls by the names of their methods."""
        calls: dict[str, Call] = {
            "ListTasks": self.list_tasks,
            "GetTask": self.get_task,
            "CreateTask": self.create_task,
            "DeleteTask": self.delete_task,
            "RunTask": self.run_task,
        }
        if not self._engine.settings.no_batch:
            calls |= {"BatchCreateTasks": self.batch_create_tasks, "BatchDeleteTasks": self.batch_delete_tasks}
        return calls

    async def create_task(self, wire: bytes) -> bytes:
        """Add a task."""
        request = self._pb.CreateTaskRequest.FromString(wire)
        queue = self._queue_to_fill(request.parent, request)
        now = self._engine.clock.now()
        task = self._taken_in(request, queue.name, now)
        self._store.add(queue, task, now)
        await self._engine.committer.commit()
        return self._shown(task_wire(task.head, task.due, None, task.body, request.response_view))

    async def get_task(self, wire: bytes) -> bytes:
        """Return a task."""
        request = self._pb.GetTaskRequest.FromString(wire)
        queue, task_id = self._named(request.name)
        return self._task(queue, task_id, request.response_view)

    async def list_tasks(self, wire: bytes) -> bytes:
        """List the tasks of a queue, in the order of creation."""
        request = self._pb.ListTasksRequest.FromString(wire)
        queue = self._queue(request.parent)
        if request.page_size < 0:
            raise RefusedError("INVALID_ARGUMENT", "The page size cannot be negative.")
        size = min(request.page_size or _MAX_PAGE, _MAX_PAGE)
        view, attempts, show = request.response_view, queue.attempts.get, self._shown
        now = self._engine.clock.now()
        tasks, last = self._store.page(queue, read_number(request.page_token, queue.name, now=now), size)
        page = b"".join(
            len_field(1, show(task_wire(task.head, task.due, attempts(task.number), task.body, view))) for task in tasks
        )
        return page + len_field(2, page_token(str(last), queue.name, now=now).encode()) if last else page

    async def delete_task(self, wire: bytes) -> bytes:
        """Delete a task."""
        queue, task_id = self._named(self._pb.DeleteTaskRequest.FromString(wire).name)
        self._store.delete(queue, task_id)
        await self._engine.committer.commit()
        return _EMPTY

    async def run_task(self, wire: bytes) -> bytes:
        """Send a task now, even when it is not due, runs already, or the queue is paused."""
        request = self._pb.RunTaskRequest.FromString(wire)
        await self._engine.dispatcher.released()
        queue, task_id = self._named(request.name)
        self._engine.dispatcher.run(queue, task_id)
        return self._task(queue, task_id, request.response_view)

    async def batch_create_tasks(self, wire: bytes) -> bytes:
        """Add up to a hundred tasks."""
        request = self._pb.BatchCreateTasksRequest.FromString(wire)
        _check_count("requests", len(request.requests), _MAX_CREATE)
        items = list(request.requests)  # once: each access makes new Python objects
        if not {item.parent for item in items} <= {request.parent}:
            raise RefusedError(
                "INVALID_ARGUMENT", "The parent of each request must be the same as the parent of the batch."
            )
        queue = self._queue_to_fill(request.parent)
        now = self._engine.clock.now()

        def create() -> _Done:
            tasks, failed = _each(items, lambda item: self._taken_in(item, queue.name, now))
            failed |= self._store.add_all(queue, tasks, now)
            show = self._shown
            response = [
                len_field(1, show(task_wire(task.head, task.due, None, task.body, items[index].response_view)))
                for index, task in tasks.items()
                if index not in failed
            ]
            return b"".join(response), failed

        return await self._batch(CREATE, request, len(items), create)

    async def batch_delete_tasks(self, wire: bytes) -> bytes:
        """Delete up to a thousand tasks."""
        request = self._pb.BatchDeleteTasksRequest.FromString(wire)
        queue = self._queue(request.parent)
        _check_count("names", len(request.names), _MAX_DELETE)
        prefix = f"{queue.name}/tasks/"
        if not all(name.startswith(prefix) for name in request.names):
            raise RefusedError("INVALID_ARGUMENT", "All tasks must be in the queue that is the parent of the batch.")

        def delete() -> _Done:
            _, failed = _each(request.names, lambda name: self._store.delete(queue, name.removeprefix(prefix)))
            return b"", failed

        return await self._batch(DELETE, request, len(request.names), delete)

    async def _batch(self, kind: BatchKind, request: Any, total: int, carry_out: Callable[[], _Done]) -> bytes:
        engine, store = self._engine, self._store
        name = operation_name(self._api, kind, request.parent, request.request_id)
        if name in store.contents.operations:
            await engine.committer.commit()
            return engine.faults.held.get(name) or recall(store, name)
        started = engine.clock.now()
        response, failed = carry_out()
        batch = Batch(
            kind=kind,
            api=self._api,
            name=name,
            started=started,
            ended=engine.clock.now(),
            total=total,
            failed=dict(sorted(failed.items())),
            response=response,
        )
        finished = batch.wire()
        remember(store, name, finished, batch.ended)
        await engine.committer.commit()
        if engine.faults.holds(f"Batch{kind.verb}Tasks"):
            engine.faults.held[name] = finished = batch.unfinished()
        return finished

    def _task(self, queue: QueueState, task_id: str, view: int) -> bytes:
        task = self._store.task(queue, task_id)
        attempts = queue.attempts.get(task.number)
        return self._shown(task_wire(task.head, task.due, attempts, task.body, view))

    def _shown(self, task: bytes) -> bytes:
        return task if self._plain else as_beta(task)

    def _taken_in(self, request: Any, queue: str, now: int) -> NewTask:
        task = request.task if self._plain else v2.Task.FromString(as_v2(request.task.SerializeToString()))
        return take_in(task, queue, now)

    def _queue(self, name: str) -> QueueState:
        queue = self._store.contents.queues.get(name)
        if queue is None:
            _parse(QueueName, name)
        return self._store.queue(name)

    def _queue_to_fill(self, name: str, request: Any = None) -> QueueState:
        """Return a queue; one that is made on demand is made only when the task of `request` is valid."""
        if self._engine.settings.queues_on_demand and name not in self._store.contents.queues:
            _parse(QueueName, name)
            if request is not None:
                copy = type(request)()
                copy.CopyFrom(request)  # taking a task in changes it
                self._taken_in(copy, name, self._engine.clock.now())
            return self._store.create_queue(configured(beta.Queue(name=name)))
        return self._queue(name)

    def _named(self, name: str) -> tuple[QueueState, str]:
        parsed = _parse(TaskName, name)
        queue = self._store.contents.queues.get(str(parsed.queue))
        if queue is None:
            raise RefusedError("NOT_FOUND", "Requested entity was not found.")
        return queue, parsed.task


def _parse(kind: Any, name: str) -> Any:
    try:
        return kind.parse(name)
    except InvalidInputError as error:
        raise RefusedError("INVALID_ARGUMENT", "Invalid resource field value in the request.") from error


def _each(items: Iterable[Any], work: Callable[[Any], T]) -> tuple[dict[int, T], dict[int, RefusedError]]:
    """Do the work for every item; return the results and what was refused, both by the index of the item."""
    results: dict[int, T] = {}
    failed: dict[int, RefusedError] = {}
    for index, item in enumerate(items):
        try:
            results[index] = work(item)
        except RefusedError as error:
            failed[index] = error
    return results, failed


def _check_count(field: str, count: int, most: int) -> None:
    if count > most:
        raise RefusedError("INVALID_ARGUMENT", f"The number of {field} must be at most {most}.")
