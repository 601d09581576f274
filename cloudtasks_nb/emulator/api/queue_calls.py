"""The RPCs for queues, in both versions of the API."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from google.protobuf import json_format
from google.protobuf.message import Message

from cloudtasks_nb._names import QueueName
from cloudtasks_nb.emulator.api.engine import EMPTY, Service, parse_name
from cloudtasks_nb.emulator.api.filter import Compare, Node, Not, compile_filter, field_name, parse_filter
from cloudtasks_nb.emulator.api.pages import page_reply, read_token
from cloudtasks_nb.emulator.model.apis import beta, well_known
from cloudtasks_nb.emulator.model.clock import SECOND
from cloudtasks_nb.emulator.model.methods import TASKS, project_of
from cloudtasks_nb.emulator.model.queues import PAUSED, RUNNING, configured, duration, from_v2, to_v2, updated
from cloudtasks_nb.emulator.model.refusal import help_link, invalid_argument, malformed_name, unknown_project
from cloudtasks_nb.emulator.store.state import QueueState
from cloudtasks_nb.errors import InvalidInputError

__all__ = ["QueueCalls"]

_MAX_PAGE = 9800
_LOCATION = re.compile(r"projects/[A-Za-z0-9:.-]+/locations/[A-Za-z0-9-]+")
_ROUTING = "app_engine_routing_override"


class QueueCalls(Service):
    """Executes the RPCs for queues."""

    async def list_queues(self, request: Any) -> bytes:
        """List the queues of a location, in the order of their names."""
        if _LOCATION.fullmatch(request.parent) is None:
            raise malformed_name()
        node = parse_filter(request.filter)
        _check_filter(node, self._pb.Queue.DESCRIPTOR)
        matches = compile_filter(node, _getter)
        prefix, now = f"{request.parent}/queues/", self._engine.clock.now()
        query = prefix + request.filter
        after = read_token(request.page_token, "", query, now=now)
        queues = self._store.contents.queues
        names = sorted(
            n for n, queue in queues.items() if n.startswith(prefix) and queue.usable_at <= now and n > after
        )
        size = min(request.page_size or _MAX_PAGE, _MAX_PAGE)
        if size < 0:
            raise invalid_argument("The page size cannot be negative.")
        mask = self._mask(request)
        items = (
            (name, self._message(queues[name], mask).SerializeToString() if matches(message) else b"")
            for name, message in ((name, self._message(queues[name], ())) for name in names)
        )
        return page_reply(items, size, query, now=now)

    async def get_queue(self, request: Any) -> bytes:
        """Return a queue."""
        return bytes(self._message(self._queue(request.name), self._mask(request)).SerializeToString())

    async def create_queue(self, request: Any) -> bytes:
        """Add a queue."""
        given = self._as_beta(request.queue)
        if _LOCATION.fullmatch(request.parent) is None:
            raise unknown_project(TASKS, project_of(request.parent) or request.parent)
        if _location_of(given.name) != request.parent:
            raise invalid_argument(f"{given.name} must begin with {request.parent}.")
        return await self._saved(self._store.create_queue(configured(given)))

    async def update_queue(self, request: Any) -> bytes:
        """Change a queue, or add it if it does not exist."""
        given = self._as_beta(request.queue)
        paths = self._update_paths(request.update_mask)
        queue = self._store.contents.queues.get(given.name)
        if queue is None:
            _location_of(given.name)
            return await self._saved(self._store.create_queue(configured(given)))
        return await self._configured(queue, updated(queue.message, given, paths, is_v2=self._is_v2))

    async def delete_queue(self, request: Any) -> bytes:
        """Delete a queue with its tasks."""
        parse_name(QueueName, request.name)
        self._store.delete_queue(request.name)
        await self._engine.committer.commit()
        return EMPTY

    async def purge_queue(self, request: Any) -> bytes:
        """Delete the tasks of a queue."""
        queue = self._queue(request.name)
        self._store.purge(queue)
        return await self._saved(queue)

    async def pause_queue(self, request: Any) -> bytes:
        """Stop dispatching the tasks of a queue."""
        return await self._set_state(request.name, PAUSED)

    async def resume_queue(self, request: Any) -> bytes:
        """Dispatch the tasks of a queue again."""
        return await self._set_state(request.name, RUNNING)

    async def _set_state(self, name: str, state: int) -> bytes:
        queue = self._queue(name)
        queue.message.state = state
        return await self._configured(queue, queue.message)

    async def _configured(self, queue: QueueState, message: Any) -> bytes:
        """Commit the changes of a queue, and dispatch by them: not before, because its tasks' results would be lost."""
        self._store.configure(queue, message)
        saved = await self._saved(queue)
        self._engine.dispatcher.wake([queue])
        return saved

    async def _saved(self, queue: QueueState) -> bytes:
        """Commit the changes of a queue and return its message, as it was before other calls may change it."""
        message = self._message(queue, ()).SerializeToString()
        await self._engine.committer.commit()
        return bytes(message)

    def _as_beta(self, queue: Any) -> Any:
        """Return a queue of a request as v2beta3."""
        if self._is_v2:
            return from_v2(queue)
        # Clients receive the default of --task-tombstone with a queue, and send it back when they update the queue.
        if duration(queue.tombstone_ttl) == self._engine.settings.task_tombstone:
            queue.ClearField("tombstone_ttl")
        return queue

    def _mask(self, request: Any) -> tuple[str, ...]:
        """Return the paths of a request's read mask; v2 has none."""
        if self._is_v2:
            return ()
        paths = tuple(field_name(path) for path in request.read_mask.paths)
        _check_mask([path for path in paths if path != "*"], beta.Queue.DESCRIPTOR, "Invalid read mask.")
        return paths

    def _update_paths(self, mask: Any) -> list[str]:
        """Return the paths of an update mask, which may be in camel case, as paths of v2beta3; none stands for all."""
        if list(mask.paths) == ["*"]:
            return []
        paths = [field_name(path) for path in mask.paths]
        _check_mask(paths, self._pb.Queue.DESCRIPTOR, "Invalid update mask.")
        if not self._is_v2:
            return paths
        return [f"app_engine_http_queue.{path}" if path.startswith(_ROUTING) else path for path in paths]

    def _message(self, queue: QueueState, mask: tuple[str, ...]) -> Any:
        """Return a queue as a message of the API version; without a mask with all fields but the statistics."""
        if self._is_v2:
            return to_v2(queue.message)
        message = beta.Queue()
        message.CopyFrom(queue.message)
        if not message.HasField("tombstone_ttl"):
            message.tombstone_ttl.FromMicroseconds(queue.config.tombstone_ttl)
        if not mask:
            return message
        roots = {path.split(".")[0] for path in mask}
        if "stats" in roots or "*" in roots:
            message.stats.CopyFrom(self._stats(queue))
        if "*" not in roots:
            for field in set(beta.Queue.DESCRIPTOR.fields_by_name) - roots:
                message.ClearField(field)
        return message

    def _stats(self, queue: QueueState) -> Any:
        now = self._engine.clock.now()
        stats = beta.QueueStats(
            tasks_count=len(queue.live),
            executed_last_minute_count=queue.last_minute(now)[0],
            concurrent_dispatches_count=queue.in_flight,
            effective_execution_rate=queue.config.rate,
        )
        if (due := self._engine.dispatcher.next_due(queue)) is not None:
            stats.oldest_estimated_arrival_time.FromMicroseconds(due)
        return stats


def _location_of(name: str) -> str:
    """Return the location in the name of a new queue."""
    try:
        return QueueName.parse(name).parent
    except InvalidInputError as error:
        reference = "https://cloud.google.com/tasks/docs/reference/rest/v2/projects.locations.queues#Queue.FIELDS.name"
        raise invalid_argument(
            'Queue name must be formatted: "projects/<PROJECT_ID>/locations/<LOCATION_ID>/queues/<QUEUE_ID>".',
            [help_link("Definition of queue name", reference)],
        ) from error


def _check_mask(paths: list[str], descriptor: Any, message: str) -> None:
    if not well_known.FieldMask(paths=paths).IsValidForDescriptor(descriptor):
        raise invalid_argument(message)


def _check_filter(node: Node, queue: Any) -> None:
    """Refuse a filter with a field that queues do not have, or with a value that its enum does not have."""
    if not isinstance(node, Compare):
        for part in (node.node,) if isinstance(node, Not) else node.nodes:
            _check_filter(part, queue)
        return
    message, field = queue, None
    for name in map(field_name, node.path):
        field = message.fields_by_name.get(name) if message is not None else None
        if field is None:
            raise invalid_argument(f'Invalid filter: a queue has no field "{".".join(node.path)}".')
        message = field.message_type
    names = field.enum_type.values_by_name if field is not None and field.enum_type is not None else ()
    if names and node.value != "*" and node.value.upper() not in names:
        raise invalid_argument(f'Invalid filter: "{node.value}" is none of {", ".join(names)}.')


def _getter(path: tuple[str, ...]) -> Callable[[Any], Any]:
    """Return a function that reads the field at a path from a queue's message; None if the field is not set.

    Enums are returned by name, durations in seconds, and numbers that are not set as 0.
    """
    names = [field_name(part) for part in path]

    def get(message: Any) -> Any:
        value = message
        for name in names:
            field = value.DESCRIPTOR.fields_by_name.get(name) if hasattr(value, "DESCRIPTOR") else None
            if field is None or (field.has_presence and not value.HasField(name)):
                return None
            value = getattr(value, name)
            if field.enum_type is not None and value in field.enum_type.values_by_number:
                value = field.enum_type.values_by_number[value].name
        if isinstance(value, well_known.Duration):
            return duration(value) / SECOND
        return json_format.MessageToDict(value) if isinstance(value, Message) else value

    return get
