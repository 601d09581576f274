"""The RPCs of a strict emulator that depend on who calls."""

from __future__ import annotations

from typing import Any

from cloudtasks_nb.emulator.access.control import AccessControl
from cloudtasks_nb.emulator.api.access_calls import AccessCalls
from cloudtasks_nb.emulator.api.engine import Engine
from cloudtasks_nb.emulator.api.log_calls import LogCalls
from cloudtasks_nb.emulator.api.queue_calls import QueueCalls
from cloudtasks_nb.emulator.api.task_calls import TaskCalls
from cloudtasks_nb.emulator.model.apis import iam
from cloudtasks_nb.emulator.model.tasks import NewTask

__all__ = ["StrictAccessCalls", "StrictLogCalls", "StrictQueueCalls", "StrictTaskCalls"]


class StrictTaskCalls(TaskCalls):
    """Refuses tasks with tokens of service accounts that the caller may not use."""

    def _accepted(self, request: Any, queue: str, now: int) -> NewTask:
        _access(self._engine).check_target(request.task.http_request, queue, request.task.http_request.url)
        return super()._accepted(request, queue, now)


class StrictQueueCalls(QueueCalls):
    """Refuses queues with tokens of service accounts that the caller may not use."""

    async def create_queue(self, wire: bytes) -> bytes:
        """Create a queue."""
        queue = self._pb.CreateQueueRequest.FromString(wire).queue
        _access(self._engine).check_target(queue.http_target, queue.name)
        return await super().create_queue(wire)

    async def update_queue(self, wire: bytes) -> bytes:
        """Change a queue."""
        queue = self._pb.UpdateQueueRequest.FromString(wire).queue
        _access(self._engine).check_target(queue.http_target, queue.name)
        return await super().update_queue(wire)


class StrictLogCalls(LogCalls):
    """Finds no entries if the project routes them elsewhere."""

    async def list_log_entries(self, wire: bytes) -> bytes:
        """Return a page of entries."""
        return b"" if _access(self._engine).state.conditions.log_excluded else await super().list_log_entries(wire)


class StrictAccessCalls(AccessCalls):
    """Answers which permissions the caller has."""

    async def test_iam_permissions(self, wire: bytes) -> bytes:
        """Return those permissions of the request that the caller has; none for an unknown queue."""
        request = iam.TestIamPermissionsRequest.FromString(wire)
        response = iam.TestIamPermissionsResponse()
        if request.resource in self._store.contents.queues:
            response.permissions.extend(_access(self._engine).allowed(request.permissions, request.resource))
        return bytes(response.SerializeToString())


def _access(engine: Engine) -> AccessControl:
    """Return the access control of a strict emulator."""
    if engine.access is None:
        raise TypeError("the emulator is not strict")
    return engine.access
