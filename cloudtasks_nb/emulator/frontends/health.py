"""The gRPC health service: clients ask whether a service answers, or wait until it does not any more.

https://grpc.io/docs/guides/health-checking/
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any, Final

import grpc

from cloudtasks_nb.emulator.model.protobuf import int_field, len_field, payloads

__all__ = ["HEALTH", "Health", "parsed_request"]

#: The full name of the service.
HEALTH: Final = "grpc.health.v1.Health"

_SERVING, _NOT_SERVING, _SERVICE_UNKNOWN = 1, 2, 3


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
        service = await _service(wire, context)
        if service not in self._services:
            await context.abort(grpc.StatusCode.NOT_FOUND, f'The emulator has no service "{service}".')
        return self._status()

    async def _list(self, *_: Any) -> bytes:
        status = len_field(2, self._status())
        return b"".join(len_field(1, len_field(1, service.encode()) + status) for service in self._services)

    async def _watch(self, wire: bytes, context: Any) -> AsyncIterator[bytes]:
        known = await _service(wire, context) in self._services
        told = self._status() if known else int_field(1, _SERVICE_UNKNOWN)
        yield told  # the stop may come while this is sent
        await self._stop.wait()
        if known and told != self._status():
            yield self._status()

    def _status(self) -> bytes:
        return int_field(1, _NOT_SERVING if self._stop.is_set() else _SERVING)


async def parsed_request(wire: bytes, context: Any) -> dict[int, bytes]:
    """Return the fields of a request by their numbers; end a call whose request cannot be parsed."""
    try:
        return payloads(wire)
    except ValueError:
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "The request cannot be parsed.")
        raise


async def _service(wire: bytes, context: Any) -> str:
    """Return the name in a request."""
    return (await parsed_request(wire, context)).get(1, b"").decode(errors="replace")
