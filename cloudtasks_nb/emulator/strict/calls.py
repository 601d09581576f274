"""The calls of a strict emulator: each is checked against its caller, whom a header of the request names."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

import grpc
from aiohttp import web
from aiohttp.typedefs import Handler

from cloudtasks_nb.emulator.api.engine import Call, Engine
from cloudtasks_nb.emulator.api.task_calls import TaskCalls
from cloudtasks_nb.emulator.model.methods import METHODS
from cloudtasks_nb.emulator.model.tasks import NewTask
from cloudtasks_nb.emulator.strict.control import AccessControl

__all__ = ["CheckedTaskCalls", "DatedCalls", "checked", "remember_headers"]

#: HTTP headers or gRPC metadata of the request that is answered, with keys in lower case
_headers: ContextVar[Mapping[str, str]] = ContextVar("headers")


def checked(access: AccessControl, path: str, call: Call) -> Call:
    """Return a call that is executed only if its caller may make it."""
    method = METHODS[path]

    async def answer(request: Any) -> bytes:
        await access.admit(method, request, _headers.get())
        if method.name in {"CreateQueue", "UpdateQueue"}:
            access.check_target(request.queue.http_target, request.queue.name)
        if method.name == "ListLogEntries" and access.state.conditions.log_excluded:
            return b""
        reply = await call(request)
        if method.name == "TestIamPermissions":
            permissions = access.allowed(method.response.FromString(reply).permissions, request.resource)
            reply = method.response(permissions=permissions).SerializeToString()
        return reply

    return answer


class CheckedTaskCalls(TaskCalls):
    """Refuses tasks with tokens of service accounts that the caller may not use.

    Parameters
    ----------
    access : AccessControl
        Who may use which account.
    engine, api : Engine and str
        Those of other calls.
    """

    def __init__(self, access: AccessControl, engine: Engine, api: str) -> None:
        super().__init__(engine, api)
        self._access = access

    def _accepted(self, request: Any, queue: str, now: int) -> NewTask:
        self._access.check_target(request.task.http_request, queue, request.task.http_request.url)
        return super()._accepted(request, queue, now)


class DatedCalls(grpc.aio.ServerInterceptor):
    """Remembers the metadata of a gRPC call for its check, and dates the call where Google does.

    Parameters
    ----------
    engine : Engine
        Has the date.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        """Return the handler of a call."""
        handler = await continuation(handler_call_details)
        if handler_call_details.method not in METHODS:
            return handler

        async def answer(wire: bytes, context: Any) -> bytes:
            _headers.set({key: value for key, value in context.invocation_metadata() if isinstance(value, str)})
            await context.send_initial_metadata((("date", self._engine.date()),))
            reply: bytes = await handler.unary_unary(wire, context)
            return reply

        return grpc.unary_unary_rpc_method_handler(answer)


@web.middleware
async def remember_headers(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Remember the headers of an HTTP request for the check of its call."""
    _headers.set({key.lower(): value for key, value in request.headers.items()})
    return await handler(request)
