"""What a gRPC client asks of any server: whether its services answer (health), and what they look like (reflection).

https://grpc.io/docs/guides/health-checking/ and https://grpc.io/docs/guides/reflection/. The versions v1 and v1alpha of
reflection have the same messages.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any, Final

import grpc
from google.protobuf.message import DecodeError

from cloudtasks_nb.emulator.model.apis import POOL, health, reflection

__all__ = ["HEALTH", "Health", "Reflection"]

#: The full name of the health service.
HEALTH: Final = "grpc.health.v1.Health"
_STATUS = health.HealthCheckResponse.ServingStatus.Value


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
        told = self._status() if known else _status("SERVICE_UNKNOWN")
        yield told  # the stop may come while this is sent
        await self._stop.wait()
        if known and told != self._status():
            yield self._status()

    def _status(self) -> bytes:
        return _status("NOT_SERVING" if self._stop.is_set() else "SERVING")


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


def _status(name: str) -> bytes:
    return bytes(health.HealthCheckResponse(status=_STATUS(name)).SerializeToString())


def _refuse(answer: Any, code: grpc.StatusCode, message: str) -> None:
    answer.error_response.error_code, answer.error_response.error_message = code.value[0], message


def _file_of(symbol: str) -> Any:
    try:
        return POOL.FindFileContainingSymbol(symbol)
    except KeyError:  # protobuf finds no methods by it
        return POOL.FindMethodByName(symbol).containing_service.file


def _add_files(answer: Any, file: Any) -> None:
    """Add a file, and all that it imports, to an answer."""
    files: dict[str, bytes] = {}

    def collect(one: Any) -> None:
        if one.name not in files:
            files[one.name] = one.serialized_pb
            for imported in one.dependencies:
                collect(imported)

    collect(file)
    answer.file_descriptor_response.file_descriptor_proto.extend(files.values())
