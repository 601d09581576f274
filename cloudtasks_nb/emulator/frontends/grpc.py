"""The gRPC server: it takes and answers serialized messages, because RPCs encode theirs themselves.

It also answers what a client asks of any server: whether its services answer (health), and what they look like
(reflection). See https://grpc.io/docs/guides/health-checking/ and https://grpc.io/docs/guides/reflection/. The versions
v1 and v1alpha of reflection have the same messages.
"""

from __future__ import annotations

import asyncio
import math
import socket
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NoReturn

import grpc
from google.protobuf.message import DecodeError

from cloudtasks_nb._names import CLOCK_AHEAD_METADATA
from cloudtasks_nb.emulator.api.engine import Call, Engine
from cloudtasks_nb.emulator.api.replies import LARGE
from cloudtasks_nb.emulator.frontends.callers import NO_TOKEN, Callers
from cloudtasks_nb.emulator.frontends.http import cannot_listen, host_and_port
from cloudtasks_nb.emulator.frontends.parts import Parts
from cloudtasks_nb.emulator.model.apis import POOL, health, reflection
from cloudtasks_nb.emulator.model.methods import METHODS
from cloudtasks_nb.emulator.model.refusal import RefusedError, invalid_argument
from cloudtasks_nb.errors import PortInUseError

__all__ = ["HEALTH", "Health", "Reflection", "answer_calls", "grpc_server"]

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
#: The full name of the health service.
HEALTH: Final = "grpc.health.v1.Health"


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
    server: Any, engine: Parts, calls: Mapping[str, Call], metadata: Mapping[str, str], stop: asyncio.Event
) -> None:
    """Add the handlers of calls to a server that is not started yet, and those of health checks and reflection.

    Parameters
    ----------
    server : grpc.aio.Server
        The result of `grpc_server`.
    engine : Parts
        The emulator, which knows who may call it, and counts the large answers.
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
    # A strict emulator answers these without the token of a principal too.
    handlers |= Health(services, stop).handlers() | Reflection(services).handlers()
    server.add_generic_rpc_handlers((_Handlers(handlers, engine.callers),))


class _Handlers(grpc.GenericRpcHandler):
    def __init__(self, by_name: Mapping[str, Any], callers: Callers) -> None:
        self._by_name = by_name
        self._callers = callers
        self._refusal = grpc.unary_unary_rpc_method_handler(_refuse_caller)

    def service(self, handler_call_details: Any) -> Any:
        name = handler_call_details.method
        if name.startswith(f"/{HEALTH}/") or self._callers.knows_call(handler_call_details.invocation_metadata):
            return self._by_name.get(name)
        return self._refusal


async def _refuse_caller(_: bytes, context: Any) -> None:
    await context.abort(grpc.StatusCode.UNAUTHENTICATED, NO_TOKEN)


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
                deadline = (datetime.now(UTC) + timedelta(seconds=left)).isoformat()
                text = f"The request deadline is {deadline}. The deadline cannot be more than 30s in the future."
                raise invalid_argument(text)
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


async def _abort(context: Any, error: RefusedError, metadata: tuple[tuple[str, str], ...]) -> NoReturn:
    details = (("grpc-status-details-bin", error.status().SerializeToString()),) if error.details else ()
    await context.abort(_CODES[error.number], error.message, (*metadata, *details))
    raise error


class Health:
    """Answers the calls of the health service.

    Parameters
    ----------
    services : iterable of str
        The full names of the services; the empty name is that of the whole emulator.
    stop : asyncio.Event
        From then on they do not serve.
    """

    def __init__(self, services: Iterable[str], stop: asyncio.Event) -> None:
        self._services = {"", *services}
        self._stop = stop

    def handlers(self) -> dict[str, Any]:
        """Return the handlers by the full names of the calls."""
        return {
            f"/{HEALTH}/List": grpc.unary_unary_rpc_method_handler(self._list),
            f"/{HEALTH}/Check": grpc.unary_unary_rpc_method_handler(self._check),
            f"/{HEALTH}/Watch": grpc.unary_stream_rpc_method_handler(self._watch),
        }

    async def _check(self, wire: bytes, context: Any) -> bytes:
        service = (await _parsed(health.HealthCheckRequest, wire, context)).service
        if service not in self._services:
            await context.abort(grpc.StatusCode.NOT_FOUND, f'The emulator has no service "{service}".')
        return self._status()

    async def _list(self, *_: Any) -> bytes:
        status = health.HealthCheckResponse.FromString(self._status())
        return bytes(health.HealthListResponse(statuses=dict.fromkeys(self._services, status)).SerializeToString())

    async def _watch(self, wire: bytes, context: Any) -> AsyncIterator[bytes]:
        known = (await _parsed(health.HealthCheckRequest, wire, context)).service in self._services
        told = self._status(known=known)
        yield told  # the stop may come while this is sent
        await self._stop.wait()
        if told != self._status(known=known):
            yield self._status()

    def _status(self, *, known: bool = True) -> bytes:
        status = ("NOT_SERVING" if self._stop.is_set() else "SERVING") if known else "SERVICE_UNKNOWN"
        return bytes(health.HealthCheckResponse(status=status).SerializeToString())


class Reflection:
    """Answers the calls of the reflection service, for clients without proto files, such as grpcurl.

    Parameters
    ----------
    services : iterable of str
        The full names of the services of the emulator's calls.
    """

    def __init__(self, services: Iterable[str]) -> None:
        self._services = sorted({*services, HEALTH})

    def handlers(self) -> dict[str, Any]:
        """Return the handlers by the full names of the calls."""
        handler = grpc.stream_stream_rpc_method_handler(self._answer_all)
        return {f"/grpc.reflection.{api}.ServerReflection/ServerReflectionInfo": handler for api in ("v1", "v1alpha")}

    async def _answer_all(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for wire in requests:
            request = await _parsed(reflection.ServerReflectionRequest, wire, context)
            answer = reflection.ServerReflectionResponse(valid_host=request.host, original_request=request)
            try:
                self._answer(request, answer)
            except (KeyError, ValueError):
                _refuse(answer, grpc.StatusCode.NOT_FOUND, "not found")
            yield answer.SerializeToString()

    def _answer(self, request: Any, answer: Any) -> None:
        """Answer the one question of a request."""
        match request.WhichOneof("message_request"):
            case "file_by_filename":
                _add_files(answer, POOL.FindFileByName(request.file_by_filename))
            case "file_containing_symbol":
                _add_files(answer, _file_of(request.file_containing_symbol))
            case "file_containing_extension":
                asked = request.file_containing_extension
                extended = POOL.FindMessageTypeByName(asked.containing_type)
                _add_files(answer, POOL.FindExtensionByNumber(extended, asked.extension_number).file)
            case "all_extension_numbers_of_type":
                name = request.all_extension_numbers_of_type
                extensions = POOL.FindAllExtensions(POOL.FindMessageTypeByName(name))
                answer.all_extension_numbers_response.base_type_name = name
                answer.all_extension_numbers_response.extension_number.extend(one.number for one in extensions)
            case "list_services":
                for name in self._services:
                    answer.list_services_response.service.add(name=name)
            case _:
                _refuse(answer, grpc.StatusCode.INVALID_ARGUMENT, "the request has no question")


async def _parsed(kind: Any, wire: bytes, context: Any) -> Any:
    """Return a request; end a call whose request cannot be parsed."""
    try:
        return kind.FromString(wire)
    except DecodeError:
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "The request cannot be parsed.")


def _refuse(answer: Any, code: grpc.StatusCode, message: str) -> None:
    answer.error_response.error_code, answer.error_response.error_message = code.value[0], message


def _file_of(symbol: str) -> Any:
    try:
        return POOL.FindFileContainingSymbol(symbol)
    except KeyError:  # protobuf finds no methods by it
        return POOL.FindMethodByName(symbol).containing_service.file


def _add_files(answer: Any, file: Any) -> None:
    """Add a file, and all that it imports, to an answer."""
    files = [file]
    for one in files:  # which grows meanwhile
        files += [imported for imported in one.dependencies if imported not in files]
    answer.file_descriptor_response.file_descriptor_proto.extend(one.serialized_pb for one in files)
