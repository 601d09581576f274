"""All RPCs of the emulator by the names that gRPC gives them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from cloudtasks_nb.emulator.api.access_calls import AccessCalls
from cloudtasks_nb.emulator.api.engine import Call, Engine, Service
from cloudtasks_nb.emulator.api.filter import field_name
from cloudtasks_nb.emulator.api.log_calls import LogCalls
from cloudtasks_nb.emulator.api.queue_calls import QueueCalls
from cloudtasks_nb.emulator.api.task_calls import TaskCalls
from cloudtasks_nb.emulator.model.methods import METHODS
from cloudtasks_nb.emulator.model.refusal import RefusedError

__all__ = ["all_calls"]

_BATCHES = ("BatchCreateTasks", "BatchDeleteTasks")


def all_calls(engine: Engine, task_calls: Callable[[Engine, str], Service] = TaskCalls) -> dict[str, Call]:
    """Return every call by its full name, ``/google.cloud.tasks.v2.CloudTasks/GetTask``.

    Parameters
    ----------
    engine : Engine
        The emulator.
    task_calls : callable
        Takes the engine and the version of the API, and returns what executes the calls for tasks.
    """
    kinds = (QueueCalls, task_calls, AccessCalls, LogCalls)
    services = {api: [kind(engine, api) for kind in kinds] for api in ("v2", "v2beta3")}
    calls = {}
    for path, method in METHODS.items():
        api = "v2beta3" if ".v2beta3." in path else "v2"
        name = field_name(method.name).removeprefix("_")
        [call] = [getattr(one, name) for one in services[api] if hasattr(one, name)]
        is_missing = engine.settings.no_batch and method.name in _BATCHES
        calls[path] = _with_faults(engine, method.name, _unimplemented if is_missing else call)
    return calls


def _with_faults(engine: Engine, method: str, call: Call) -> Call:
    faults, note_call, is_list = engine.faults, engine.committer.note_call, method.startswith("List")

    async def answer(request: Any) -> bytes:
        note_call()
        if is_list:
            await engine.unread.room()
        fault = faults.take(method)
        if fault is None:
            return await call(request)
        if fault.delay_s:
            await asyncio.sleep(fault.delay_s)
        reply = await call(request) if fault.code is None or fault.after else b""
        if fault.code is not None:
            raise RefusedError(fault.code, fault.message)
        return reply

    return answer


async def _unimplemented(_: Any) -> bytes:
    raise RefusedError("UNIMPLEMENTED", "Method not found.")
