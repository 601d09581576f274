"""The parts of an emulator that stands for Google's hosts: with ``--proxy-port``, and with ``--strict``."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import orjson
from aiohttp import web

from cloudtasks_nb.emulator.api.engine import Call
from cloudtasks_nb.emulator.api.rpcs import all_calls
from cloudtasks_nb.emulator.dispatch.deliver import Deliverer
from cloudtasks_nb.emulator.dispatch.request import Authorize
from cloudtasks_nb.emulator.frontends.bodies import error_response
from cloudtasks_nb.emulator.frontends.http import host_and_port
from cloudtasks_nb.emulator.frontends.parts import Parts
from cloudtasks_nb.emulator.frontends.rest import Rest
from cloudtasks_nb.emulator.model.clock import SECOND, Clock
from cloudtasks_nb.emulator.model.refusal import invalid_argument
from cloudtasks_nb.emulator.model.settings import Settings
from cloudtasks_nb.emulator.store.store import Store
from cloudtasks_nb.emulator.strict.calls import CheckedTaskCalls, DatedCalls, checked, remember_headers
from cloudtasks_nb.emulator.strict.certificates import server_certificate, write_key
from cloudtasks_nb.emulator.strict.cloud_run import pass_on
from cloudtasks_nb.emulator.strict.control import AccessControl
from cloudtasks_nb.emulator.strict.delivery import StrictDeliverer, authorize_as
from cloudtasks_nb.emulator.strict.google import Google, key_file
from cloudtasks_nb.emulator.strict.iam import IamApi
from cloudtasks_nb.emulator.strict.metadata import MetadataServer
from cloudtasks_nb.emulator.strict.permissions import GOOGLE_HOSTS, RUN_HOSTS
from cloudtasks_nb.emulator.strict.proxy import Proxy

__all__ = ["GoogleParts", "StrictParts"]

_NO_CONSOLE = (
    "An emulator with --strict has no console, because each call needs a bearer token and a web page has none. "
    "Start an emulator without --strict to have one."
)


#: Whose key a program gets if nobody is refused.
_ACCOUNT = "emulator@local.iam.gserviceaccount.com"


class GoogleParts(Parts):
    """The parts of an emulator that is found at the names of Google's hosts; the parameters are those of `Parts`.

    It has TLS and a key of a service account, and refuses nobody.
    """

    hosts = GOOGLE_HOSTS
    forms = ("/token", "/v1/token")  # they change nothing, and take what a web page does not have

    def __init__(self, settings: Settings, folder: Path, store: Store, clock: Clock) -> None:
        names = (settings.host, *settings.allow_hosts, *GOOGLE_HOSTS, *RUN_HOSTS)
        self._folder = folder
        self._certificate = server_certificate(folder, names)
        self._access = AccessControl(folder, store)
        super().__init__(replace(settings, https_ca=settings.https_ca or self._certificate.ca), folder, store, clock)
        self.tls, self.credentials = self._certificate.context(), self._certificate.credentials()

    def routes(self, rest: Rest) -> Sequence[web.RouteDef]:
        """Return the routes of the console, and of Google's tokens."""
        return [*super().routes(rest), *Google(self._access, self.tokens).token_routes()]

    async def listen(self, endpoint: dict[str, Any], grpc_port: int, http_port: int, stack: AsyncExitStack) -> None:
        """Start the metadata server and the proxy, if they are wanted."""
        settings = self.settings
        endpoint |= {"strict": settings.strict, "ca": str(self._certificate.ca)}
        if settings.metadata_port is not None:
            server = MetadataServer(self._access, self.tokens)
            stack.push_async_callback(server.close)
            port = await server.listen(settings.host, settings.metadata_port)
            endpoint["metadata"] = host_and_port(settings.host, port)
        if not settings.strict:
            key = key_file(_ACCOUNT, *self._access.state.new_key(_ACCOUNT), f"{endpoint['http']}/token")
            endpoint["key"] = str(write_key(self._folder / "key.json", orjson.dumps(key)))
        if settings.proxy_port is not None:
            only = settings.strict or settings.host not in {"127.0.0.1", "::1", "localhost"}
            proxy = Proxy(settings.host, grpc_port, http_port, only=only)
            stack.push_async_callback(proxy.close)
            endpoint["proxy"] = f"http://{host_and_port(settings.host, await proxy.listen(settings.proxy_port))}"


class StrictParts(GoogleParts):
    """The parts of an emulator with ``--strict``; the parameters are those of `Parts`."""

    def __init__(self, settings: Settings, folder: Path, store: Store, clock: Clock) -> None:
        super().__init__(settings, folder, store, clock)
        store.unknown_location = _refuse_location
        self.interceptors = (DatedCalls(self),)
        self.middlewares = (pass_on(self._access, self.tokens), remember_headers)

    def authorize(self) -> Authorize:
        """Return what makes tokens of service accounts that exist."""
        return authorize_as(self._access.state, super().authorize())

    def deliverer(self) -> Deliverer:
        """Return what sends no request without its token, and none to a service that does not let it in."""
        return StrictDeliverer(self.settings, self._access, self.tokens)

    def date(self, ahead: int = 0) -> str:
        """Return the time by Google's clock."""
        return super().date(ahead + round(self._access.state.conditions.clock_offset_s * SECOND))

    def calls(self) -> dict[str, Call]:
        """Return every call; only some callers may make it."""
        calls = all_calls(self, partial(CheckedTaskCalls, self._access))
        return {name: checked(self._access, name, call) for name, call in calls.items()}

    def routes(self, rest: Rest) -> Sequence[web.RouteDef]:  # noqa: ARG002 - those of `Parts`
        """Return the routes of Google's other services, and the one that says why there is no console."""
        others = Google(self._access, self.tokens), IamApi(self._access, self.tokens)
        return [web.get("/", _no_console), *(route for one in others for route in one.routes())]

    def reset(self) -> None:
        """Forget principals, roles, and what is wrong with the project."""
        self._access.reset()


def _refuse_location(location: str) -> None:
    raise invalid_argument(f"Location '{location}' is not a valid location. Use ListLocations to list valid locations.")


async def _no_console(request: web.Request) -> web.Response:
    if "text/html" not in request.headers.get("Accept", ""):
        raise web.HTTPNotFound
    return error_response(404, _NO_CONSOLE)
