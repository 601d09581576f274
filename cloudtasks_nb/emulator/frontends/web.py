"""The HTTP face: health, leases, OpenID documents, REST and the endpoints for tests."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import orjson
from aiohttp import web

from cloudtasks_nb.emulator.api.engine import Call, Engine
from cloudtasks_nb.emulator.frontends.admin import Admin
from cloudtasks_nb.emulator.frontends.lease import Leases
from cloudtasks_nb.emulator.frontends.ports import cannot_listen
from cloudtasks_nb.emulator.frontends.rest import Rest

__all__ = ["Web"]

_MAX_BODY = 128 << 20  # a batch of a hundred tasks of one MiB, in base64


class Web:
    """The HTTP server of an emulator.

    Parameters
    ----------
    engine : Engine
        What it shows.
    calls : mapping
        The calls of the API by their full names, for REST.
    leases : Leases
        Answers ``GET /lease``.
    folder : Path
        Where snapshots are kept.
    instance : str
        The emulator's id, a header of every answer.
    """

    def __init__(self, engine: Engine, calls: Mapping[str, Call], leases: Leases, folder: Path, instance: str) -> None:
        self._engine = engine
        self._instance = instance
        self._app = web.Application(client_max_size=_MAX_BODY)
        add = self._app.router.add_get
        add("/health", self._health)
        add("/lease", leases.hold)
        add("/.well-known/openid-configuration", self._discovery)
        add("/oauth2/v3/certs", self._keys)
        add("/oauth2/v1/certs", self._certificates)
        self._app.add_routes(Admin(engine, folder).routes())
        self._app.add_routes(Rest(engine, calls, instance).routes())
        # Leases never end by themselves: do not wait for them.
        self._runner = web.AppRunner(self._app, access_log=None, shutdown_timeout=0.1)

    async def listen(self, host: str, port: int) -> int:
        """Begin to listen, and return the port.

        Raises
        ------
        PortInUseError
            If somebody else listens there.
        """
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, host, port).start()
        except OSError as error:
            raise cannot_listen(error, host, port, "--http-port") from error
        return int(self._runner.addresses[0][1])

    async def close(self) -> None:
        """Close all connections."""
        await self._runner.cleanup()

    async def _health(self, _: web.Request) -> web.Response:
        return _json({"status": "ok", "instance": self._instance})

    async def _discovery(self, request: web.Request) -> web.Response:
        return _json(self._engine.mint.discovery(str(request.url.origin())))

    async def _keys(self, _: web.Request) -> web.Response:
        return _json(self._engine.mint.keys())

    async def _certificates(self, _: web.Request) -> web.Response:
        return _json(self._engine.mint.certificates())


def _json(content: object) -> web.Response:
    return web.Response(body=orjson.dumps(content), content_type="application/json")
