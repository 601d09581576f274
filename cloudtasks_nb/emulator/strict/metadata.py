"""The metadata server of a machine of Google, such as a Workbench notebook (``--metadata-port``).

https://cloud.google.com/compute/docs/metadata/predefined-metadata-keys
"""

from __future__ import annotations

from typing import Any

from aiohttp import web

from cloudtasks_nb.emulator.dispatch.tokens import TokenSigner
from cloudtasks_nb.emulator.frontends.bodies import json_response
from cloudtasks_nb.emulator.frontends.guard import guard
from cloudtasks_nb.emulator.frontends.http import listen
from cloudtasks_nb.emulator.strict.control import AccessControl
from cloudtasks_nb.emulator.strict.state import member_of

__all__ = ["MetadataServer"]

_NAMES = ("metadata.google.internal", "metadata")  # of Google's, which a machine may lead here
_FLAVOR = {"Metadata-Flavor": "Google"}
_ROOT = "/computeMetadata/v1"
_ACCOUNT = f"{_ROOT}/instance/service-accounts/{{account}}"


class MetadataServer:
    """Answers the requests to the metadata server.

    Parameters
    ----------
    access : AccessControl
        Makes access tokens; its conditions name the machine's service account.
    signer : TokenSigner
        Makes OIDC tokens.
    """

    def __init__(self, access: AccessControl, signer: TokenSigner) -> None:
        self._access = access
        self._signer = signer
        self._runner: web.AppRunner | None = None

    async def listen(self, host: str, port: int) -> int:
        """Start to listen, without TLS as Google's, and return the port.

        Raises
        ------
        PortInUseError
            If another program listens there.
        """
        application = web.Application(middlewares=[guard((host, *_NAMES)), _check])
        application.add_routes(
            [
                web.get("/", self._root),
                web.get(f"{_ROOT}/project/project-id", self._project),
                web.get(f"{_ROOT}/universe/universe-domain", self._universe),
                web.get(f"{_ACCOUNT}/", self._account),
                web.get(f"{_ACCOUNT}/token", self._token),
                web.get(f"{_ACCOUNT}/identity", self._identity),
            ]
        )
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        return await listen(self._runner, host, port, "--metadata-port")

    async def close(self) -> None:
        """Close all connections."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _root(self, _: web.Request) -> web.Response:
        return web.Response(text="computeMetadata/\n")

    async def _project(self, _: web.Request) -> web.Response:
        return web.Response(text=self._email().partition("@")[2].partition(".")[0])

    async def _universe(self, _: web.Request) -> web.Response:
        return web.Response(text="googleapis.com")

    async def _account(self, _: web.Request) -> web.Response:
        account: dict[str, Any] = {"aliases": ["default"], "email": self._email(), "scopes": self._scopes()}
        return json_response(200, account)

    async def _token(self, request: web.Request) -> web.Response:
        scopes = request.query.get("scopes", "").split(",")
        token, lifetime = self._access.tokens.issue(
            member_of(self._email()), set(scopes) & set(self._scopes()) or self._scopes()
        )
        return json_response(200, {"access_token": token, "expires_in": lifetime, "token_type": "Bearer"})

    async def _identity(self, request: web.Request) -> web.Response:
        if "audience" not in request.query:
            return web.Response(status=400, text="non-empty audience parameter required\n")
        return web.Response(text=self._signer.id_token(self._email(), request.query["audience"]))

    def _email(self) -> str:
        email = self._access.state.conditions.machine
        if not email:
            raise web.HTTPNotFound(text="The machine has no service account.\n")
        return email

    def _scopes(self) -> list[str]:
        return self._access.state.conditions.machine_scopes


@web.middleware
async def _check(request: web.Request, handler: Any) -> web.StreamResponse:
    """Refuse requests without the header that no page of another site can send, and those through a proxy."""
    if request.headers.get("Metadata-Flavor") != "Google" or "X-Forwarded-For" in request.headers:
        answer: web.StreamResponse = web.Response(status=403, text="Missing Metadata-Flavor:Google header.\n")
    else:
        answer = await handler(request)
    answer.headers.update(_FLAVOR)
    return answer
