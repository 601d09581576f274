"""gRPC reflection, in its versions v1 and v1alpha: a client without proto files, such as grpcurl, asks for them.

https://grpc.io/docs/guides/reflection/; v1 and v1alpha have the same messages.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import Any

import grpc

from cloudtasks_nb.emulator.frontends.health import HEALTH, parsed_request
from cloudtasks_nb.emulator.model.apis import POOL
from cloudtasks_nb.emulator.model.protobuf import fields, int_field, len_field, payloads, read_varint, varint

__all__ = ["Reflection"]

_VERSIONS = ("v1", "v1alpha")
_NOT_FOUND, _INVALID = 5, 3
_EXTENSION = 2  # the number in a question about an extension
# Fields of the response.
_HOST, _REQUEST, _FILES, _NUMBERS, _SERVICES, _ERROR = 1, 2, 4, 5, 6, 7


class Reflection:
    """Answers the calls of the reflection service.

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
        return {f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo": handler for version in _VERSIONS}

    async def _answer_all(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for wire in requests:
            given = await parsed_request(wire, context)
            yield len_field(_HOST, given.get(1, b"")) + len_field(_REQUEST, wire) + self._answer(given)

    def _answer(self, given: dict[int, bytes]) -> bytes:
        """Return the answer to the one question of a request."""
        questions = {
            3: lambda name: _files(POOL.FindFileByName(name.decode())),
            4: lambda symbol: _files(self._file_of(symbol.decode())),
            5: lambda extension: _files(self._extension(extension).file),
            6: self._extension_numbers,
            7: self._list_services,
        }
        try:
            return next(answer(given[number]) for number, answer in questions.items() if number in given)
        except (KeyError, ValueError):
            return len_field(_ERROR, int_field(1, _NOT_FOUND) + len_field(2, b"not found"))
        except StopIteration:
            return len_field(_ERROR, int_field(1, _INVALID) + len_field(2, b"the request has no question"))

    def _file_of(self, symbol: str) -> Any:
        try:
            return POOL.FindFileContainingSymbol(symbol)
        except KeyError:  # protobuf finds no methods by it
            return POOL.FindMethodByName(symbol).containing_service.file

    def _extension(self, request: bytes) -> Any:
        extended = POOL.FindMessageTypeByName(payloads(request).get(1, b"").decode())
        number = next((read_varint(value, 0)[0] for field, _, value in fields(request) if field == _EXTENSION), 0)
        return POOL.FindExtensionByNumber(extended, number)

    def _extension_numbers(self, name: bytes) -> bytes:
        found = POOL.FindAllExtensions(POOL.FindMessageTypeByName(name.decode()))
        numbers = b"".join(varint(extension.number) for extension in found)
        return len_field(_NUMBERS, len_field(1, name) + len_field(2, numbers))

    def _list_services(self, _: bytes) -> bytes:
        return len_field(_SERVICES, b"".join(len_field(1, len_field(1, name.encode())) for name in self._services))


def _files(file: Any) -> bytes:
    """Answer with a file and all that it imports."""
    found: dict[str, bytes] = {}

    def collect(one: Any) -> None:
        if one.name not in found:
            found[one.name] = one.serialized_pb
            for imported in one.dependencies:
                collect(imported)

    collect(file)
    return len_field(_FILES, b"".join(len_field(1, content) for content in found.values()))
