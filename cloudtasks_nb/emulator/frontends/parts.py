"""What an emulator is put together from; an emulator with ``--strict`` is put together from other parts."""

from __future__ import annotations

import ssl
from collections.abc import Collection, Sequence
from contextlib import AsyncExitStack
from functools import cached_property
from typing import Any

import grpc
from aiohttp import web
from aiohttp.typedefs import Middleware

from cloudtasks_nb.emulator.api.engine import Call, Engine
from cloudtasks_nb.emulator.api.rpcs import all_calls
from cloudtasks_nb.emulator.frontends.callers import Callers
from cloudtasks_nb.emulator.frontends.console import Console
from cloudtasks_nb.emulator.frontends.rest import Rest

__all__ = ["Parts"]


class Parts(Engine):
    """The parts of an emulator without ``--strict``; the parameters are those of `Engine`."""

    tls: ssl.SSLContext | None = None  #: of the HTTP server; None: it speaks without TLS
    credentials: grpc.ServerCredentials | None = None  #: the same of the gRPC server
    interceptors: Sequence[Any] = ()  #: of the gRPC server
    middlewares: Sequence[Middleware] = ()  #: of the HTTP server, before all others
    hosts: Collection[str] = ()  #: names of the HTTP server besides those that the settings name
    forms: Collection[str] = ()  #: paths of HTTP that take forms

    @cached_property
    def callers(self) -> Callers:
        """Who may call it."""
        return Callers(token=self.settings.token)

    def calls(self) -> dict[str, Call]:
        """Return every call by its full name."""
        return all_calls(self)

    def routes(self, rest: Rest) -> Sequence[web.RouteDef]:
        """Return the routes of HTTP besides those that every emulator has."""
        return Console(self, rest.execute).routes()

    def reset(self) -> None:
        """Forget what ``/admin/reset`` forgets besides queues, tasks, the log and faults."""

    async def listen(self, endpoint: dict[str, Any], grpc_port: int, http_port: int, stack: AsyncExitStack) -> None:
        """Start further servers, which are closed with the stack, and add what the endpoint tells of them."""
