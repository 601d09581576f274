"""The gRPC server: it takes and answers serialized messages, because RPCs encode theirs themselves."""

from __future__ import annotations

import asyncio
import math
import socket
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NoReturn

import grpc
from google.protobuf.message import DecodeError

from cloudtasks_nb._names import CLOCK_AHEAD_METADATA
from cloudtasks_nb.emulator.api.engine import Call, Engine
from cloudtasks_nb.emulator.api.replies import LARGE
from cloudtasks_nb.emulator.frontends.http import cannot_listen, host_and_port
from cloudtasks_nb.emulator.frontends.introspection import Health, Reflection
from cloudtasks_nb.emulator.model.methods import METHODS
from cloudtasks_nb.emulator.model.refusal import RefusedError, invalid_argument
from cloudtasks_nb.errors import PortInUseError

__all__ = ["answer_calls", "grpc_server"]

_CODES = {code.value[0]: code for code in grpc.StatusCode}
# Cloud Tasks refuses deadlines of more than 30 s, the other services do not. gRPC rounds up: 30 s are sent as 30.1 s.
_TASKS = "/google.cloud.tasks."
_LONGEST = 30.25
_OPTIONS = (
    # A batch of large tasks is above the default of 4 MiB; Google's client lifts its own limits too.
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # A client with unread answers that does not answer pings either is disconnected; one that stops for 40 s is not.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 60_000),
    # Otherwise a second emulator would silently share the port.
    ("grpc.so_reuseport", 0),
)


def grpc_server(
    host: str, port: int, credentials: grpc.ServerCredentials | None = None, interceptors: Sequence[Any] = ()
) -> tuple[Any, int]:
    """Return a server that is not started yet, and its port.

    Parameters
    ----------
    host, port : str and int
        The address; port 0 is a free one.
    credentials : ServerCredentials, optional
        Speak TLS with them.
    interceptors : sequence
        Of all calls.

    Raises
    ------
    PortInUseError
        If another program listens there.
    """
    # The port is tried first, because gRPC prints messages of its own if it is in use.
    try:
        with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET):
            pass
    except OSError as error:
        raise cannot_listen(error, host, port, "--port") from error
    server = grpc.aio.server(interceptors=interceptors, options=_OPTIONS)
    try:
        address = host_and_port(host, port)
        if credentials is None:
            return server, server.add_insecure_port(address)
        return server, server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise PortInUseError(f"port {port} is in use", resource=str(port)) from error


def answer_calls(
    server: Any, engine: Engine, calls: Mapping[str, Call], metadata: Mapping[str, str], stop: asyncio.Event
) -> None:
    """Add the handlers of calls to a server that is not started yet, and those of health checks and reflection.

    Parameters
    ----------
    server : grpc.aio.Server
        The result of `grpc_server`.
    engine : Engine
        The emulator, which counts the large answers.
    calls : mapping
        The calls by their full names.
    metadata : mapping
        Sent as trailing metadata with every answer.
    stop : asyncio.Event
        From then on the health of all services is that they do not serve.
    """
    fixed = tuple(metadata.items())
    handlers = {
        name: grpc.unary_unary_rpc_method_handler(_behaviour(engine, name, call, fixed)) for name, call in calls.items()
    }
    services = {name.split("/")[1] for name in calls}
    # Everybody may ask these, without a token too.
    handlers |= Health(services, stop).handlers() | Reflection(services).handlers()
    server.add_generic_rpc_handlers((_Handlers(handlers),))


class _Handlers(grpc.GenericRpcHandler):
    def __init__(self, by_name: Mapping[str, Any]) -> None:
        self._by_name = by_name

    def service(self, handler_call_details: Any) -> Any:
        return self._by_name.get(handler_call_details.method)


def _behaviour(engine: Engine, name: str, call: Call, fixed: tuple[tuple[str, str], ...]) -> Any:
    unread, clock, parse = engine.unread, engine.clock, METHODS[name].request.FromString
    longest = _LONGEST if name.startswith(_TASKS) else math.inf

    async def answer(wire: bytes, context: Any) -> bytes:
        ahead = ((CLOCK_AHEAD_METADATA, str(clock.advanced)),) if clock.advanced else ()
        metadata = (*fixed, ("date", engine.date()), *ahead)
        # Not as initial metadata: sending that would make small calls a tenth slower.
        context.set_trailing_metadata(metadata)
        try:
            left = context.time_remaining()
            if left is not None and left > longest:
                raise _deadline_too_long(left)
            reply = await call(parse(wire))
        except RefusedError as error:
            await _abort(context, error, metadata)
        except DecodeError:
            await _abort(context, invalid_argument("The request cannot be parsed."), metadata)
        if len(reply) >= LARGE:
            release = unread.hold(len(reply))
            context.add_done_callback(lambda _: release())
        return reply

    return answer


def _deadline_too_long(left: float) -> RefusedError:
    deadline = datetime.now(UTC) + timedelta(seconds=left)
    return invalid_argument(
        f"The request deadline is {deadline.isoformat()}. The deadline cannot be more than 30s in the future.",
    )


async def _abort(context: Any, error: RefusedError, metadata: tuple[tuple[str, str], ...]) -> NoReturn:
    details = (("grpc-status-details-bin", error.status().SerializeToString()),) if error.details else ()
    await context.abort(_CODES[error.number], error.message, (*metadata, *details))
    raise error
