"""All calls of the emulator by the names that gRPC gives them."""

from __future__ import annotations

from cloudtasks_nb.emulator.api.access_calls import AccessCalls, SharedCalls
from cloudtasks_nb.emulator.api.engine import Call, Engine
from cloudtasks_nb.emulator.api.faults import strike
from cloudtasks_nb.emulator.api.log_calls import LogCalls
from cloudtasks_nb.emulator.api.queue_calls import QueueCalls
from cloudtasks_nb.emulator.api.task_calls import TaskCalls
from cloudtasks_nb.emulator.model.refusal import RefusedError

__all__ = ["all_calls"]

_BATCHES = ("BatchCreateTasks", "BatchDeleteTasks")


def all_calls(engine: Engine) -> dict[str, Call]:
    """Return every call by its full name, ``/google.cloud.tasks.v2.CloudTasks/GetTask``."""
    shared = SharedCalls(engine)
    calls: dict[str, Call] = {
        "/google.logging.v2.LoggingServiceV2/ListLogEntries": LogCalls(engine.store, engine.clock).list_log_entries,
        "/google.longrunning.Operations/GetOperation": shared.get_operation,
        "/google.cloud.location.Locations/GetLocation": shared.get_location,
        "/google.cloud.location.Locations/ListLocations": shared.list_locations,
    }
    for api in ("v2", "v2beta3"):
        methods = {
            **dict.fromkeys(_BATCHES, _unimplemented),
            **QueueCalls(engine, api).calls(),
            **TaskCalls(engine, api).calls(),
            **AccessCalls(engine, api).calls(),
        }
        calls |= {f"/google.cloud.tasks.{api}.CloudTasks/{name}": call for name, call in methods.items()}
    return {name: _with_faults(engine, name.rpartition("/")[2], call) for name, call in calls.items()}


def _with_faults(engine: Engine, method: str, call: Call) -> Call:
    faults, called = engine.faults, engine.committer.called

    async def answer(wire: bytes) -> bytes:
        called()
        fault = faults.take(method)
        if fault is None:
            return await call(wire)
        await strike(fault, after=False)
        reply = await call(wire)
        await strike(fault, after=True)
        return reply

    return answer


async def _unimplemented(_: bytes) -> bytes:
    raise RefusedError("UNIMPLEMENTED", "Method not found.")
