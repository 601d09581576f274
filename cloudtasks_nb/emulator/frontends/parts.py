"""What an emulator is put together from; an emulator with ``--strict`` is put together from other parts."""

from __future__ import annotations

import ssl
from collections.abc import Collection, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
from aiohttp import web
from aiohttp.typedefs import Middleware

from cloudtasks_nb.emulator.api.engine import Call, Engine
from cloudtasks_nb.emulator.api.rpcs import all_calls
from cloudtasks_nb.emulator.dispatch.deliver import Deliverer
from cloudtasks_nb.emulator.dispatch.request import Authorize
from cloudtasks_nb.emulator.dispatch.tokens import TokenSigner
from cloudtasks_nb.emulator.frontends.console import Console
from cloudtasks_nb.emulator.frontends.rest import Rest
from cloudtasks_nb.emulator.model.settings import Settings
from cloudtasks_nb.emulator.store.store import Store

__all__ = ["Parts"]


class Parts:
    """The parts of an emulator without ``--strict``.

    Parameters
    ----------
    settings : Settings
        The options.
    folder : Path
        The data folder.
    store : Store
        Queues and tasks.
    """

    tls: ssl.SSLContext | None = None  #: of the HTTP server; None: it speaks without TLS
    credentials: grpc.ServerCredentials | None = None  #: the same of the gRPC server
    interceptors: Sequence[Any] = ()  #: of the gRPC server
    middlewares: Sequence[Middleware] = ()  #: of the HTTP server, before all others
    hosts: Collection[str] = ()  #: names of the HTTP server besides those that the settings name
    forms: Collection[str] = ()  #: paths of HTTP that take forms

    def __init__(self, settings: Settings, folder: Path, store: Store) -> None:
        self.settings = settings
        self.store = store
        self.tokens = TokenSigner(folder, settings.openid_issuer, key_file=settings.openid_signing_key)

    def authorize(self) -> Authorize:
        """Return what makes the `Authorization` header of a dispatch."""
        return self.tokens.authorize

    def deliverer(self) -> Deliverer:
        """Return what sends the requests of dispatches."""
        return Deliverer(self.settings)

    def engine(self, **parts: Any) -> Engine:
        """Return the engine of these parts."""
        return Engine(store=self.store, settings=self.settings, tokens=self.tokens, **parts)

    def calls(self, engine: Engine) -> dict[str, Call]:
        """Return every call by its full name."""
        return all_calls(engine)

    def routes(self, engine: Engine, rest: Rest) -> Sequence[web.RouteDef]:
        """Return the routes of HTTP besides those that every emulator has."""
        return Console(engine, rest.execute).routes()

    def reset(self) -> None:
        """Forget what ``/admin/reset`` forgets besides queues, tasks, the log and faults."""

    async def listen(self, endpoint: dict[str, Any], grpc_port: int, http_port: int, stack: AsyncExitStack) -> None:
        """Start further servers, which are closed with the stack, and add what the endpoint tells of them."""
